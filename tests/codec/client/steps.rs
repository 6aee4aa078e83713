//! A session that outlives its process: what of QoS 2 waits until it is written down, and what is
//! put back after a start.

use fieldgate::mqtt::ProtocolVersion::{V4, V5};
use fieldgate::mqtt::client::{Acknowledge, Event, Step, Steps, Violation};
use fieldgate::mqtt::{ConnackProperties, PacketType, ReasonCode};

use super::*;

fn stepwise(version: ProtocolVersion) -> ConnectOptions {
    ConnectOptions {
        steps: Steps::ByCaller,
        ..lasting(version)
    }
}

fn waits(step: Step, packet_id: u16) -> Event {
    Event::Waits {
        step,
        packet_id: id(packet_id),
    }
}

#[test]
fn each_step_of_a_message_that_is_sent_waits_to_be_taken() {
    let mut harness = Harness::connected(stepwise(V5));
    harness.publish("a", QOS_2);
    harness.publish("b", QOS_2);
    harness.publish("c", QOS_1);
    assert!(harness.sent().is_empty(), "nothing passes what waits");
    assert!(harness.client.take_step(Step::Publish, id(2)));
    assert!(harness.sent().is_empty());
    assert!(harness.client.take_step(Step::Publish, id(1)));
    harness.assert_sent(&[
        publish("a", QOS_2, 1, false),
        publish("b", QOS_2, 2, false),
        publish("c", QOS_1, 3, false),
    ]);
    assert!(!harness.client.take_step(Step::Publish, id(1)), "once");
    assert!(!harness.client.take_step(Step::Release, id(1)), "not yet");
    harness.receive(&pubrec(1));
    harness.receive(&pubrec(1));
    assert_eq!(harness.events(), [waits(Step::Release, 1)]);
    assert!(harness.sent().is_empty());
    assert!(harness.client.take_step(Step::Release, id(1)));
    harness.assert_sent(&[pubrel(1)]);
    // It was seen, so another PUBREC is answered at once.
    harness.receive(&pubrec(1));
    harness.assert_sent(&[pubrel(1)]);
    harness.receive(&pubcomp(1));
    assert_eq!(harness.events(), [published(1, ReasonCode::Success)]);
}

#[test]
fn as_many_may_wait_as_may_be_under_way() {
    let mut harness = Harness::connected(ConnectOptions {
        inflight_maximum: 3,
        ..stepwise(V5)
    });
    for topic in ["a", "b", "c"] {
        assert!(harness.client.can_publish(QOS_2));
        harness.publish(topic, QOS_2);
    }
    assert!(!harness.client.can_publish(QOS_2));
    // One that is taken back leaves its place, and what stood behind it goes.
    assert!(harness.client.take_step(Step::Publish, id(2)));
    assert!(harness.client.withdraw(id(1)));
    harness.assert_sent(&[publish("b", QOS_2, 2, false)]);
    assert!(harness.client.can_publish(QOS_2));
    assert!(!harness.client.withdraw(id(2)), "it is on its way");
    assert!(harness.events().is_empty());
}

#[test]
fn a_server_that_completes_what_was_not_released_misbehaves() {
    let mut harness = Harness::connected(stepwise(V5));
    harness.publish("a", QOS_2);
    harness.client.take_step(Step::Publish, id(1));
    harness.sent();
    harness.receive(&pubrec(1));
    harness.events();
    harness.receive(&pubcomp(1));
    let violation = Violation::AckMismatch(PacketType::Pubcomp, id(1));
    assert_eq!(harness.violation(), violation);
}

#[test]
fn a_step_that_is_taken_between_two_connections_holds_for_the_next() {
    for version in [V4, V5] {
        let mut harness = Harness::connected(stepwise(version));
        harness.publish("a", QOS_2);
        harness.publish("b", QOS_2);
        harness.client.take_step(Step::Publish, id(1));
        harness.sent();
        harness.receive(&pubrec(1));
        harness.events();
        // Neither step has been taken: nothing is said of either on the next connection.
        harness.resume();
        assert!(harness.sent().is_empty());
        harness.client.handle_closed();
        harness.events();
        assert!(harness.client.take_step(Step::Release, id(1)));
        assert!(harness.client.take_step(Step::Publish, id(2)));
        harness.connect(true, ConnackProperties::default());
        harness.assert_sent(&[pubrel(1), publish("b", QOS_2, 2, false)]);
    }
}

#[test]
fn an_identifier_of_the_server_is_free_when_that_is_written_down() {
    let mut harness = Harness::connected(ConnectOptions {
        acknowledge: Acknowledge::OnReceipt,
        ..stepwise(V5)
    });
    harness.receive(&publish("a", QOS_2, 7, false));
    harness.assert_sent(&[pubrec(7)]);
    harness.events();
    harness.receive(&pubrel(7));
    harness.receive(&pubrel(7));
    assert_eq!(harness.events(), [waits(Step::Complete, 7)]);
    assert!(harness.sent().is_empty());
    // Until then it stands for the same message.
    harness.receive(&publish("a", QOS_2, 7, true));
    assert!(harness.events().is_empty());
    harness.assert_sent(&[pubrec(7)]);
    assert!(harness.client.take_step(Step::Complete, id(7)));
    harness.assert_sent(&[pubcomp(7)]);
    harness.receive(&publish("b", QOS_2, 7, false));
    assert_eq!(harness.events().len(), 1);
}

#[test]
fn what_an_earlier_process_has_left_goes_on() {
    for version in [V4, V5] {
        let mut harness = Harness::new(stepwise(version));
        let client = &mut harness.client;
        assert!(client.restore_sent(id(9), None));
        assert!(client.restore_sent(id(4), Some(message("a", QOS_2))));
        assert!(!client.restore_sent(id(4), None), "it is taken");
        client.restore_received(id(1));
        harness.connect(true, ConnackProperties::default());
        harness.assert_sent(&[pubrel(9), publish("a", QOS_2, 4, true)]);
        harness.receive(&publish("b", QOS_2, 1, true));
        harness.assert_sent(&[pubrec(1)]);
        assert!(harness.events().is_empty(), "it was handed over before");
        // Identifiers that stand for something are not given again.
        for _ in 0..3 {
            harness.publish("c", QOS_1);
        }
        assert_eq!(harness.publish("c", QOS_1), Some(id(5)));
    }
}

#[test]
fn a_server_that_has_lost_the_session_gets_what_was_sent_before_anew() {
    let mut harness = Harness::new(stepwise(V5));
    harness.client.restore_sent(id(9), None);
    harness
        .client
        .restore_sent(id(4), Some(message("a", QOS_2)));
    harness.client.restore_received(id(1));
    harness.connect(false, ConnackProperties::default());
    harness.assert_sent(&[publish("a", QOS_2, 4, false)]);
    assert_eq!(harness.events(), [published(9, ReasonCode::Success)]);
    harness.receive(&publish("b", QOS_2, 1, false));
    assert_eq!(harness.events().len(), 1, "another message");
}

#[test]
fn what_is_taken_back_and_may_be_there_is_released_in_a_step() {
    let mut harness = Harness::connected(stepwise(V5));
    harness.publish("a", QOS_2);
    harness.client.take_step(Step::Publish, id(1));
    harness.sent();
    harness.client.handle_closed();
    harness.events();
    assert!(harness.client.withdraw(id(1)));
    assert!(harness.client.has_to_release(id(1)));
    assert_eq!(harness.events(), [waits(Step::Release, 1)]);
    harness.connect(true, ConnackProperties::default());
    assert!(harness.sent().is_empty());
    assert!(harness.client.take_step(Step::Release, id(1)));
    harness.assert_sent(&[pubrel(1)]);
}

#[test]
fn what_nobody_has_taken_is_handed_over_when_it_comes_again() {
    for version in [V4, V5] {
        let mut harness = Harness::connected(ConnectOptions {
            acknowledge: Acknowledge::ByCaller,
            ..stepwise(version)
        });
        harness.receive(&publish("a", QOS_2, 7, false));
        let Some(Event::Message(received)) = harness.client.poll_event() else {
            panic!("it has come");
        };
        let token = received.ack.expect("a token");
        harness.client.disown(token);
        harness.receive(&publish("a", QOS_2, 7, true));
        assert!(harness.events().is_empty(), "its connection is there");
        harness.client.handle_closed();
        harness.events();
        harness.client.disown(token);
        harness.connect(true, ConnackProperties::default());
        harness.receive(&publish("a", QOS_2, 7, true));
        assert_eq!(harness.events().len(), 1);
    }
}

#[test]
fn after_a_connack_that_never_came_an_identifier_may_stand_for_another_message() {
    let options = ConnectOptions {
        acknowledge: Acknowledge::OnReceipt,
        ..stepwise(V5)
    };
    for is_lost in [false, true] {
        let mut harness = Harness::connected(options.clone());
        harness.receive(&publish("a", QOS_2, 7, false));
        harness.receive(&publish("b", QOS_2, 8, false));
        harness.events();
        harness.client.handle_closed();
        if is_lost {
            // The server may have begun a new session by this.
            harness.client.handle_connected(harness.now);
            harness.client.handle_closed();
        }
        harness.events();
        harness.connect(true, ConnackProperties::default());
        harness.receive(&publish("a", QOS_2, 7, true));
        assert!(harness.events().is_empty(), "it is the same");
        harness.receive(&publish("c", QOS_2, 8, false));
        assert_eq!(harness.events().len(), usize::from(is_lost));
    }
    // Nor is it known of what an earlier process has left.
    let mut harness = Harness::new(options);
    harness.client.restore_received(id(7));
    harness.connect(true, ConnackProperties::default());
    harness.receive(&publish("a", QOS_2, 7, false));
    assert_eq!(harness.events().len(), 1);
}
