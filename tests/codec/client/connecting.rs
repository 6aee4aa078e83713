//! From CONNECT to CONNACK.

use fieldgate::buffer::Payload;
use fieldgate::mqtt::ProtocolVersion::{V3, V4, V5};
use fieldgate::mqtt::client::{
    Client, CloseCause, ConnectOptions, Event, OptionsError, Refusal, WillOptions,
};
use fieldgate::mqtt::{
    ApplicationMessage, ConnackProperties, Packet, PublishProperties, ReasonCode, ReceiveMaximum,
    TopicFilter, TopicName, WillProperties,
};
use fieldgate::time::{Duration, Instant};

use super::*;

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
                properties.maximum_packet_size.map(core::num::NonZero::get),
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
