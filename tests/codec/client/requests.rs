//! SUBSCRIBE, UNSUBSCRIBE and their answers.

use fieldgate::mqtt::ProtocolVersion::{V4, V5};
use fieldgate::mqtt::client::{Event, PENDING_REQUESTS_MAX, Refusal, Violation};
use fieldgate::mqtt::{
    AckProperties, ConnackProperties, Packet, PacketType, ReasonCode, ReasonCodes, Suback,
    SubscriptionOptions, SubscriptionRequest, TopicFilter, Unsuback,
};

use super::*;

#[test]
fn requests_are_answered_by_their_identifiers() {
    for version in [V4, V5] {
        let mut harness = Harness::connected(options(version));
        let filters = ["a/#", "b"].map(|filter| TopicFilter::new(filter).expect("a filter"));
        let requests = filters.map(|filter| SubscriptionRequest {
            filter,
            options: SubscriptionOptions::new(QOS_1),
        });
        assert_eq!(harness.client.subscribe(&requests, None), Ok(id(1)));
        assert_eq!(harness.client.unsubscribe(&filters), Ok(id(2)));
        assert_eq!(harness.publish("t", QOS_1), Some(id(3)));
        let sent = harness.sent();
        assert!(matches!(Packet::parse(version, &sent[0]),
            Ok(Packet::Subscribe(subscribe)) if subscribe.requests.iter().eq(requests)));
        assert!(matches!(Packet::parse(version, &sent[1]),
            Ok(Packet::Unsubscribe(unsubscribe)) if unsubscribe.filters.iter().eq(filters)));
        let said = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
        harness.receive(&Packet::Unsuback(Unsuback {
            packet_id: id(2),
            properties: AckProperties::default(),
            reasons: ReasonCodes::from_slice(&said),
        }));
        let granted = [ReasonCode::GrantedQos1, ReasonCode::UnspecifiedError];
        harness.receive(&Packet::Suback(Suback {
            packet_id: id(1),
            properties: AckProperties::default(),
            reasons: ReasonCodes::from_slice(&granted),
        }));
        let unsubscribed = Event::Unsubscribed {
            packet_id: id(2),
            reasons: if version == V5 {
                said.to_vec()
            } else {
                Vec::new()
            },
        };
        let subscribed = Event::Subscribed {
            packet_id: id(1),
            reasons: granted.to_vec(),
        };
        assert_eq!(harness.events(), [unsubscribed, subscribed]);
    }
}

#[test]
fn requests_that_wait_are_bounded() {
    let mut harness = Harness::connected(options(V5));
    let filter = TopicFilter::new("f").expect("a filter");
    for _ in 0..PENDING_REQUESTS_MAX {
        harness.client.unsubscribe(&[filter]).expect("room");
    }
    assert_eq!(harness.client.unsubscribe(&[filter]), Err(Refusal::Full));
    // A new connection starts without them.
    harness.client.handle_closed();
    harness.events();
    harness.connect(false, ConnackProperties::default());
    assert!(harness.client.unsubscribe(&[filter]).is_ok());
}

#[test]
fn answers_that_do_not_fit_are_violations() {
    let suback = |packet_id, reasons| {
        Packet::Suback(Suback {
            packet_id: id(packet_id),
            properties: AckProperties::default(),
            reasons: ReasonCodes::from_slice(reasons),
        })
    };
    let two = [ReasonCode::Success; 2];
    let unsuback = Packet::Unsuback(Unsuback {
        packet_id: id(1),
        properties: AckProperties::default(),
        reasons: ReasonCodes::from_slice(&two[..1]),
    });
    for (packet, expected) in [
        (
            suback(2, &two[..1]),
            Violation::AckMismatch(PacketType::Suback, id(2)),
        ),
        (
            unsuback,
            Violation::AckMismatch(PacketType::Unsuback, id(1)),
        ),
        (
            suback(1, &two),
            Violation::ReasonCountMismatch(PacketType::Suback, id(1)),
        ),
    ] {
        let mut harness = Harness::connected(options(V5));
        let request = SubscriptionRequest {
            filter: TopicFilter::new("f").expect("a filter"),
            options: SubscriptionOptions::new(QOS_0),
        };
        harness.client.subscribe(&[request], None).expect("room");
        harness.sent();
        harness.receive(&packet);
        assert_eq!(harness.violation(), expected);
    }
}
