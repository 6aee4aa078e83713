//! PINGREQ, and servers that fall silent.

use fieldgate::mqtt::ProtocolVersion::{V4, V5};
use fieldgate::mqtt::client::{CloseCause, Event};
use fieldgate::mqtt::{ConnackProperties, Packet};
use fieldgate::time::Duration;

use super::*;

#[test]
fn silence_is_broken_by_a_ping_before_the_keep_alive_is_over() {
    let mut harness = Harness::connected(options(V4));
    harness.pass(53.9);
    assert!(harness.sent().is_empty());
    harness.pass(0.1);
    harness.assert_sent(&[Packet::Pingreq]);
    harness.pass(1.0);
    harness.receive(&Packet::Pingresp);
    assert_eq!(
        harness.client.poll_timeout(),
        Some(harness.now + Duration::from_secs(53))
    );
    // Traffic both ways needs no pings.
    for _ in 0..10 {
        harness.pass(50.0);
        harness.publish("t", QOS_0);
        harness.sent();
        harness.receive(&publish("a", QOS_0, 0, false));
        harness.events();
    }
    assert!(harness.client.is_connected());
}

#[test]
fn a_server_that_does_not_answer_a_ping_is_dead() {
    let mut harness = Harness::connected(options(V4));
    // It only sends, so it would not notice otherwise.
    for _ in 0..6 {
        harness.pass(9.0);
        harness.publish("t", QOS_0);
        assert!(!harness.sent().is_empty());
    }
    assert_eq!(
        harness.client.poll_timeout(),
        Some(harness.now + Duration::from_secs(30)),
        "a PINGREQ was sent at 54 s"
    );
    harness.pass(29.0);
    assert!(harness.events().is_empty());
    harness.pass(1.0);
    assert_eq!(
        harness.events(),
        [Event::Closed(CloseCause::KeepAliveTimeout)]
    );
    assert!(harness.client.is_finished());
}

#[test]
fn a_server_that_talks_is_not_dead_and_still_hears_from_us() {
    let mut harness = Harness::connected(options(V4));
    let mut pings = 0;
    for _ in 0..30 {
        harness.pass(10.0);
        harness.receive(&publish("a", QOS_0, 0, false));
        harness.events();
        pings += harness.sent().len();
    }
    assert!(harness.client.is_connected());
    // 300 s without a PINGRESP, which is stuck behind its messages.
    assert_eq!(pings, 5, "one for each 54 s, on a grid of 10");
}

#[test]
fn the_servers_keep_alive_counts_and_0_is_off() {
    let properties = |server_keep_alive| ConnackProperties {
        server_keep_alive: Some(server_keep_alive),
        ..ConnackProperties::default()
    };
    let harness = Harness::connected_with(options(V5), properties(10));
    assert_eq!(harness.client.limits().keep_alive, 10);
    let expected = harness.now + Duration::from_secs(9);
    assert_eq!(harness.client.poll_timeout(), Some(expected));
    let harness = Harness::connected_with(options(V5), properties(0));
    assert_eq!(harness.client.poll_timeout(), None);
}

#[test]
fn a_timeout_always_moves_on() {
    let mut harness = Harness::connected(options(V5));
    // The transport takes nothing: nothing is polled.
    for _ in 0..100 {
        let Some(at) = harness.client.poll_timeout() else {
            break;
        };
        harness.now = harness.now.max(at);
        harness.client.handle_timeout(harness.now);
        assert!(harness.client.poll_timeout().is_none_or(|next| next > at));
    }
    assert!(!harness.client.is_connected());
}
