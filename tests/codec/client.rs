//! The client machine against scripts: what it says to each thing that a server can say.

use std::rc::Rc;

use fieldgate::buffer::{COPY_MAX, Memory, Payload, SendQueue};
use fieldgate::mqtt::client::{
    Acknowledge, Client, CloseCause, ConnectOptions, EVENTS_MAX, Event, OptionsError,
    PENDING_REQUESTS_MAX, ReceivedMessage, Refusal, UNSENT_BYTES_MAX, Violation, WillOptions,
};
use fieldgate::mqtt::frame::{self, Frame, PACKET_SIZE_MAX};
use fieldgate::mqtt::{
    Ack, ApplicationMessage, Auth, AuthProperties, Connack, ConnackProperties, Disconnect,
    DisconnectProperties, Packet, PacketId, PacketType, ProtocolVersion, Publish,
    PublishProperties, QoS, ReasonCode, ReasonCodes, ReceiveMaximum, Suback,
    SubscriptionIdentifier, SubscriptionIdentifiers, SubscriptionOptions, SubscriptionRequest,
    TopicAlias, TopicFilter, TopicName, Unsuback, WillProperties,
};
use fieldgate::time::{Duration, Instant};
use proptest::prelude::*;

use crate::samples::{Ingredients, bytes_of, types_of, with_packet};

use ProtocolVersion::{V3, V4, V5};

/// A client, its transport's outgoing side, and a clock.
struct Harness {
    client: Client,
    out: SendQueue,
    now: Instant,
    version: ProtocolVersion,
}

impl Harness {
    /// Without a transport.
    fn new(options: ConnectOptions) -> Self {
        Self {
            version: options.version,
            client: Client::new(options).expect("good options"),
            out: SendQueue::new(&Memory::new(usize::MAX)),
            now: Instant::from_nanos(1_000_000_000_000),
        }
    }

    /// Connected to a server that says no more than yes.
    fn connected(options: ConnectOptions) -> Self {
        Self::connected_with(options, ConnackProperties::default())
    }

    fn connected_with(options: ConnectOptions, properties: ConnackProperties<'_>) -> Self {
        let mut harness = Self::new(options);
        harness.connect(false, properties);
        harness
    }

    /// Opens a transport, and says yes to the CONNECT.
    fn connect(&mut self, session_present: bool, properties: ConnackProperties<'_>) {
        self.out.clear();
        self.client.handle_connected(self.now);
        assert!(matches!(&self.sent()[..], [packet] if packet[0] == 0x10));
        self.receive(&Packet::Connack(Connack {
            session_present,
            reason: ReasonCode::Success,
            properties,
        }));
        let event = self.client.poll_event();
        assert!(
            matches!(event, Some(Event::Connected { session_present: said, .. })
                if said == session_present || self.version == V3),
            "{event:?}"
        );
    }

    fn resume(&mut self) {
        self.client.handle_closed();
        assert!(matches!(
            self.events()[..],
            [Event::Closed(CloseCause::TransportClosed)]
        ));
        self.connect(true, ConnackProperties::default());
    }

    fn receive(&mut self, packet: &Packet<'_>) {
        let bytes = bytes_of(packet, self.version);
        self.receive_bytes(&bytes);
    }

    fn receive_bytes(&mut self, bytes: &[u8]) {
        let consumed = self.client.handle_input(self.now, bytes);
        assert_eq!(consumed, bytes.len(), "all of it is whole packets");
    }

    /// What has been sent since, packet by packet.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let more = self.client.poll_transmit(self.now, &mut self.out);
        assert!(!more, "the queue takes all of it");
        let mut bytes = Vec::new();
        while !self.out.is_empty() {
            let front = self.out.front().to_vec();
            self.out.consume(front.len());
            bytes.extend(front);
        }
        let mut packets = Vec::new();
        while !bytes.is_empty() {
            match frame::peek(&bytes, PACKET_SIZE_MAX) {
                Ok(Frame::Complete { total_len, .. }) => {
                    let rest = bytes.split_off(total_len);
                    packets.push(std::mem::replace(&mut bytes, rest));
                }
                other => panic!("half a packet was sent: {other:?}"),
            }
        }
        packets
    }

    fn assert_sent(&mut self, expected: &[Packet<'_>]) {
        let version = self.version;
        let expected: Vec<_> = expected
            .iter()
            .map(|packet| bytes_of(packet, version))
            .collect();
        assert_eq!(self.sent(), expected);
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    fn publish(&mut self, topic: &str, qos: QoS) -> Option<PacketId> {
        self.client
            .publish(message(topic, qos))
            .expect("there is room")
    }

    /// Lets this much time pass, and the client notice.
    fn pass(&mut self, seconds: f64) {
        self.now = self.now + Duration::from_secs_f64(seconds);
        self.client.handle_timeout(self.now);
    }

    fn violation(&mut self) -> Violation {
        match &self.events()[..] {
            [Event::Closed(CloseCause::ServerMisbehaved(violation))] => *violation,
            other => panic!("{other:?}"),
        }
    }
}

fn options(version: ProtocolVersion) -> ConnectOptions {
    ConnectOptions {
        version,
        client_id: "shed".into(),
        ..ConnectOptions::default()
    }
}

/// With a session that outlives the connection.
fn lasting(version: ProtocolVersion) -> ConnectOptions {
    ConnectOptions {
        clean_start: false,
        session_expiry_interval: 3600,
        ..options(version)
    }
}

fn message_with(topic: &str, qos: QoS, payload: &[u8]) -> Rc<ApplicationMessage> {
    Rc::new(ApplicationMessage::new(
        TopicName::new(topic).expect("a name"),
        Payload::copy_from(payload),
        qos,
        false,
        &PublishProperties::default(),
        Instant::default(),
    ))
}

fn message(topic: &str, qos: QoS) -> Rc<ApplicationMessage> {
    message_with(topic, qos, b"21.4")
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).expect("not 0")
}

fn publish<'a>(topic: &'a str, qos: QoS, packet_id: u16, dup: bool) -> Packet<'a> {
    Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        topic,
        packet_id: PacketId::new(packet_id),
        properties: PublishProperties::default(),
        payload: b"21.4",
    })
}

fn puback(packet_id: u16) -> Packet<'static> {
    Packet::Puback(Ack::success(id(packet_id)))
}

fn pubrec(packet_id: u16) -> Packet<'static> {
    Packet::Pubrec(Ack::success(id(packet_id)))
}

fn pubrel(packet_id: u16) -> Packet<'static> {
    Packet::Pubrel(Ack::success(id(packet_id)))
}

fn pubcomp(packet_id: u16) -> Packet<'static> {
    Packet::Pubcomp(Ack::success(id(packet_id)))
}

fn disconnect(reason: ReasonCode) -> Packet<'static> {
    Packet::Disconnect(Disconnect::new(reason))
}

fn published(packet_id: u16, reason: ReasonCode) -> Event {
    Event::Published {
        packet_id: id(packet_id),
        reason,
    }
}

const QOS_0: QoS = QoS::AtMostOnce;
const QOS_1: QoS = QoS::AtLeastOnce;
const QOS_2: QoS = QoS::ExactlyOnce;

// Connecting.

#[test]
fn connect_says_what_the_options_say() {
    let will = ApplicationMessage::new(
        TopicName::new("shed/gateway/state").expect("a name"),
        Payload::copy_from(b"offline"),
        QOS_1,
        true,
        &PublishProperties {
            message_expiry_interval: Some(60),
            content_type: Some("text/plain"),
            ..PublishProperties::default()
        },
        Instant::default(),
    );
    for version in [V3, V4, V5] {
        let mut harness = Harness::new(ConnectOptions {
            keep_alive: 30,
            username: Some("anna".into()),
            password: Some(b"secret".to_vec()),
            will: Some(WillOptions {
                message: will.clone(),
                delay_interval: 5,
            }),
            receive_maximum: ReceiveMaximum::new(7).expect("not 0"),
            maximum_packet_size: 4096,
            topic_alias_maximum: 3,
            ..lasting(version)
        });
        harness.client.handle_connected(harness.now);
        let sent = harness.sent();
        let Ok(Packet::Connect(connect)) = Packet::parse(version, &sent[0]) else {
            panic!("a CONNECT comes first [MQTT-3.1.0-1]");
        };
        assert_eq!(sent.len(), 1);
        assert_eq!(connect.version, version);
        assert!(!connect.clean_start);
        assert_eq!((connect.client_id, connect.keep_alive), ("shed", 30));
        assert_eq!(connect.username, Some("anna"));
        assert_eq!(connect.password, Some(&b"secret"[..]));
        let will = connect.will.expect("a will");
        assert_eq!(will.topic.as_str(), "shed/gateway/state");
        assert_eq!(
            (will.payload, will.qos, will.retain),
            (&b"offline"[..], QOS_1, true)
        );
        if version == V5 {
            let properties = connect.properties;
            assert_eq!(properties.session_expiry_interval, Some(3600));
            assert_eq!(properties.receive_maximum, ReceiveMaximum::new(7));
            assert_eq!(
                properties.maximum_packet_size.map(|size| size.get()),
                Some(4096)
            );
            assert_eq!(properties.topic_alias_maximum, Some(3));
            let expected = WillProperties {
                will_delay_interval: Some(5),
                message_expiry_interval: Some(60),
                content_type: Some("text/plain"),
                ..WillProperties::default()
            };
            assert_eq!(will.properties, expected);
        }
    }
}

#[test]
fn options_that_make_no_connect_are_refused() {
    let refused = |options: ConnectOptions| Client::new(options).expect_err("bad options");
    let password = ConnectOptions {
        password: Some(Vec::new()),
        ..options(V4)
    };
    assert_eq!(refused(password), OptionsError::PasswordWithoutUserName);
    let nameless = ConnectOptions {
        client_id: String::new(),
        ..lasting(V4)
    };
    assert_eq!(refused(nameless), OptionsError::SessionWithoutClientId);
    let long = ConnectOptions {
        client_id: "x".repeat(65_536),
        ..options(V5)
    };
    assert_eq!(refused(long), OptionsError::TooLong("client identifier"));
    let null = ConnectOptions {
        username: Some("a\0".into()),
        ..options(V5)
    };
    assert_eq!(refused(null), OptionsError::NullCharacter("user name"));
    let will = ConnectOptions {
        will: Some(WillOptions {
            message: (*message_with("w", QOS_0, &vec![0; 65_536])).clone(),
            delay_interval: 0,
        }),
        ..options(V5)
    };
    assert_eq!(refused(will), OptionsError::TooLong("will payload"));
}

#[test]
fn the_password_is_not_printed() {
    let options = ConnectOptions {
        username: Some("anna".into()),
        password: Some(b"hunter2".to_vec()),
        ..options(V5)
    };
    let password = format!("{:?}", b"hunter2");
    assert!(!format!("{options:?}").contains(&password));
}

#[test]
fn a_refusal_says_why_and_whether_to_try_again() {
    for (version, bytes, reason, may_retry) in [
        (
            V4,
            &b"\x20\x02\x00\x03"[..],
            ReasonCode::ServerUnavailable,
            true,
        ),
        (V4, b"\x20\x02\x00\x05", ReasonCode::NotAuthorized, false),
        (V5, b"\x20\x03\x00\x89\x00", ReasonCode::ServerBusy, true),
        (
            V5,
            b"\x20\x03\x00\x86\x00",
            ReasonCode::BadUserNameOrPassword,
            false,
        ),
        // A server of 3.1.1 refuses 5.0 in its own words.
        (
            V5,
            b"\x20\x02\x00\x01",
            ReasonCode::UnsupportedProtocolVersion,
            false,
        ),
    ] {
        let mut harness = Harness::new(options(version));
        harness.client.handle_connected(harness.now);
        harness.sent();
        harness.receive_bytes(bytes);
        let events = harness.events();
        let [Event::Closed(cause @ CloseCause::Refused(farewell))] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(farewell.reason, reason);
        assert_eq!(cause.may_retry(), may_retry);
        assert!(harness.sent().is_empty());
        assert!(harness.client.is_finished());
    }
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let mut harness = Harness::new(options(V5));
    harness.client.handle_connected(harness.now);
    let deadline = harness.client.poll_timeout().expect("a deadline");
    assert_eq!(deadline, harness.now + Duration::from_secs(30));
    harness.pass(29.0);
    assert!(harness.events().is_empty());
    harness.pass(1.0);
    assert_eq!(
        harness.events(),
        [Event::Closed(CloseCause::ConnectTimeout)]
    );
    assert!(harness.client.is_finished());
    assert_eq!(harness.client.poll_timeout(), None);
}

#[test]
fn an_assigned_identifier_is_used_from_then_on() {
    let mut harness = Harness::connected_with(
        ConnectOptions {
            client_id: String::new(),
            ..lasting(V5)
        },
        ConnackProperties {
            assigned_client_identifier: Some("auto-17"),
            ..ConnackProperties::default()
        },
    );
    assert_eq!(harness.client.client_id(), "auto-17");
    harness.client.handle_closed();
    harness.client.handle_connected(harness.now);
    let sent = harness.sent();
    assert!(matches!(Packet::parse(V5, &sent[0]),
        Ok(Packet::Connect(connect)) if connect.client_id == "auto-17"));
}

#[test]
fn nothing_is_taken_before_connack() {
    let mut harness = Harness::new(options(V5));
    for is_connecting in [false, true] {
        if is_connecting {
            harness.client.handle_connected(harness.now);
        }
        let refused = harness.client.publish(message("t", QOS_0));
        assert_eq!(refused, Err(Refusal::NotConnected));
        let filter = TopicFilter::new("f").expect("a filter");
        let refused = harness.client.unsubscribe(&[filter]);
        assert_eq!(refused, Err(Refusal::NotConnected));
        assert!(!harness.client.can_publish(QOS_0));
    }
    harness.client.disconnect(ReasonCode::Success);
    assert_eq!(harness.events(), [Event::Closed(CloseCause::Disconnected)]);
    assert!(harness.sent().is_empty(), "not even the CONNECT");
}

// Publishing.

#[test]
fn publications_go_through_their_handshakes() {
    for version in [V3, V4, V5] {
        let mut harness = Harness::connected(options(version));
        assert_eq!(harness.publish("a", QOS_0), None);
        assert_eq!(harness.publish("b", QOS_1), Some(id(1)));
        assert_eq!(harness.publish("c", QOS_2), Some(id(2)));
        harness.assert_sent(&[
            publish("a", QOS_0, 0, false),
            publish("b", QOS_1, 1, false),
            publish("c", QOS_2, 2, false),
        ]);
        assert_eq!(harness.client.inflight(), 2);
        harness.receive(&puback(1));
        harness.receive(&pubrec(2));
        harness.assert_sent(&[pubrel(2)]);
        assert_eq!(harness.events(), [published(1, ReasonCode::Success)]);
        harness.receive(&pubcomp(2));
        assert_eq!(harness.events(), [published(2, ReasonCode::Success)]);
        assert_eq!(harness.client.inflight(), 0);
        // Identifiers go on, they are not used again at once.
        assert_eq!(harness.publish("d", QOS_1), Some(id(3)));
    }
}

#[test]
fn reasons_of_5_0_reach_the_publisher() {
    let mut harness = Harness::connected(options(V5));
    for qos in [QOS_1, QOS_1, QOS_2, QOS_2] {
        harness.publish("t", qos);
    }
    harness.sent();
    let ack = |packet_id, reason| Ack::new(id(packet_id), reason);
    harness.receive(&Packet::Puback(ack(1, ReasonCode::NoMatchingSubscribers)));
    harness.receive(&Packet::Puback(ack(2, ReasonCode::NotAuthorized)));
    harness.receive(&Packet::Pubrec(ack(3, ReasonCode::QuotaExceeded)));
    harness.receive(&Packet::Pubrec(ack(4, ReasonCode::NoMatchingSubscribers)));
    // A refused QoS 2 message is settled without a PUBREL [MQTT-4.3.3-4].
    harness.assert_sent(&[pubrel(4)]);
    harness.receive(&pubcomp(4));
    assert_eq!(
        harness.events(),
        [
            published(1, ReasonCode::NoMatchingSubscribers),
            published(2, ReasonCode::NotAuthorized),
            published(3, ReasonCode::QuotaExceeded),
            published(4, ReasonCode::NoMatchingSubscribers),
        ]
    );
}

#[test]
fn no_more_than_receive_maximum_is_under_way_mqtt_3_3_4_7() {
    let properties = ConnackProperties {
        receive_maximum: ReceiveMaximum::new(2),
        ..ConnackProperties::default()
    };
    let mut harness = Harness::connected_with(options(V5), properties);
    harness.publish("a", QOS_1);
    harness.publish("b", QOS_2);
    assert_eq!(
        harness.client.publish(message("c", QOS_1)),
        Err(Refusal::Full)
    );
    assert!(!harness.client.can_publish(QOS_2));
    // Everything else goes on [MQTT-3.3.4-8].
    assert!(harness.client.can_publish(QOS_0));
    harness.publish("d", QOS_0);
    harness.sent();
    // A PUBREC gives no place back, PUBCOMP does (4.9).
    harness.receive(&pubrec(2));
    assert!(!harness.client.can_publish(QOS_1));
    harness.receive(&pubcomp(2));
    assert_eq!(harness.publish("c", QOS_1), Some(id(3)));
    assert!(!harness.client.can_publish(QOS_1));
    // A refusal does.
    harness.sent();
    harness.receive(&Packet::Puback(Ack::new(id(1), ReasonCode::QuotaExceeded)));
    assert!(harness.client.can_publish(QOS_1));
}

#[test]
fn our_own_inflight_maximum_holds_where_the_server_says_nothing() {
    let options = ConnectOptions {
        inflight_maximum: 1,
        ..options(V4)
    };
    let mut harness = Harness::connected(options);
    harness.publish("a", QOS_1);
    assert_eq!(
        harness.client.publish(message("b", QOS_2)),
        Err(Refusal::Full)
    );
    harness.sent();
    harness.receive(&puback(1));
    harness.publish("b", QOS_2);
}

#[test]
fn what_the_server_does_not_take_is_refused_here() {
    let properties = ConnackProperties {
        maximum_qos: Some(QOS_1),
        retain_available: Some(false),
        maximum_packet_size: core::num::NonZeroU32::new(20),
        subscription_identifier_available: Some(false),
        ..ConnackProperties::default()
    };
    let mut harness = Harness::connected_with(options(V5), properties);
    let refused = |harness: &mut Harness, message| {
        let refusal = harness.client.publish(message).expect_err("refused");
        assert!(!refusal.may_retry());
        refusal
    };
    assert_eq!(
        refused(&mut harness, message("t", QOS_2)),
        Refusal::QosNotSupported
    );
    assert!(!harness.client.can_publish(QOS_2));
    let retained = Rc::new(ApplicationMessage::new(
        TopicName::new("t").expect("a name"),
        Payload::EMPTY,
        QOS_0,
        true,
        &PublishProperties::default(),
        Instant::default(),
    ));
    assert_eq!(refused(&mut harness, retained), Refusal::RetainNotSupported);
    // 2 of fixed header, 3 of topic, 2 of identifier, 1 of properties: 12 are left.
    let fits = message_with("t", QOS_1, &[0; 12]);
    assert!(harness.client.publish(fits).is_ok());
    let expected = Refusal::PacketTooLarge { len: 21, max: 20 };
    let large = message_with("t", QOS_1, &[0; 13]);
    assert_eq!(refused(&mut harness, large), expected);
    let request = SubscriptionRequest {
        filter: TopicFilter::new("0123456789abc").expect("a filter"),
        options: SubscriptionOptions::new(QOS_0),
    };
    let identifier = SubscriptionIdentifier::new(1);
    assert_eq!(
        harness.client.subscribe(&[request], identifier),
        Err(Refusal::SubscriptionIdentifierNotSupported)
    );
    assert_eq!(
        harness.client.subscribe(&[request], None),
        Err(Refusal::PacketTooLarge { len: 21, max: 20 })
    );
    assert_eq!(harness.client.subscribe(&[], None), Err(Refusal::NoFilters));
}

#[test]
fn what_waits_for_the_transport_is_bounded() {
    let mut harness = Harness::connected(options(V4));
    let large = message_with("t", QOS_0, &vec![0; UNSENT_BYTES_MAX]);
    assert!(harness.client.publish(large.clone()).is_ok());
    assert_eq!(harness.client.publish(large), Err(Refusal::Full));
    assert!(!harness.client.can_publish(QOS_0));
    harness.sent();
    assert!(harness.client.can_publish(QOS_0));
}

#[test]
fn a_large_payload_is_shared_and_not_copied() {
    let mut harness = Harness::connected(options(V4));
    let message = message_with("t", QOS_0, &vec![7; COPY_MAX + 1]);
    harness.client.publish(message.clone()).expect("room");
    harness.client.poll_transmit(harness.now, &mut harness.out);
    let head = harness.out.front().len();
    harness.out.consume(head);
    assert_eq!(harness.out.front().as_ptr(), message.payload().as_ptr());
}

#[test]
fn the_expiry_interval_is_what_is_left_when_it_is_sent() {
    let mut harness = Harness::connected(options(V5));
    let message = ApplicationMessage::new(
        TopicName::new("t").expect("a name"),
        Payload::EMPTY,
        QOS_0,
        false,
        &PublishProperties {
            message_expiry_interval: Some(60),
            ..PublishProperties::default()
        },
        harness.now,
    );
    harness.client.publish(Rc::new(message)).expect("room");
    harness.now = harness.now + Duration::from_secs(45);
    let sent = harness.sent();
    let publish = Publish::parse(V5, &sent[0]).expect("a PUBLISH");
    assert_eq!(publish.properties.message_expiry_interval, Some(15));
}

// Resuming.

#[test]
fn what_was_not_acknowledged_goes_again_in_order_with_dup_mqtt_4_4_0_1() {
    for version in [V3, V4, V5] {
        let mut harness = Harness::connected(lasting(version));
        for (topic, qos) in [
            ("a", QOS_1),
            ("b", QOS_2),
            ("c", QOS_2),
            ("d", QOS_1),
            ("e", QOS_2),
        ] {
            harness.publish(topic, qos);
        }
        harness.sent();
        harness.publish("unsent", QOS_1);
        harness.publish("gone", QOS_0);
        harness.receive(&puback(4));
        harness.receive(&pubrec(5));
        harness.receive(&pubrec(2));
        harness.events();
        harness.resume();
        // Releases in the order of their PUBRECs [MQTT-4.6.0-4], messages in that of their publication [MQTT-4.6.0-1]. The
        // last one was never sent, so it is no duplicate.
        harness.assert_sent(&[
            pubrel(5),
            pubrel(2),
            publish("a", QOS_1, 1, true),
            publish("c", QOS_2, 3, true),
            publish("unsent", QOS_1, 6, false),
        ]);
        harness.receive(&pubcomp(5));
        harness.receive(&puback(1));
        assert_eq!(
            harness.events(),
            [
                published(5, ReasonCode::Success),
                published(1, ReasonCode::Success)
            ]
        );
        // And once more, what is still left.
        harness.resume();
        harness.assert_sent(&[
            pubrel(2),
            publish("c", QOS_2, 3, true),
            publish("unsent", QOS_1, 6, true),
        ]);
    }
}

#[test]
fn a_resumed_session_keeps_to_a_smaller_window() {
    let mut harness = Harness::connected(lasting(V5));
    for topic in ["a", "b", "c", "d"] {
        harness.publish(topic, QOS_1);
    }
    harness.sent();
    harness.client.handle_closed();
    harness.events();
    let properties = ConnackProperties {
        receive_maximum: ReceiveMaximum::new(2),
        ..ConnackProperties::default()
    };
    harness.connect(true, properties);
    harness.assert_sent(&[publish("a", QOS_1, 1, true), publish("b", QOS_1, 2, true)]);
    // What was published later does not overtake.
    assert_eq!(
        harness.client.publish(message("e", QOS_1)),
        Err(Refusal::Full)
    );
    harness.receive(&puback(1));
    assert_eq!(
        harness.client.publish(message("e", QOS_1)),
        Err(Refusal::Full)
    );
    harness.assert_sent(&[publish("c", QOS_1, 3, true)]);
    harness.receive(&puback(2));
    harness.receive(&puback(3));
    harness.assert_sent(&[publish("d", QOS_1, 4, true)]);
    assert_eq!(harness.publish("e", QOS_1), Some(id(5)));
}

#[test]
fn releases_of_an_earlier_connection_do_not_widen_the_window() {
    let mut harness = Harness::connected(lasting(V5));
    harness.publish("a", QOS_2);
    harness.sent();
    harness.receive(&pubrec(1));
    harness.client.handle_closed();
    harness.events();
    let properties = ConnackProperties {
        receive_maximum: ReceiveMaximum::new(1),
        ..ConnackProperties::default()
    };
    harness.connect(true, properties);
    harness.publish("b", QOS_1);
    harness.sent();
    harness.receive(&pubcomp(1));
    // "b" still has the only place (4.9: the quota never exceeds Receive Maximum).
    assert!(!harness.client.can_publish(QOS_1));
}

#[test]
fn a_lost_session_means_publishing_anew() {
    for version in [V4, V5] {
        let mut harness = Harness::connected(lasting(version));
        harness.publish("a", QOS_1);
        harness.publish("b", QOS_2);
        harness.publish("c", QOS_2);
        harness.sent();
        harness.receive(&pubrec(2));
        harness.receive(&publish("in", QOS_2, 9, false));
        harness.sent();
        harness.events();
        harness.client.handle_closed();
        harness.events();
        harness.connect(false, ConnackProperties::default());
        // The server had taken "b"; the others it may never have seen, and they are no duplicates in a new session.
        assert_eq!(harness.events(), [published(2, ReasonCode::Success)]);
        harness.assert_sent(&[publish("a", QOS_1, 1, false), publish("c", QOS_2, 3, false)]);
        // Identifiers received before mean nothing now [MQTT-3.2.2-5].
        harness.receive(&publish("in", QOS_2, 9, false));
        assert!(matches!(harness.events()[..], [Event::Message(_)]));
    }
}

#[test]
fn a_server_that_takes_less_than_before_settles_what_it_cannot_take() {
    let mut harness = Harness::connected(lasting(V5));
    harness.publish("a", QOS_2);
    harness
        .client
        .publish(message_with("b", QOS_1, &[0; 100]))
        .expect("room");
    harness.publish("c", QOS_1);
    harness.sent();
    harness.client.handle_closed();
    harness.events();
    let properties = ConnackProperties {
        maximum_qos: Some(QOS_1),
        maximum_packet_size: core::num::NonZeroU32::new(50),
        ..ConnackProperties::default()
    };
    harness.connect(true, properties);
    assert_eq!(
        harness.events(),
        [
            published(1, ReasonCode::QosNotSupported),
            published(2, ReasonCode::PacketTooLarge),
        ]
    );
    harness.assert_sent(&[publish("c", QOS_1, 3, true)]);
}

#[test]
fn a_session_that_was_not_asked_for_is_a_violation() {
    let mut harness = Harness::new(options(V4));
    harness.client.handle_connected(harness.now);
    harness.sent();
    harness.receive_bytes(b"\x20\x02\x01\x00");
    assert_eq!(harness.violation(), Violation::SessionPresentUnasked);
}

// Receiving.

fn received(event: &Event) -> &ReceivedMessage {
    match event {
        Event::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_are_handed_over_and_acknowledged() {
    for version in [V3, V4, V5] {
        let mut harness = Harness::connected(options(version));
        harness.receive(&publish("a", QOS_0, 0, false));
        harness.receive(&publish("b", QOS_1, 7, true));
        harness.receive(&publish("c", QOS_2, 8, false));
        harness.assert_sent(&[puback(7), pubrec(8)]);
        let events = harness.events();
        let topics: Vec<_> = events
            .iter()
            .map(|event| received(event).message.topic())
            .collect();
        assert_eq!(topics, ["a", "b", "c"]);
        assert!(received(&events[1]).dup);
        assert_eq!(&**received(&events[1]).message.payload(), b"21.4");
        assert_eq!(received(&events[2]).message.qos(), QOS_2);
        // Again before its release: another PUBREC, no second delivery [MQTT-4.3.3-10].
        harness.receive(&publish("c", QOS_2, 8, true));
        harness.receive(&pubrel(8));
        harness.assert_sent(&[pubrec(8), pubcomp(8)]);
        assert!(harness.events().is_empty());
        assert_eq!(harness.client.counters().duplicates, 1);
        // After it, a new message [MQTT-4.3.3-12]; and a QoS 1 message always is [MQTT-4.3.2-5].
        harness.receive(&publish("c", QOS_2, 8, false));
        harness.receive(&publish("b", QOS_1, 7, true));
        assert_eq!(harness.events().len(), 2);
    }
}

#[test]
fn a_qos_2_identifier_outlives_the_connection() {
    let mut harness = Harness::connected(lasting(V5));
    harness.receive(&publish("a", QOS_2, 8, false));
    harness.receive(&publish("b", QOS_2, 9, false));
    harness.events();
    harness.resume();
    harness.receive(&publish("a", QOS_2, 8, true));
    harness.receive(&pubrel(9));
    harness.assert_sent(&[pubrec(8), pubcomp(9)]);
    assert!(harness.events().is_empty());
}

#[test]
fn a_release_of_what_we_do_not_know_is_answered_so() {
    let mut harness = Harness::connected(options(V5));
    harness.receive(&pubrel(5));
    let answer = Ack::new(id(5), ReasonCode::PacketIdentifierNotFound);
    harness.assert_sent(&[Packet::Pubcomp(answer)]);
    harness.receive(&pubrec(6));
    let answer = Ack::new(id(6), ReasonCode::PacketIdentifierNotFound);
    harness.assert_sent(&[Packet::Pubrel(answer)]);
    harness.receive(&puback(7));
    harness.receive(&pubcomp(8));
    assert!(harness.sent().is_empty());
    assert!(harness.events().is_empty());
    assert_eq!(harness.client.counters().strays, 4);
}

#[test]
fn acknowledgements_by_the_caller_leave_in_order_mqtt_4_6_0_2() {
    let mut harness = Harness::connected(ConnectOptions {
        acknowledge: Acknowledge::ByCaller,
        ..options(V5)
    });
    harness.receive(&publish("a", QOS_1, 1, false));
    harness.receive(&publish("b", QOS_2, 2, false));
    harness.receive(&publish("c", QOS_1, 3, false));
    harness.receive(&publish("d", QOS_0, 0, false));
    let tokens: Vec<_> = harness
        .events()
        .iter()
        .map(|event| received(event).ack)
        .collect();
    assert_eq!(tokens[3], None, "QoS 0 needs none");
    let [a, b, c] = [0, 1, 2].map(|index| tokens[index].expect("a token"));
    assert!(harness.sent().is_empty());
    assert!(harness.client.acknowledge(c, ReasonCode::Success));
    assert!(harness.client.acknowledge(b, ReasonCode::QuotaExceeded));
    assert!(harness.sent().is_empty());
    assert!(harness.client.acknowledge(a, ReasonCode::Success));
    assert!(!harness.client.acknowledge(a, ReasonCode::Success), "once");
    harness.assert_sent(&[
        puback(1),
        Packet::Pubrec(Ack::new(id(2), ReasonCode::QuotaExceeded)),
        puback(3),
    ]);
    // A refused QoS 2 message leaves no identifier behind [MQTT-4.3.3-9].
    harness.receive(&publish("b", QOS_2, 2, false));
    assert_eq!(harness.events().len(), 1);
}

#[test]
fn a_token_of_an_earlier_connection_does_not_acknowledge_another_message() {
    let mut harness = Harness::connected(ConnectOptions {
        acknowledge: Acknowledge::ByCaller,
        ..lasting(V4)
    });
    harness.receive(&publish("a", QOS_1, 1, false));
    harness.receive(&publish("b", QOS_2, 2, false));
    let tokens: Vec<_> = harness
        .events()
        .iter()
        .filter_map(|event| received(event).ack)
        .collect();
    harness.resume();
    harness.receive(&publish("x", QOS_1, 1, false));
    let new = received(&harness.events()[0]).ack.expect("a token");
    assert!(!harness.client.acknowledge(tokens[0], ReasonCode::Success));
    assert!(harness.sent().is_empty());
    // The QoS 2 message is remembered: taken now, answered when it comes again, and not delivered twice.
    assert!(harness.client.acknowledge(tokens[1], ReasonCode::Success));
    assert!(harness.sent().is_empty());
    harness.receive(&publish("b", QOS_2, 2, true));
    assert!(harness.client.acknowledge(new, ReasonCode::Success));
    harness.assert_sent(&[puback(1), pubrec(2)]);
    assert!(harness.events().is_empty());
}

#[test]
fn a_qos_2_message_that_comes_again_before_it_was_taken_waits_for_its_first_token() {
    let mut harness = Harness::connected(ConnectOptions {
        acknowledge: Acknowledge::ByCaller,
        ..lasting(V5)
    });
    harness.receive(&publish("b", QOS_2, 2, false));
    let token = received(&harness.events()[0]).ack.expect("a token");
    harness.resume();
    harness.receive(&publish("b", QOS_2, 2, true));
    assert!(harness.events().is_empty());
    assert!(harness.sent().is_empty());
    assert!(harness.client.acknowledge(token, ReasonCode::Success));
    harness.assert_sent(&[pubrec(2)]);
    harness.receive(&pubrel(2));
    harness.assert_sent(&[pubcomp(2)]);
}

#[test]
fn before_5_0_a_slow_caller_is_not_read_past_his_limit() {
    let mut harness = Harness::connected(ConnectOptions {
        acknowledge: Acknowledge::ByCaller,
        receive_maximum: ReceiveMaximum::new(2).expect("not 0"),
        ..options(V4)
    });
    let one = bytes_of(&publish("a", QOS_1, 1, false), V4);
    let mut bytes = Vec::new();
    for index in 1..=3 {
        bytes.extend(bytes_of(&publish("a", QOS_1, index, false), V4));
    }
    let consumed = harness.client.handle_input(harness.now, &bytes);
    assert_eq!(consumed, 2 * one.len());
    let token = received(&harness.events()[0]).ack.expect("a token");
    harness.client.acknowledge(token, ReasonCode::Success);
    let rest = &bytes[consumed..];
    assert_eq!(harness.client.handle_input(harness.now, rest), one.len());
}

#[test]
fn more_than_receive_maximum_is_a_violation_in_5_0() {
    for qos in [QOS_1, QOS_2] {
        let mut harness = Harness::connected(ConnectOptions {
            acknowledge: Acknowledge::ByCaller,
            receive_maximum: ReceiveMaximum::new(2).expect("not 0"),
            ..options(V5)
        });
        harness.receive(&publish("a", qos, 1, false));
        harness.receive(&publish("a", qos, 2, false));
        harness.events();
        harness.receive(&publish("a", qos, 3, false));
        assert_eq!(harness.violation(), Violation::ReceiveMaximumExceeded);
        harness.assert_sent(&[disconnect(ReasonCode::ReceiveMaximumExceeded)]);
    }
}

#[test]
fn topic_aliases_last_as_long_as_the_connection() {
    let aliased = |topic, alias| {
        Packet::Publish(Publish {
            dup: false,
            qos: QOS_0,
            retain: false,
            topic,
            packet_id: None,
            properties: PublishProperties {
                topic_alias: TopicAlias::new(alias),
                ..PublishProperties::default()
            },
            payload: b"",
        })
    };
    let options = ConnectOptions {
        topic_alias_maximum: 2,
        ..lasting(V5)
    };
    let mut harness = Harness::connected(options.clone());
    for (topic, alias, expected) in [
        ("a", 2, "a"),
        ("", 2, "a"),
        ("b", 1, "b"),
        ("c", 2, "c"),
        ("", 2, "c"),
        ("", 1, "b"),
    ] {
        harness.receive(&aliased(topic, alias));
        assert_eq!(received(&harness.events()[0]).message.topic(), expected);
    }
    // [MQTT-3.3.2-7]
    harness.resume();
    harness.receive(&aliased("", 1));
    assert_eq!(harness.violation(), Violation::TopicAliasUnknown(1));
    harness.assert_sent(&[disconnect(ReasonCode::ProtocolError)]);

    let mut harness = Harness::connected(options);
    harness.receive(&aliased("a", 3));
    assert_eq!(harness.violation(), Violation::TopicAliasTooHigh(3));
    harness.assert_sent(&[disconnect(ReasonCode::TopicAliasInvalid)]);
}

#[test]
fn subscription_identifiers_come_with_the_message() {
    let mut harness = Harness::connected(options(V5));
    let ids = [1, 300].map(|id| SubscriptionIdentifier::new(id).expect("in range"));
    let Packet::Publish(plain) = publish("a", QOS_0, 0, false) else {
        unreachable!("a PUBLISH was made");
    };
    harness.receive(&Packet::Publish(Publish {
        properties: PublishProperties {
            subscription_identifiers: SubscriptionIdentifiers::from_slice(&ids),
            ..PublishProperties::default()
        },
        ..plain
    }));
    assert_eq!(received(&harness.events()[0]).subscription_identifiers, ids);
}

#[test]
fn input_may_come_in_any_pieces() {
    let mut bytes = Vec::new();
    for packet in [
        publish("a", QOS_1, 1, false),
        Packet::Pingresp,
        publish("b", QOS_2, 2, false),
        pubrel(2),
    ] {
        bytes.extend(bytes_of(&packet, V5));
    }
    for piece in 1..=bytes.len() {
        let mut harness = Harness::connected(options(V5));
        let mut kept = Vec::new();
        for chunk in bytes.chunks(piece) {
            kept.extend_from_slice(chunk);
            let consumed = harness.client.handle_input(harness.now, &kept);
            kept.drain(..consumed);
        }
        assert!(kept.is_empty());
        assert_eq!(harness.events().len(), 2);
        harness.assert_sent(&[puback(1), pubrec(2), pubcomp(2)]);
    }
}

#[test]
fn no_more_is_read_than_events_are_polled() {
    let mut harness = Harness::connected(options(V4));
    let one = bytes_of(&publish("a", QOS_0, 0, false), V4);
    let bytes = one.repeat(EVENTS_MAX + 10);
    let consumed = harness.client.handle_input(harness.now, &bytes);
    assert_eq!(consumed, EVENTS_MAX * one.len());
    assert_eq!(
        harness.client.handle_input(harness.now, &bytes[consumed..]),
        0
    );
    assert_eq!(harness.events().len(), EVENTS_MAX);
    harness.receive_bytes(&bytes[consumed..]);
    assert_eq!(harness.events().len(), 10);
}

#[test]
fn no_more_is_read_than_answers_are_sent() {
    let mut harness = Harness::connected(options(V4));
    let one = bytes_of(&publish("a", QOS_1, 1, false), V4);
    let bytes = one.repeat(200);
    let mut consumed = 0;
    loop {
        let now = harness.client.handle_input(harness.now, &bytes);
        harness.events();
        consumed += now;
        if now == 0 {
            break;
        }
    }
    assert_eq!(
        consumed / one.len() * 4,
        fieldgate::mqtt::client::CONTROL_BYTES_MAX
    );
    assert_eq!(harness.sent().len(), consumed / one.len());
    harness.receive_bytes(&bytes);
}

// Requests.

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
            properties: Default::default(),
            reasons: ReasonCodes::from_slice(&said),
        }));
        let granted = [ReasonCode::GrantedQos1, ReasonCode::UnspecifiedError];
        harness.receive(&Packet::Suback(Suback {
            packet_id: id(1),
            properties: Default::default(),
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
            properties: Default::default(),
            reasons: ReasonCodes::from_slice(reasons),
        })
    };
    let two = [ReasonCode::Success; 2];
    let unsuback = Packet::Unsuback(Unsuback {
        packet_id: id(1),
        properties: Default::default(),
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

// Keep-alive.

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

// Ending.

#[test]
fn disconnect_is_the_last_word_mqtt_3_14_4_1() {
    let mut harness = Harness::connected(options(V5));
    harness.publish("t", QOS_0);
    harness
        .client
        .disconnect(ReasonCode::DisconnectWithWillMessage);
    assert_eq!(harness.events(), [Event::Closed(CloseCause::Disconnected)]);
    assert_eq!(
        harness.client.publish(message("t", QOS_0)),
        Err(Refusal::NotConnected)
    );
    assert!(!harness.client.is_finished());
    harness.assert_sent(&[
        publish("t", QOS_0, 0, false),
        disconnect(ReasonCode::DisconnectWithWillMessage),
    ]);
    assert!(harness.client.is_finished());
    // What still comes is not looked at.
    harness.receive(&publish("a", QOS_1, 1, false));
    harness.client.handle_closed();
    assert!(harness.events().is_empty());
    assert!(harness.sent().is_empty());
}

#[test]
fn before_5_0_a_will_is_kept_by_not_saying_disconnect() {
    let mut harness = Harness::connected(options(V4));
    harness
        .client
        .disconnect(ReasonCode::DisconnectWithWillMessage);
    assert!(harness.sent().is_empty());
    let mut harness = Harness::connected(options(V4));
    harness.client.disconnect(ReasonCode::NORMAL_DISCONNECTION);
    harness.assert_sent(&[disconnect(ReasonCode::Success)]);
}

#[test]
fn a_server_says_goodbye_in_5_0_only() {
    let farewell = Packet::Disconnect(Disconnect {
        reason: ReasonCode::ServerMoved,
        properties: DisconnectProperties {
            reason_string: Some("moving"),
            server_reference: Some("b.example"),
            ..DisconnectProperties::default()
        },
    });
    let mut harness = Harness::connected(options(V5));
    harness.receive(&farewell);
    let events = harness.events();
    let [Event::Closed(cause @ CloseCause::ServerDisconnected(farewell))] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(farewell.reason, ReasonCode::ServerMoved);
    assert_eq!(farewell.server_reference.as_deref(), Some("b.example"));
    assert!(!cause.may_retry());
    assert_eq!(
        cause.to_string(),
        "server disconnected: Server moved (0x9D), \"moving\", use \"b.example\""
    );
    let mut harness = Harness::connected(options(V4));
    harness.receive(&disconnect(ReasonCode::Success));
    assert_eq!(
        harness.violation(),
        Violation::Unexpected(PacketType::Disconnect)
    );
    assert!(harness.sent().is_empty(), "3.1.1 has no words for it");
    // [MQTT-3.14.2-2]
    let mut harness = Harness::connected(options(V5));
    harness.receive(&Packet::Disconnect(Disconnect {
        reason: ReasonCode::Success,
        properties: DisconnectProperties {
            session_expiry_interval: Some(1),
            ..DisconnectProperties::default()
        },
    }));
    assert_eq!(harness.violation(), Violation::SessionExpiryFromServer);
}

#[test]
fn a_packet_that_is_not_a_servers_to_send_now_is_a_violation() {
    use PacketType as P;
    for version in [V4, V5] {
        for packet_type in types_of(version) {
            let bytes = with_packet(&Ingredients::bare(), version, packet_type, |packet| {
                bytes_of(&packet, version)
            });
            // Before CONNACK, everything but CONNACK [MQTT-3.2.0-1].
            let mut harness = Harness::new(options(version));
            harness.client.handle_connected(harness.now);
            harness.sent();
            if packet_type != P::Connack {
                harness.receive_bytes(&bytes);
                assert_eq!(harness.violation(), Violation::Unexpected(packet_type));
                assert!(harness.sent().is_empty());
            }
            // After it, what only a client sends, and a second CONNACK [MQTT-3.2.0-2].
            let mut harness = Harness::connected(options(version));
            let never = matches!(
                packet_type,
                P::Connect | P::Connack | P::Subscribe | P::Unsubscribe | P::Pingreq | P::Auth
            );
            if never {
                harness.receive_bytes(&bytes);
                assert_eq!(harness.violation(), Violation::Unexpected(packet_type));
                if version == V5 {
                    harness.assert_sent(&[disconnect(ReasonCode::ProtocolError)]);
                }
                assert!(harness.client.is_finished());
            }
        }
    }
}

#[test]
fn authentication_that_was_not_offered_is_a_violation_mqtt_4_12_0_6() {
    let mut harness = Harness::connected(options(V5));
    harness.receive(&Packet::Auth(Auth {
        reason: ReasonCode::ContinueAuthentication,
        properties: AuthProperties {
            authentication_method: Some("m"),
            ..AuthProperties::default()
        },
    }));
    assert_eq!(harness.violation(), Violation::Unexpected(PacketType::Auth));
}

#[test]
fn acknowledgements_of_the_wrong_kind_are_violations() {
    for (qos, answer) in [
        (QOS_2, puback(1)),
        (QOS_1, pubrec(1)),
        (QOS_1, pubcomp(1)),
        (QOS_2, pubcomp(1)),
    ] {
        let mut harness = Harness::connected(options(V5));
        harness.publish("t", qos);
        harness.sent();
        harness.receive(&answer);
        let expected = Violation::AckMismatch(answer.packet_type(), id(1));
        assert_eq!(harness.violation(), expected);
        harness.assert_sent(&[disconnect(ReasonCode::ProtocolError)]);
    }
    // Of what was not sent yet.
    let mut harness = Harness::connected(options(V5));
    harness.publish("t", QOS_1);
    harness.receive(&puback(1));
    assert!(matches!(harness.violation(), Violation::AckMismatch(..)));
    // A release of what the caller has not taken.
    let mut harness = Harness::connected(ConnectOptions {
        acknowledge: Acknowledge::ByCaller,
        ..options(V5)
    });
    harness.receive(&publish("a", QOS_2, 2, false));
    harness.events();
    harness.receive(&pubrel(2));
    let expected = Violation::AckMismatch(PacketType::Pubrel, id(2));
    assert_eq!(harness.violation(), expected);
}

#[test]
fn what_cannot_be_read_is_answered_with_its_reason() {
    let mut harness = Harness::connected(ConnectOptions {
        maximum_packet_size: 100,
        ..options(V5)
    });
    // The header is enough.
    let consumed = harness.client.handle_input(harness.now, &[0x30, 0x63]);
    assert_eq!(consumed, 2);
    assert!(matches!(harness.violation(), Violation::Decode(_)));
    harness.assert_sent(&[disconnect(ReasonCode::PacketTooLarge)]);

    for (bytes, reason) in [
        (&b"\x30\x04\0\x01+\0"[..], ReasonCode::TopicNameInvalid),
        (b"\x00\x00", ReasonCode::MalformedPacket),
        (b"\xD1\x00", ReasonCode::MalformedPacket),
        (b"\x40\x02\x00\x00", ReasonCode::ProtocolError),
    ] {
        let mut harness = Harness::connected(options(V5));
        harness.publish("unsent", QOS_0);
        harness.receive_bytes(bytes);
        assert!(matches!(harness.violation(), Violation::Decode(_)));
        harness.assert_sent(&[disconnect(reason)]);
    }
}

#[test]
fn a_transport_that_closes_is_told_once() {
    let mut harness = Harness::new(options(V5));
    harness.client.handle_closed();
    assert!(harness.events().is_empty());
    harness.client.handle_connected(harness.now);
    harness.client.handle_connected(harness.now);
    assert_eq!(
        harness.events(),
        [Event::Closed(CloseCause::TransportClosed)]
    );
    harness.client.handle_closed();
    harness.client.handle_closed();
    assert_eq!(
        harness.events(),
        [Event::Closed(CloseCause::TransportClosed)]
    );
    assert_eq!(harness.client.handle_input(harness.now, b"late"), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_make_a_client_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ingredients in proptest::collection::vec(Ingredients::any(), 1..4),
        kinds in proptest::collection::vec(0_usize..15, 0..30),
        by_caller in any::<bool>(),
    ) {
        for version in [V3, V4, V5] {
            let mut harness = Harness::connected(ConnectOptions {
                acknowledge: if by_caller { Acknowledge::ByCaller } else { Acknowledge::OnReceipt },
                topic_alias_maximum: 10,
                ..options(version)
            });
            for (index, kind) in kinds.iter().enumerate() {
                let kind = PacketType::ALL[*kind];
                if kind == PacketType::Auth && version != V5 {
                    continue;
                }
                let _ = harness.client.publish(message("t", QOS_2));
                let ingredients = &ingredients[index % ingredients.len()];
                let bytes = with_packet(ingredients, version, kind, |packet| {
                    bytes_of(&packet, version)
                });
                harness.client.handle_input(harness.now, &bytes);
                harness.sent();
            }
            harness.client.handle_input(harness.now, &bytes);
            harness.sent();
            harness.events();
        }
    }
}
