//! A clean stop: outputs are safe, everybody is told, and it ends.

use std::time::Duration;

use fieldgate::gateway::STOP_TIMEOUT;
use fieldgate::gateway::boundary::Input;

use crate::house::{House, Q1, SHED, V4, V5};

/// Before the end of a stop's time.
const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn outputs_are_safe_first_then_everybody_is_told() {
    let mut house = House::new();
    let five = house.listener("five", "shed/#");
    let three = house.client(V4, "three");
    house.publish(three, Q1, "shed/relay/lamp/set", "on");
    house.publish(three, Q1, "shed/relay/fan/set", "off");
    assert_eq!(house.levels(), [(17, true), (27, false)].into());
    for conn in [five, three] {
        house.read_all(conn);
    }
    house.take_said();
    house.input(Input::Stop);
    assert_eq!(house.levels(), [(17, false), (27, true)].into());
    let said = house.take_said();
    let place = |what: &str| {
        let place = said.iter().position(|said| said.starts_with(what));
        place.unwrap_or_else(|| panic!("no `{what}` in {said:?}"))
    };
    let close = place("close ");
    assert!(place("unlisten ") < close);
    assert!(place("set 17 false") < close);
    assert!(place("set 27 true") < close);
    assert_eq!(said.last().map(String::as_str), Some("stopped"));
    assert_eq!(said.iter().filter(|said| *said == "stopped").count(), 1);

    let told = house.read_all(five);
    let place = |what: &str| {
        let place = told.iter().position(|told| told == what);
        place.unwrap_or_else(|| panic!("no `{what}` in {told:?}"))
    };
    let offline = place("PUBLISH shed/gateway/state = offline");
    assert!(place("PUBLISH shed/relay/lamp = false") < told.len());
    assert!(place("PUBLISH shed/room/availability = offline") < told.len());
    // Server shutting down; nothing follows it.
    assert_eq!(told.last().map(String::as_str), Some("DISCONNECT 0x8b"));
    assert!(offline < place("DISCONNECT 0x8b"));
    // 3.1.1 has no word for it.
    assert_eq!(house.read_all(three), [""; 0]);
    assert!(
        said.contains(&format!("close {} after flush", 1)),
        "{said:?}"
    );
}

#[test]
fn a_second_stop_changes_nothing() {
    let mut house = House::new();
    house.holds_lines = true;
    house.input(Input::Stop);
    house.take_said();
    house.input(Input::Stop);
    assert_eq!(house.take_said(), [""; 0]);
}

#[test]
fn an_output_that_does_not_answer_is_waited_for_but_not_for_ever() {
    let mut house = House::new();
    let client = house.client(V5, "client");
    house.publish(client, Q1, "shed/relay/lamp/set", "on");
    house.read_all(client);
    house.holds_lines = true;
    house.take_said();
    house.input(Input::Stop);
    house.wait(STOP_TIMEOUT.saturating_sub(MOMENT));
    let said = house.take_said();
    assert!(said.contains(&"set 17 false".to_owned()), "{said:?}");
    assert!(!said.contains(&"stopped".to_owned()), "{said:?}");
    // Clients have been told all the same.
    assert_eq!(house.read_all(client), ["DISCONNECT 0x8b"]);
    house.wait(MOMENT);
    assert_eq!(house.take_said(), ["stopped"]);
    house.wait(Duration::from_secs(60));
    assert_eq!(house.take_said(), [""; 0], "once");
}

#[test]
fn a_client_that_does_not_go_is_not_waited_for_either() {
    let mut house = House::new();
    house.client(V5, "client");
    house.holds_closes = true;
    house.take_said();
    house.input(Input::Stop);
    house.wait(STOP_TIMEOUT.saturating_sub(MOMENT));
    assert!(!house.take_said().contains(&"stopped".to_owned()));
    house.wait(MOMENT);
    assert_eq!(house.take_said(), ["stopped"]);
}

#[test]
fn requests_end_with_the_stop_and_later_ones_are_refused() {
    let mut house = House::new();
    house.holds_bus = true;
    house.holds_closes = true;
    let client = house.client(V5, "client");
    house.ask(1, r#"{"verb":"read","point":"room/temperature"}"#);
    house.take_said();
    house.input(Input::Stop);
    let answers = house.take_answers();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let error = answers[0].1["error"].as_str().unwrap();
    assert!(error.starts_with("stopping: "), "{error}");
    let answer = house.answer(r#"{"verb":"set","point":"relay/lamp","value":true}"#);
    let error = answer["error"].as_str().unwrap();
    assert!(error.starts_with("stopping: "), "{error}");
    assert!(!house.levels()[&17]);
    assert_eq!(house.read_all(client), ["DISCONNECT 0x8b"]);
}

#[test]
fn a_configuration_that_comes_during_the_stop_opens_nothing_again() {
    let mut house = House::new();
    house.holds_lines = true;
    house.ask(1, r#"{"verb":"reload"}"#);
    house.input(Input::Stop);
    house.take_said();
    let other = format!("[listener.other]\nbind = \"127.0.0.1:3\"\n{SHED}");
    house.loaded(Ok(&other));
    assert_eq!(
        house.take_said(),
        [r#"to 1: {"status":"error","error":"the gateway is stopping"}"#]
    );
    house.wait(STOP_TIMEOUT);
    assert_eq!(house.take_said(), ["stopped"]);
}
