//! A reload is a difference: what did not change is not touched.

use fieldgate::gateway::boundary::{CloseCause, Input};
use fieldgate::mqtt::Packet;

use crate::house::{House, Q1, SHED, V4, V5};

/// [`SHED`], with something else in it.
fn changed(from: &str, to: &str) -> String {
    assert!(SHED.contains(from), "{from}");
    SHED.replace(from, to)
}

#[test]
fn an_equal_configuration_touches_nothing() {
    let mut house = House::new();
    let watcher = house.listener("watcher", "#");
    house.take_said();
    house.reload(SHED);
    assert_eq!(house.take_said(), ["reloading", "reloaded"]);
    assert_eq!(house.read_all(watcher), [""; 0]);
}

#[test]
fn an_unchanged_output_is_not_touched_while_its_neighbours_are() {
    let mut house = House::new();
    let client = house.client(V5, "client");
    house.publish(client, Q1, "shed/relay/lamp/set", "on");
    assert_eq!(house.levels(), [(17, true), (27, true)].into());
    house.take_said();
    house.reload(&changed("address = 0x48", "address = 0x49"));
    let said = house.take_said();
    assert!(
        !said.iter().any(|said| {
            let word = said.split(' ').next().unwrap_or_default();
            matches!(word, "request" | "set" | "release")
        }),
        "{said:?}"
    );
    assert_eq!(house.levels(), [(17, true), (27, true)].into());
    // The bus that the thermometer had is still needed by the one that replaces it.
    assert!(!said.iter().any(|said| said.ends_with(" bus")), "{said:?}");
}

#[test]
fn how_a_point_is_published_changes_without_its_device() {
    let mut house = House::new();
    let client = house.client(V5, "client");
    house.publish(client, Q1, "shed/relay/lamp/set", "on");
    house.take_said();
    let text = changed(
        "line = 17",
        "line = 17\nbooleans = [\"OFF\", \"ON\"]\ntopic = \"shed/lights/lamp\"",
    );
    house.reload(&text);
    assert_eq!(house.take_said(), ["reloading", "reloaded"]);
    let found = house.retained("shed/#");
    assert_eq!(found["shed/lights/lamp"], "ON");
    assert!(!found.contains_key("shed/relay/lamp"), "{found:?}");
    // Its commands have moved along, and are obeyed once.
    house.publish(client, Q1, "shed/relay/lamp/set", "off");
    assert!(house.levels()[&17]);
    house.publish(client, Q1, "shed/lights/lamp/set", "off");
    assert!(!house.levels()[&17]);
}

#[test]
fn an_output_that_changes_goes_through_its_safe_state() {
    let mut house = House::new();
    let client = house.client(V5, "client");
    house.publish(client, Q1, "shed/relay/lamp/set", "on");
    house.take_said();
    house.reload(&changed("line = 17", "line = 18"));
    let said = house.take_said();
    let place = |what: &str| {
        let place = said.iter().position(|said| said == what);
        place.unwrap_or_else(|| panic!("no `{what}` in {said:?}"))
    };
    assert!(place("set 17 false") < place("release 17"));
    assert!(place("release 17") < place("request 18 Some(false)"));
    assert_eq!(house.levels(), [(18, false), (27, true)].into());
}

#[test]
fn what_was_retained_of_a_renamed_device_is_cleared() {
    let mut house = House::new();
    let before = house.retained("shed/room/#");
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        [
            "shed/room/availability",
            "shed/room/temperature",
            "shed/room/temperature/quality",
        ]
    );
    let watcher = house.listener("watcher", "shed/room/#");
    house.reload(&changed("[device.room]", "[device.hall]"));
    house.wait(std::time::Duration::from_secs(5));
    let mut cleared = house.read_values(watcher);
    cleared.sort();
    for topic in before.keys() {
        assert!(
            cleared.contains(&format!("{topic} = ")),
            "{topic}: {cleared:?}"
        );
    }
    assert_eq!(house.retained("shed/room/#"), [].into());
    let hall = house.retained("shed/hall/#");
    assert_eq!(hall["shed/hall/temperature"], "21");
    assert_eq!(hall["shed/hall/availability"], "online");
}

#[test]
fn listeners_open_stay_and_close_and_connections_outlive_theirs() {
    let listeners = |binds: [&str; 2]| {
        format!(
            "[listener.a]\nbind = \"{}\"\n[listener.b]\nbind = \"{}\"\n{SHED}",
            binds[0], binds[1]
        )
    };
    let mut house = House::with(&listeners(["127.0.0.1:1", "127.0.0.1:2"]));
    // Through the first of them.
    let client = house.client(V5, "client");
    house.take_said();
    house.reload(&listeners(["127.0.0.1:3", "127.0.0.1:2"]));
    let said = house.take_said();
    assert_eq!(
        said,
        [
            "reloading",
            "unlisten 127.0.0.1:1",
            "listen 127.0.0.1:3",
            "reloaded"
        ]
    );
    house.send(client, &Packet::Pingreq);
    assert_eq!(house.read_all(client), ["Pingresp"]);
    // A socket stays open when only what goes through it changes.
    let changed = listeners(["127.0.0.1:3", "127.0.0.1:2\"\nprotocols = \"websocket"]);
    house.reload(&changed);
    assert_eq!(
        house.take_said(),
        ["reloading", "retune 127.0.0.1:2", "reloaded"]
    );
    house.reload(&changed);
    assert_eq!(house.take_said(), ["reloading", "reloaded"]);
}

#[test]
fn a_listener_that_sends_its_clients_elsewhere_tells_those_that_are_there() {
    let listeners = |redirect: &str| {
        format!(
            "[listener.a]\nbind = \"127.0.0.1:1\"\n{redirect}\n\
             [listener.b]\nbind = \"127.0.0.1:2\"\n{SHED}"
        )
    };
    let elsewhere = |permanent: bool| {
        let to = "to = [\"new.example:1883\", \"10.0.0.2\"]";
        listeners(&format!("redirect = {{ {to}, permanent = {permanent} }}"))
    };
    let mut house = House::with(&listeners(""));
    // Through the first of them, and one that has not said CONNECT.
    let client = house.client(V5, "client");
    let old = house.client(V4, "old");
    house.reload(&elsewhere(true));
    assert_eq!(
        house.read_all(client),
        ["DISCONNECT Server moved new.example:1883 10.0.0.2"]
    );
    assert_eq!(house.read_all(old), [""; 0]);
    let late = house.dial(V5, "client");
    assert_eq!(house.read_all(late), ["CONNACK Server moved"]);
    house.reload(&elsewhere(false));
    let late = house.dial(V5, "client");
    assert_eq!(house.read_all(late), ["CONNACK Use another server"]);
    house.take_said();
    house.reload(&listeners(""));
    assert_eq!(
        house.take_said(),
        ["reloading", "reloaded"],
        "no socket is touched"
    );
    house.client(V5, "client");
}

#[test]
fn a_refused_configuration_leaves_the_running_one() {
    let mut house = House::new();
    let watcher = house.listener("watcher", "shed/#");
    house.take_said();
    house.ask(3, r#"{"verb":"reload","transaction":7}"#);
    assert_eq!(house.take_said(), ["load"]);
    house.loaded(Err("shed.toml:1:1: unknown key"));
    assert_eq!(
        house.take_said(),
        [r#"to 3: {"status":"error","error":"shed.toml:1:1: unknown key","transaction":7}"#]
    );
    let reason = ["shed/gateway/health/reloads_refused = 1"];
    assert_eq!(house.read_values(watcher), reason);
    let status = house.answer(r#"{"verb":"status"}"#);
    assert_eq!(status["data"]["gateway"]["reloads_refused"], 1);
    assert_eq!(status["data"]["gateway"]["reloads"], 0);
    house.ask(3, r#"{"verb":"reload","transaction":8}"#);
    house.take_said();
    house.loaded(Ok(SHED));
    assert_eq!(
        house.take_said(),
        [
            "reloading",
            "reloaded",
            r#"to 3: {"status":"ok","transaction":8}"#
        ]
    );
}

#[test]
fn another_base_topic_takes_everything_along() {
    let mut house = House::new();
    let client = house.client(V5, "client");
    let before = house.retained("shed/#");
    house.reload(&changed(
        "name = \"shed\"",
        "name = \"shed\"\nbase_topic = \"barn/1\"",
    ));
    house.wait(std::time::Duration::from_secs(5));
    assert_eq!(house.retained("shed/#"), [].into());
    let after = house.retained("barn/1/#");
    let moved: Vec<_> = before
        .keys()
        .map(|topic| topic.replace("shed/", "barn/1/"))
        .collect();
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        moved.iter().collect::<Vec<_>>()
    );
    // Nobody may speak for the gateway at its new place, and everybody may at the old one.
    house.publish(client, Q1, "barn/1/relay/lamp", "true");
    assert_eq!(house.read_all(client), ["PUBACK 0x87"]);
    house.publish(client, Q1, "shed/relay/lamp", "true");
    assert_eq!(house.read_all(client), ["PUBACK 0x10"]);
    house.publish(client, Q1, "barn/1/relay/lamp/set", "on");
    assert!(house.levels()[&17]);
    house.input(Input::Closed {
        conn: client,
        cause: CloseCause::Peer,
    });
}

#[test]
fn a_command_under_way_has_one_answer_when_its_device_changes() {
    let mut house = House::new();
    house.holds_lines = true;
    let watcher = house.listener("watcher", "shed/relay/lamp/result");
    house.ask(1, r#"{"verb":"set","point":"relay/lamp","value":true}"#);
    assert_eq!(house.take_answers(), []);
    house.holds_lines = false;
    house.reload(&changed("line = 17", "line = 18"));
    house.wait(std::time::Duration::from_secs(60));
    let answers = house.take_answers();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(house.read_values(watcher).len(), 1);
    assert_eq!(house.levels(), [(18, false), (27, true)].into());
}

#[test]
fn a_point_that_goes_ends_its_commands() {
    let mut house = House::new();
    house.holds_bus = true;
    house.ask(1, r#"{"verb":"read","point":"room/temperature"}"#);
    house.take_said();
    let room = SHED.find("[device.room]").unwrap();
    let relay = SHED.find("[device.relay]").unwrap();
    house.reload(&format!("{}{}", &SHED[..room], &SHED[relay..]));
    let answers = house.take_answers();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let error = answers[0].1["error"].as_str().unwrap();
    assert!(error.starts_with("refused: "), "{error}");
    let found = house.answer(r#"{"verb":"read","point":"room/temperature"}"#);
    assert_eq!(found["status"], "error");
}

#[test]
fn a_listener_lets_in_as_many_as_it_says_and_counts_those_that_are_left() {
    let one = "[listener.local]\nbind = \"127.0.0.1:1883\"\nmax_connections = 1\n";
    let mut house = House::with(one);
    let first = house.client(V5, "first");
    let second = house.dial(V5, "second");
    let refused = house.read_all(second);
    assert!(refused[0].contains("Quota exceeded"), "{refused:?}");
    house.input(Input::Closed {
        conn: first,
        cause: CloseCause::Peer,
    });
    house.client(V5, "third");
}
