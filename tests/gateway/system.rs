//! `$SYS`: there for whoever looks, and nothing for nobody.

use std::time::Duration;

use fieldgate::gateway::boundary::{CloseCause, Input};

use crate::house::{House, Q1, SHED, V5};

const INTERVAL: Duration = Duration::from_secs(10);

#[test]
fn nothing_is_published_or_awaited_while_nobody_looks() {
    let mut house = House::new();
    // Wildcards do not reach into `$SYS`.
    let everything = house.listener("everything", "#");
    let sent = |house: &mut House| {
        let status = house.answer(r#"{"verb":"status"}"#);
        status["data"]["broker"]["retained"].as_u64().unwrap()
    };
    let before = sent(&mut house);
    assert!(!house.has_own_deadline());
    house.half_degrees = Some(42);
    house.wait(Duration::from_secs(120));
    assert!(!house.has_own_deadline());
    assert_eq!(sent(&mut house), before);
    let heard = house.read_values(everything);
    assert!(!heard.iter().any(|line| line.starts_with('$')), "{heard:?}");
}

#[test]
fn a_subscriber_finds_the_present_values_at_once() {
    let mut house = House::new();
    let publisher = house.client(V5, "publisher");
    let lurker = house.listener("lurker", "news/#");
    for number in 0..3 {
        house.publish(publisher, Q1, "news/1", &number.to_string());
    }
    house.read_all(lurker);
    let found = house.retained("$SYS/#");
    let value = |name: &str| {
        let topic = format!("$SYS/broker/{name}");
        let value = found.get(&topic);
        value.map_or_else(|| panic!("no {topic}: {found:?}"), String::as_str)
    };
    assert_eq!(
        value("version"),
        concat!("fieldgate version ", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(value("uptime"), "5 seconds");
    // Publisher, lurker, and the one that looks.
    assert_eq!(value("clients/connected"), "3");
    assert_eq!(value("clients/total"), "3");
    assert_eq!(value("clients/disconnected"), "0");
    assert_eq!(value("clients/maximum"), "3");
    assert_eq!(value("clients/expired"), "0");
    assert_eq!(value("publish/messages/received"), "3");
    assert_eq!(value("publish/messages/dropped"), "0");
    // 3 CONNECT, 2 SUBSCRIBE, 3 PUBLISH in; 3 CONNACK, 2 SUBACK, 3 PUBLISH, 3 PUBACK out.
    assert_eq!(value("messages/received"), "8");
    assert_eq!(value("messages/sent"), "11");
    assert_eq!(value("publish/messages/sent"), "3");
    let number = |name| value(name).parse::<u64>().unwrap();
    assert!(number("bytes/received") > 50);
    assert!(number("bytes/sent") > 50);
    assert!(number("heap/current") > 0);
    assert!(number("heap/maximum") >= number("heap/current"));
    assert!(number("retained messages/count") > 0);
    // Those of the gateway itself, and two.
    assert_eq!(number("subscriptions/count"), 1 + 3 * 2 + 2);
    for load in ["load/sockets/1min", "load/bytes/received/15min"] {
        assert!(value(load).parse::<f64>().unwrap() > 0.0, "{load}");
    }
    // The next one finds what is true then.
    house.wait(Duration::from_secs(3));
    assert_eq!(
        house.retained("$SYS/broker/uptime"),
        [("$SYS/broker/uptime".into(), "8 seconds".into())].into()
    );
}

#[test]
fn what_changes_is_published_at_the_interval_for_as_long_as_somebody_looks() {
    let mut house = House::new();
    let watcher = house.listener("watcher", "$SYS/broker/uptime");
    let version = house.listener("version", "$SYS/broker/version");
    house.wait(INTERVAL);
    assert_eq!(
        house.read_values(watcher),
        ["$SYS/broker/uptime = 15 seconds"]
    );
    house.wait(INTERVAL);
    assert_eq!(
        house.read_values(watcher),
        ["$SYS/broker/uptime = 25 seconds"]
    );
    assert_eq!(house.read_values(version), [""; 0], "it has not changed");
    house.unsubscribe(watcher, "$SYS/broker/uptime");
    house.wait(INTERVAL);
    assert_eq!(house.read_all(watcher), ["UNSUBACK"]);
    house.unsubscribe(version, "$SYS/broker/version");
    house.wait(INTERVAL);
    assert!(!house.has_own_deadline(), "the last look has ended it");
    // And it begins again.
    house.subscribe(watcher, "$SYS/broker/uptime");
    assert_eq!(
        house.read_all(watcher),
        [
            "SUBACK",
            "PUBLISH $SYS/broker/uptime = (retained) 45 seconds"
        ]
    );
}

#[test]
fn who_comes_in_between_does_not_take_news_from_the_others() {
    let mut house = House::new();
    let first = house.listener("first", "$SYS/broker/clients/connected");
    house.wait(Duration::from_secs(4));
    let second = house.client(V5, "second");
    house.subscribe(second, "$SYS/broker/clients/connected");
    assert_eq!(
        house.read_all(second),
        [
            "SUBACK",
            "PUBLISH $SYS/broker/clients/connected = (retained) 2"
        ]
    );
    house.wait(Duration::from_secs(6));
    let told = ["$SYS/broker/clients/connected = 2"];
    assert_eq!(house.read_values(first), told);
}

#[test]
fn it_can_be_switched_off_and_on() {
    let off = format!("[broker]\nsys_interval = \"off\"\n{SHED}");
    let mut house = House::with(&off);
    let watcher = house.client(V5, "watcher");
    house.subscribe(watcher, "$SYS/#");
    assert_eq!(house.read_all(watcher), ["SUBACK"]);
    house.wait(INTERVAL * 3);
    assert_eq!(house.read_all(watcher), [""; 0]);
    house.reload(&format!("[broker]\nsys_interval = \"2s\"\n{SHED}"));
    house.wait(Duration::from_secs(2));
    let told = house.read_values(watcher);
    assert!(
        told.contains(&"$SYS/broker/uptime = 37 seconds".to_owned()),
        "{told:?}"
    );
    house.reload(&off);
    house.read_all(watcher);
    house.wait(INTERVAL);
    assert_eq!(house.read_all(watcher), [""; 0]);
}

#[test]
fn who_looks_is_told_at_once_whether_a_bridge_is_up() {
    const BRIDGED: &str = r#"
[gateway]
name = "shed"
[bridge.cloud]
url = "mqtt://cloud.example"
state_topic = ""
[[bridge.cloud.send]]
filter = "plant/#"
"#;
    let topic = "$SYS/broker/connection/cloud/state";
    let mut house = House::with(BRIDGED);
    let found = |house: &mut House| house.retained("$SYS/broker/connection/#");
    assert_eq!(
        found(&mut house),
        [(topic.to_owned(), "0".to_owned())].into()
    );
    // Nobody looks now.
    house.wait(INTERVAL * 2);
    let conn = house.let_bridge_in(V5);
    assert_eq!(
        found(&mut house),
        [(topic.to_owned(), "1".to_owned())].into()
    );
    let watcher = house.listener("watcher", "$SYS/broker/connection/+/state");
    house.input(Input::Closed {
        conn,
        cause: CloseCause::Peer,
    });
    assert_eq!(house.read_values(watcher), [format!("{topic} = 0")]);
    house.wait(Duration::from_secs(1));
    house.let_bridge_in(V5);
    assert_eq!(house.read_values(watcher), [format!("{topic} = 1")]);
    house.reload(&BRIDGED.replace("bridge.cloud", "bridge.other"));
    let said = house.read_values(watcher);
    assert_eq!(
        said,
        [
            format!("{topic} = "),
            "$SYS/broker/connection/other/state = 0".to_owned()
        ]
    );
    assert_eq!(found(&mut house).len(), 1);
}
