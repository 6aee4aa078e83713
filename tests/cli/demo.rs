//! `demo`: the whole way from a command in MQTT to a foreign device behind a pty, and back.

use crate::support::{Running, fieldgate, free_port};

#[test]
fn the_demo_shows_the_plant_and_switches_its_pump() {
    let port = free_port().to_string();
    let mut demo = Running::start(&["demo", "--port", &port]);
    demo.wait_for(&format!("mosquitto_sub -p {port} -v -t 'demo/#'"));
    demo.wait_for(&format!(
        "mosquitto_pub -p {port} -t demo/plant/pump/set -m on"
    ));
    demo.wait_for("demo/machine/load ");
    demo.wait_for("demo/plant/level 6");
    demo.wait_for("demo/plant/pump false");

    let mut sub = Running::start(&[
        "sub",
        "-d",
        "-p",
        &port,
        "-t",
        "demo/plant/pump/result",
        "-C",
        "1",
    ]);
    sub.wait_for_err("subscribed");
    let set = [
        "pub",
        "-p",
        &port,
        "-t",
        "demo/plant/pump/set",
        "-m",
        "on",
        "-q",
        "1",
    ];
    assert_eq!(fieldgate(&set).code, Some(0));
    let answer: serde_json::Value = serde_json::from_str(&sub.end().out).unwrap();
    assert_eq!(answer["status"], "ok", "{answer}");
    assert_eq!(answer["value"], true);
    assert_eq!(answer["simulated"], true);
    // Not an echo of the command: the plant itself says that its pump runs.
    demo.wait_for("demo/plant/pump true");

    demo.signal("INT");
    let ended = demo.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.ends_with("offline\n"), "{}", ended.out);
}

#[test]
fn values_carry_unit_quality_and_that_they_are_simulated() {
    let port = free_port().to_string();
    let mut demo = Running::start(&["demo", "--port", &port]);
    demo.wait_for("demo/plant/level/quality good");
    let heard = fieldgate(&[
        "sub",
        "-p",
        &port,
        "-V",
        "5",
        "-t",
        "demo/plant/level",
        "-C",
        "1",
        "-F",
        "%P",
    ]);
    assert_eq!(heard.code, Some(0), "{}", heard.err);
    for wanted in ["unit:%", "quality:good", "simulated:true", "seq:", "time:"] {
        assert!(heard.out.contains(wanted), "{}", heard.out);
    }
    let refused = fieldgate(&[
        "pub",
        "-p",
        &port,
        "-V",
        "5",
        "-t",
        "demo/plant/level",
        "-m",
        "99",
        "-q",
        "1",
    ]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("Not authorized"), "{}", refused.err);
}

#[test]
fn a_port_that_is_in_use_is_passed_over_or_refused_by_name() {
    // The demo that was here first has whatever port it found; another one finds another.
    let mut first = Running::start(&["demo"]);
    let line = first.wait_for("an MQTT broker at");
    let port = port_of(&line);
    // What it shows came through its broker, so that is there.
    first.wait_for("demo/gateway/state online");
    let mut second = Running::start(&["demo"]);
    let other = port_of(&second.wait_for("an MQTT broker at"));
    assert_ne!(port, other);
    let refused = fieldgate(&["demo", "--port", &port.to_string()]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("cannot be used"), "{}", refused.err);
}

fn port_of(line: &str) -> u16 {
    let behind = line.split("127.0.0.1:").nth(1).unwrap();
    behind.split(',').next().unwrap().parse().unwrap()
}
