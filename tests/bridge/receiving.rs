//! What comes down: subscriptions, topics, acknowledgements, and commands that come late.

use super::house::*;
use fieldgate::bridge::settings::{Queued, Settings};
use fieldgate::broker::settings::Settings as BrokerSettings;
use fieldgate::mqtt::{ApplicationMessage, ConnackProperties, Packet, Publish, QoS, ReasonCode};
use fieldgate::time::Duration;

fn commands() -> Settings {
    let mut rules = settings();
    rules.receive = vec![
        receive_rule("plants/shed/#", Some("shed/#"), Q1),
        receive_rule("plants/shed/+/+/set", Some("shed/+/+/set"), Q1),
    ];
    rules
}

fn arrive(rig: &mut Rig, topic: &str, payload: &str, qos: QoS, id: u16) {
    rig.receive(&Packet::Publish(publish(topic, payload, qos, id)));
}

fn topics(rig: &Rig) -> Vec<&str> {
    rig.published
        .iter()
        .map(ApplicationMessage::topic)
        .collect()
}

#[test]
fn a_session_that_the_peer_kept_is_not_subscribed_again_and_one_that_it_lost_is() {
    let mut rig = Rig::new(commands());
    rig.open();
    rig.packets();
    rig.connack(false, ConnackProperties::default());
    let subscribe = rig.packets();
    let reasons = [ReasonCode::GrantedQos1, ReasonCode::NotAuthorized];
    rig.receive(&suback(id_of(&subscribe[0]), &reasons));
    assert_eq!(rig.bridge.stats().subscriptions_refused, 1);
    rig.cut(false);
    rig.pause();
    // Only the one that was refused is asked for again.
    rig.open();
    rig.packets();
    rig.connack(true, ConnackProperties::default());
    let again = rig.packets();
    let Ok(Packet::Subscribe(request)) = Packet::parse(V5, &again[0]) else {
        panic!("no SUBSCRIBE");
    };
    let filters: Vec<_> = request
        .requests
        .iter()
        .map(|it| it.filter.as_str())
        .collect();
    assert_eq!(filters, ["plants/shed/+/+/set"]);
    rig.receive(&suback(id_of(&again[0]), &[ReasonCode::GrantedQos1]));
    rig.cut(false);
    rig.pause();
    rig.connect_with(true, ConnackProperties::default());
    assert!(rig.packets().is_empty());
    // A rule that goes is unsubscribed, one that comes subscribed.
    let mut other = commands();
    other.receive.remove(0);
    other.receive.push(receive_rule("news/#", None, Q0));
    rig.bridge.reconfigure(rig.now, other).unwrap();
    rig.turn();
    let kinds: Vec<_> = rig.packets().iter().map(|packet| packet[0] >> 4).collect();
    assert_eq!(kinds, [10, 8]);
    rig.cut(false);
    rig.pause();
    rig.open();
    rig.packets();
    rig.connack(false, ConnackProperties::default());
    let packets = rig.packets();
    let Ok(Packet::Subscribe(request)) = Packet::parse(V5, &packets[0]) else {
        panic!("no SUBSCRIBE");
    };
    assert_eq!(request.requests.iter().count(), 2);
}

#[test]
fn the_first_rule_that_may_take_a_message_does() {
    let mut rig = Rig::new(commands());
    rig.connect();
    arrive(&mut rig, "plants/shed/pump/running", "true", Q0, 0);
    arrive(&mut rig, "plants/shed/pump/running/set", "true", Q0, 0);
    arrive(&mut rig, "plants/shed/pump/running/get", "", Q0, 0);
    arrive(&mut rig, "plants/barn/pump", "true", Q0, 0);
    assert_eq!(topics(&rig), ["shed/pump/running", "shed/pump/running/set"]);
    let stats = rig.bridge.stats();
    assert_eq!((stats.commands_refused, stats.unmatched), (1, 1));
}

#[test]
fn the_peer_is_acknowledged_when_the_message_is_settled() {
    let mut rig = Rig::new(commands());
    rig.settles = false;
    rig.connect();
    rig.packets();
    arrive(&mut rig, "plants/shed/a", "1", Q1, 7);
    arrive(&mut rig, "plants/shed/a", "2", Q2, 8);
    assert!(rig.packets().is_empty(), "not before");
    let (first, second) = (rig.tickets[0], rig.tickets[1]);
    rig.bridge.settle(second, ReasonCode::Success);
    rig.turn();
    assert!(
        rig.packets().is_empty(),
        "acknowledgements keep their order"
    );
    rig.bridge.settle(first, ReasonCode::Success);
    rig.turn();
    let kinds: Vec<_> = rig.packets().iter().map(|packet| packet[0] >> 4).collect();
    assert_eq!(kinds, [4, 5]);
    // A ticket is spent.
    rig.bridge.settle(first, ReasonCode::Success);
    rig.turn();
    assert!(rig.packets().is_empty());
}

#[test]
fn commands_that_waited_upstream_are_refused_and_acknowledged() {
    let mut rig = Rig::new(commands());
    rig.connect();
    rig.cut(false);
    rig.pause();
    rig.connect_with(true, ConnackProperties::default());
    let command = "plants/shed/pump/running/set";
    for id in 1..5 {
        arrive(&mut rig, command, "true", Q1, id);
        rig.wait(Duration::from_millis(700));
    }
    arrive(&mut rig, "plants/shed/pump/running", "true", Q1, 5);
    assert_eq!(
        topics(&rig),
        ["shed/pump/running"],
        "what is no command is taken"
    );
    assert_eq!(rig.bridge.stats().commands_late, 4);
    let acks = rig
        .packets()
        .iter()
        .filter(|packet| packet[0] == 0x40)
        .count();
    assert_eq!(acks, 5);
    // After a second's silence they are news.
    rig.seconds(2);
    arrive(&mut rig, command, "true", Q1, 6);
    assert_eq!(topics(&rig).len(), 2);
    // A retained one never is.
    rig.receive(&Packet::Publish(Publish {
        retain: true,
        ..publish(command, "true", Q1, 7)
    }));
    assert_eq!(rig.bridge.stats().commands_late, 5);
    // However many come one after the other, after a minute they are taken.
    rig.cut(false);
    rig.pause();
    rig.connect_with(true, ConnackProperties::default());
    let before = rig.published.len();
    for id in 0..140 {
        arrive(&mut rig, command, "true", Q1, id % 10 + 1);
        rig.wait(Duration::from_millis(500));
    }
    let taken = rig.published.len() - before;
    assert!((15..=21).contains(&taken), "{taken}");
}

#[test]
fn a_new_session_has_no_late_commands_and_a_rule_may_obey_them() {
    let command = "plants/shed/pump/running/set";
    let mut rig = Rig::new(commands());
    rig.connect();
    arrive(&mut rig, command, "true", Q1, 1);
    assert_eq!(topics(&rig), ["shed/pump/running/set"]);
    let mut obeying = commands();
    obeying.receive[1].queued = Queued::Obey;
    let mut rig = Rig::new(obeying);
    rig.connect_with(true, ConnackProperties::default());
    arrive(&mut rig, command, "true", Q1, 1);
    assert_eq!(topics(&rig), ["shed/pump/running/set"]);
}

#[test]
fn with_a_real_broker_messages_go_both_ways_and_not_in_a_circle() {
    let mut rules = settings();
    rules.send = vec![send_rule("shed/#", Q1)];
    rules.send[0].to = Some("plants/shed/#".into());
    rules.receive = vec![receive_rule("plants/#", Some("#"), Q2)];
    rules.state_topic = Some("plants/shed/gateway/state".into());
    let mut rig = Rig::new(rules);
    let mut upstream = Upstream::new(BrokerSettings::default());
    join(&mut rig, &mut upstream);
    for number in 0..50 {
        rig.send("shed/a", &number.to_string(), true);
        let down = message_with("plants/barn/b", &number.to_string(), Q2, false, &[]);
        upstream.publish(rig.now, &down);
        carry(&mut rig, &mut upstream);
    }
    let down: Vec<_> = topics(&rig);
    assert_eq!(down, ["barn/b"; 50]);
    let up = upstream
        .arrived
        .iter()
        .filter(|it| it.topic == "plants/shed/a");
    let up: Vec<_> = up.map(|it| &*it.payload).collect();
    let expected: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(up, expected);
    assert_eq!(rig.status().queue_length, 0);
    // The will says that we are gone.
    let conn = rig.conn.expect("it is up");
    upstream.lose(rig.now, conn);
    let last = upstream.arrived.last().expect("the will");
    assert_eq!(
        (&*last.topic, &*last.payload),
        ("plants/shed/gateway/state", "offline")
    );
}
