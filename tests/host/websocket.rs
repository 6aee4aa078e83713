//! MQTT over WebSocket, with a client made by hand.

use std::sync::Arc;

use fieldgate::gateway::settings::{Protocols, TransportSettings};
use fieldgate::time::Duration;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::authority::{Authority, Dial, over_tls, tls};
use crate::bench::{
    Bench, CONNACK, Client, Folder, PINGREQ, PINGRESP, Plan, connect, publish, publish_qos1,
    subscribe,
};

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const BINARY: u8 = 0x82;
const PING: u8 = 0x89;
const CLOSE: u8 = 0x88;

fn plan(protocols: Protocols) -> Plan {
    let mut plan = Plan::tcp();
    plan.transport.protocols = protocols;
    plan
}

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0xA2, 0x33, 0xC4];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            bytes.push(0xFE);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0xFF);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    bytes
}

/// What a server has said in frames: the data, and the control frames.
#[derive(Default)]
struct Heard {
    data: Vec<u8>,
    controls: Vec<(u8, Vec<u8>)>,
}

impl Heard {
    /// Takes the whole frames out of what a client has received.
    fn take(&mut self, input: &mut Vec<u8>) {
        loop {
            let [first, short, ..] = input[..] else {
                return;
            };
            assert!(short <= 126, "a server does not mask, nor send so much");
            let (at, len) = if short == 126 {
                let Some(long) = input.get(2..4) else {
                    return;
                };
                (4, usize::from(u16::from_be_bytes([long[0], long[1]])))
            } else {
                (2, usize::from(short))
            };
            if input.len() < at + len {
                return;
            }
            let payload: Vec<u8> = input.drain(..at + len).skip(at).collect();
            match first {
                BINARY => {
                    assert!(len <= 16 * 1024);
                    self.data.extend(payload);
                }
                _ => self.controls.push((first, payload)),
            }
        }
    }

    /// Turns until data is here that is exactly this.
    fn expect(&mut self, bench: &mut Bench, client: &mut Client, data: &[u8]) {
        bench.until("the data arrives", |_| {
            client.receive();
            self.take(&mut client.input);
            (self.data.len() >= data.len()).then_some(())
        });
        assert!(self.data == data, "something else came");
        self.data.clear();
    }

    fn expect_control(&mut self, bench: &mut Bench, client: &mut Client) -> (u8, Vec<u8>) {
        bench.until("a control frame arrives", |_| {
            client.receive();
            self.take(&mut client.input);
            (!self.controls.is_empty()).then(|| self.controls.remove(0))
        })
    }
}

fn upgraded(bench: &mut Bench, mut client: Client) -> Client {
    client.send(REQUEST.as_bytes());
    let answer = head(bench, &mut client);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(answer.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"));
    client
}

/// The head of an HTTP answer.
fn head(bench: &mut Bench, client: &mut Client) -> String {
    let end = bench.until("an answer", |_| {
        client.receive();
        let mut windows = client.input.windows(4);
        windows.position(|four| four == b"\r\n\r\n")
    });
    String::from_utf8(client.input.drain(..end + 4).collect()).unwrap()
}

fn connected(bench: &mut Bench, client: Client, id: &str) -> (Client, Heard) {
    let mut client = upgraded(bench, client);
    let mut heard = Heard::default();
    client.send(&frame(BINARY, &connect(id)));
    heard.expect(bench, &mut client, &CONNACK);
    (client, heard)
}

#[test]
fn messages_of_every_length_go_through() {
    let mut bench = plan(Protocols::WebSocket).start();
    let client = bench.tcp();
    let (mut client, mut heard) = connected(&mut bench, client, "page");
    let (ask, granted) = subscribe("plant/#", 0);
    client.send(&frame(BINARY, &ask));
    heard.expect(&mut bench, &mut client, &granted);
    for len in [0, 1, 100, 1000, 16_384, 70_000, 900_000] {
        let payload: Vec<u8> = (0..len).map(|index: u32| (index / 7) as u8).collect();
        let message = publish("plant/level", &payload);
        let bytes = frame(BINARY, &message);
        let mut sent = 0;
        bench.until("it is sent and comes back", |_| {
            sent += client.try_send(&bytes[sent..]);
            client.receive();
            heard.take(&mut client.input);
            (heard.data.len() >= message.len()).then_some(())
        });
        assert!(heard.data == message, "{len}");
        heard.data.clear();
    }
    assert_eq!(bench.counters().websocket_failed, 0);
}

#[test]
fn packets_are_split_and_merged_across_frames_at_will() {
    let mut bench = plan(Protocols::WebSocket).start();
    let cuts = proptest::collection::vec((0_usize..40, any::<bool>()), 0..60);
    let config = ProptestConfig::with_cases(24);
    let bench = std::cell::RefCell::new(&mut bench);
    TestRunner::new(config)
        .run(&cuts, |cuts| {
            let bench = &mut **bench.borrow_mut();
            let mut client = upgraded(bench, bench.tcp());
            let (ask, granted) = subscribe("a/b", 1);
            let (one, answer) = publish_qos1("c", 2, &[b'y'; 150]);
            let mut stream = connect("splitter");
            stream.extend(ask);
            stream.extend(&one);
            stream.extend(PINGREQ);
            let mut rest = &stream[..];
            let mut is_first = true;
            let mut bytes = Vec::new();
            for (len, pings) in cuts {
                let (part, after) = rest.split_at(len.min(rest.len()));
                bytes.extend(frame(if is_first { 0x02 } else { 0x00 }, part));
                is_first = false;
                rest = after;
                if pings {
                    bytes.extend(frame(0x8A, b"unasked"));
                }
            }
            bytes.extend(frame(if is_first { 0x82 } else { 0x80 }, rest));
            client.send(&bytes);
            let mut expected = CONNACK.to_vec();
            expected.extend(granted);
            expected.extend(answer);
            expected.extend(PINGRESP);
            let mut heard = Heard::default();
            heard.expect(bench, &mut client, &expected);
            prop_assert!(heard.controls.is_empty());
            Ok(())
        })
        .unwrap();
}

#[test]
fn frames_that_come_with_the_request_are_not_lost() {
    let mut bench = plan(Protocols::WebSocket).start();
    let mut client = bench.tcp();
    let mut bytes = REQUEST.as_bytes().to_vec();
    bytes.extend(frame(BINARY, &connect("hasty")));
    bytes.extend(frame(BINARY, &PINGREQ));
    client.send(&bytes);
    assert!(head(&mut bench, &mut client).starts_with("HTTP/1.1 101 "));
    let expected = [&CONNACK[..], &PINGRESP[..]].concat();
    Heard::default().expect(&mut bench, &mut client, &expected);
    // And a request that comes byte by byte.
    let mut client = bench.tcp();
    for byte in REQUEST.as_bytes() {
        client.send(&[*byte]);
        bench.turn();
    }
    assert!(head(&mut bench, &mut client).starts_with("HTTP/1.1 101 "));
}

#[test]
fn pings_are_answered_and_a_close_is_answered_with_its_code() {
    let mut bench = plan(Protocols::WebSocket).start();
    let client = bench.tcp();
    let (mut client, mut heard) = connected(&mut bench, client, "page");
    client.send(&frame(PING, b"are you there"));
    let pong = heard.expect_control(&mut bench, &mut client);
    assert_eq!(pong, (0x8A, b"are you there".to_vec()));
    client.send(&frame(CLOSE, b"\x03\xE9going away"));
    let close = heard.expect_control(&mut bench, &mut client);
    assert_eq!(close, (CLOSE, vec![0x03, 0xE9]));
    assert_eq!(bench.rest(&mut client), b"");
    assert_eq!(bench.counters().websocket_failed, 0);
}

#[test]
fn the_end_of_mqtt_is_followed_by_a_close_frame() {
    let mut bench = plan(Protocols::WebSocket).start();
    // A packet that does not exist.
    let client = bench.tcp();
    let (mut client, mut heard) = connected(&mut bench, client, "page");
    client.send(&frame(BINARY, &[0, 0]));
    let close = heard.expect_control(&mut bench, &mut client);
    assert_eq!(close, (CLOSE, vec![0x03, 0xE8]));
    assert_eq!(bench.rest(&mut client), b"");
    // DISCONNECT, and the client hangs up: what it said before is obeyed.
    let client = bench.tcp();
    let (mut watcher, mut heard) = connected(&mut bench, client, "watcher");
    let (ask, granted) = subscribe("last/words", 0);
    watcher.send(&frame(BINARY, &ask));
    heard.expect(&mut bench, &mut watcher, &granted);
    let client = bench.tcp();
    let (mut client, _) = connected(&mut bench, client, "page");
    let message = publish("last/words", b"good night");
    let mut bytes = frame(BINARY, &message);
    bytes.extend(frame(CLOSE, b""));
    client.send(&bytes);
    client.shutdown_write().unwrap();
    heard.expect(&mut bench, &mut watcher, &message);
    bench.until("it is gone", |bench| {
        (bench.counters().connections == 1).then_some(())
    });
}

#[test]
fn frames_that_are_not_allowed_close_with_the_code_that_says_why() {
    let mut plan = plan(Protocols::WebSocket);
    plan.broker.max_packet_size = 10_000;
    let mut bench = plan.start();
    let mut too_long = vec![BINARY, 0xFF];
    too_long.extend_from_slice(&100_000_u64.to_be_bytes());
    let cases: [(&[u8], u16); 5] = [
        (&frame(0x81, b"text"), 1003),
        (&[BINARY, 2, 0xC0, 0], 1002),
        (&frame(0xC2, b"compressed"), 1002),
        (&frame(0x80, b"continued"), 1002),
        (&too_long, 1009),
    ];
    for (index, (bytes, code)) in cases.iter().enumerate() {
        let client = bench.tcp();
        let (mut client, mut heard) = connected(&mut bench, client, "page");
        // What comes before it counts.
        client.send(&frame(BINARY, &PINGREQ));
        client.send(bytes);
        let close = heard.expect_control(&mut bench, &mut client);
        assert_eq!(close, (CLOSE, code.to_be_bytes().to_vec()));
        assert_eq!(bench.rest(&mut client), b"");
        bench.until("it is counted", |bench| {
            (bench.counters().websocket_failed == index as u64 + 1).then_some(())
        });
    }
}

#[test]
fn requests_that_are_refused_are_answered() {
    let mut bench = plan(Protocols::WebSocket).start();
    let cases = [
        (REQUEST.replace("/mqtt", "/"), "404"),
        (REQUEST.replace("GET", "POST"), "405"),
        (REQUEST.replace("websocket\r\n", "h2c\r\n"), "426"),
        (
            REQUEST.replace("Host", "Origin: https://evil.example\r\nHost"),
            "403",
        ),
        (REQUEST.replace("Protocol: mqtt", "Protocol: chat"), "400"),
        (
            REQUEST.replace("Host", &format!("X: {}\r\nHost", "y".repeat(9000))),
            "431",
        ),
        ("\u{10}\u{c}\0\u{4}MQTT\u{4}\u{2}\0\0\0\0".to_owned(), "400"),
    ];
    for (index, (request, status)) in cases.iter().enumerate() {
        let mut client = bench.tcp();
        client.send(request.as_bytes());
        let answer = head(&mut bench, &mut client);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let body = bench.rest(&mut client);
        assert!(body.ends_with(b"\n"));
        assert_eq!(bench.counters().websocket_failed, index as u64 + 1);
    }
    bench.until("they are forgotten", |bench| {
        (bench.counters().lingering == 0).then_some(())
    });
    bench.assert_nothing_is_held();
}

#[test]
fn the_first_byte_tells_websocket_and_mqtt_apart() {
    let mut bench = plan(Protocols::Both).start();
    let client = bench.tcp();
    let (mut page, mut heard) = connected(&mut bench, client, "page");
    let (ask, granted) = subscribe("plant/#", 0);
    page.send(&frame(BINARY, &ask));
    heard.expect(&mut bench, &mut page, &granted);
    let mut plain = bench.connected("plain");
    let message = publish("plant/level", &[b'x'; 3000]);
    plain.send(&message);
    heard.expect(&mut bench, &mut page, &message);
    plain.send(&PINGREQ);
    bench.expect(&mut plain, &PINGRESP);
    // Where only MQTT is spoken, GET is no packet.
    let mut mqtt = plan(Protocols::Mqtt).start();
    let mut client = mqtt.tcp();
    client.send(REQUEST.as_bytes());
    assert_eq!(mqtt.rest(&mut client), b"");
}

#[test]
fn websocket_over_tls_by_agreement_or_by_the_first_byte() {
    let authority = Authority::new();
    let folder = Folder::new("websocket-tls");
    let mut plan = Plan::tcp();
    plan.transport = TransportSettings {
        protocols: Protocols::Both,
        ..over_tls(tls(&folder, &authority))
    };
    let mut bench = plan.start();
    let config = |alpn: &[&[u8]]| {
        authority.trusted(&Dial {
            alpn,
            ..Dial::default()
        })
    };
    for config in [config(&[]), config(&[b"http/1.1"])] {
        let client = bench.tls(&config);
        let (mut client, mut heard) = connected(&mut bench, client, "page");
        let (ask, granted) = subscribe("a", 0);
        client.send(&frame(BINARY, &ask));
        heard.expect(&mut bench, &mut client, &granted);
        for len in [10, 100_000] {
            let message = publish("a", &vec![b'z'; len]);
            client.send(&frame(BINARY, &message));
            heard.expect(&mut bench, &mut client, &message);
        }
        client.send(&frame(CLOSE, b""));
        let close = heard.expect_control(&mut bench, &mut client);
        assert_eq!(close, (CLOSE, vec![0x03, 0xE8]));
        assert_eq!(bench.rest(&mut client), b"");
        assert!(client.has_parted);
    }
    for config in [config(&[]), config(&[b"mqtt"])] {
        let mut client = bench.tls(&config);
        client.send(&connect("plain"));
        bench.expect(&mut client, &CONNACK);
    }
    // Who has agreed on MQTT does not send GET.
    let mut client = bench.tls(&Arc::clone(&config(&[b"mqtt"])));
    client.send(REQUEST.as_bytes());
    assert_eq!(bench.rest(&mut client), b"");
    assert_eq!(bench.counters().websocket_failed, 0);
}

#[test]
fn a_request_that_does_not_end_is_under_the_limit_of_connect() {
    let mut plan = plan(Protocols::Both);
    plan.broker.connect_timeout = Duration::from_millis(50);
    let mut bench = plan.start();
    let mut silent = bench.tcp();
    let mut slow = bench.tcp();
    slow.send(b"GET /mqtt HTTP/1.1\r\nHost: ");
    for client in [&mut silent, &mut slow] {
        assert_eq!(bench.rest(client), b"");
    }
}

#[test]
fn a_flood_of_pings_holds_nobody_up_and_is_answered_by_the_latest() {
    let mut bench = plan(Protocols::Both).start();
    let client = bench.tcp();
    let (mut flood, _) = connected(&mut bench, client, "flood");
    let mut other = bench.connected("other");
    let pings = frame(PING, &[b'p'; 125]).repeat(500);
    let mut sent = 0;
    for _ in 0..20 {
        loop {
            let next = sent % pings.len();
            match flood.try_send(&pings[next..]) {
                0 => break,
                count => sent += count,
            }
            if sent > 64 << 20 {
                break;
            }
        }
        other.send(&PINGREQ);
        for _ in 0..2 {
            bench.turn();
        }
        other.receive();
        assert_eq!(other.input, PINGRESP, "it took more than two turns");
        other.input.clear();
    }
    assert!(bench.memory_used() < bench.memory_at_start + 100_000);
}
