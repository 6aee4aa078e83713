//! The same scripts on the broker's machine and over TCP to the real host, in both versions.

use fieldgate::id::ConnId;
use fieldgate::mqtt::{
    Ack, Connect, Disconnect, Packet, ProtocolVersion, Publish, ReasonCode, TopicName, Will,
    WillProperties,
};

use crate::bench::{Bench, Client, Plan};
use crate::house::*;
use crate::support::*;

/// A broker that somebody is connected to, by whatever carries bytes. Clients are numbers in the
/// order in which they came.
trait Wire {
    fn open(&mut self) -> usize;
    fn send(&mut self, client: usize, bytes: &[u8]);
    /// Exactly these bytes come next.
    fn expect(&mut self, client: usize, bytes: &[u8]);
    /// These bytes come next, and then the connection ends. `None`: whatever comes.
    fn expect_end(&mut self, client: usize, bytes: Option<&[u8]>);
    /// The client is gone without a word.
    fn lose(&mut self, client: usize);
    /// The start of the next packet that this client is sent; the whole packet is taken.
    fn packet(&mut self, client: usize) -> Vec<u8>;
}

struct OnTheMachine {
    house: House,
    clients: Vec<ConnId>,
    unseen: Vec<Vec<u8>>,
}

impl Wire for OnTheMachine {
    fn open(&mut self) -> usize {
        self.clients.push(self.house.open());
        self.unseen.push(Vec::new());
        self.clients.len() - 1
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        self.house.send_bytes(self.clients[client], bytes);
    }

    fn expect(&mut self, client: usize, bytes: &[u8]) {
        let seen = &mut self.unseen[client];
        seen.extend(self.house.read_bytes(self.clients[client]));
        assert!(seen.len() >= bytes.len(), "{seen:02x?} {bytes:02x?}");
        let here: Vec<_> = seen.drain(..bytes.len()).collect();
        assert_eq!(here, bytes);
    }

    fn expect_end(&mut self, client: usize, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            self.expect(client, bytes);
            assert!(self.unseen[client].is_empty());
        }
        assert!(!self.house.is_open(self.clients[client]));
    }

    fn lose(&mut self, client: usize) {
        self.house.drop_conn(self.clients[client]);
    }

    fn packet(&mut self, client: usize) -> Vec<u8> {
        let seen = &mut self.unseen[client];
        seen.extend(self.house.read_bytes(self.clients[client]));
        let len = 2 + usize::from(seen[1]);
        seen.drain(..len).collect()
    }
}

struct OverTcp {
    bench: Bench,
    clients: Vec<Option<Client>>,
}

impl OverTcp {
    fn client(&mut self, client: usize) -> (&mut Bench, &mut Client) {
        let client = self.clients[client].as_mut().expect("it is there");
        (&mut self.bench, client)
    }
}

impl Wire for OverTcp {
    fn open(&mut self) -> usize {
        self.clients.push(Some(self.bench.tcp()));
        self.clients.len() - 1
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        self.client(client).1.send(bytes);
    }

    fn expect(&mut self, client: usize, bytes: &[u8]) {
        let (bench, client) = self.client(client);
        bench.expect(client, bytes);
    }

    fn expect_end(&mut self, client: usize, bytes: Option<&[u8]>) {
        let (bench, client) = self.client(client);
        let rest = bench.rest(client);
        if let Some(bytes) = bytes {
            assert_eq!(rest, bytes);
        }
    }

    fn lose(&mut self, client: usize) {
        let before = self.bench.counters().connections;
        self.clients[client] = None;
        self.bench.until("the host has noticed", |bench| {
            (bench.counters().connections < before).then_some(())
        });
    }

    fn packet(&mut self, client: usize) -> Vec<u8> {
        let (bench, client) = self.client(client);
        bench.until("a packet", |_| {
            client.receive();
            let len = client.input.get(1).map(|len| 2 + usize::from(*len));
            len.is_some_and(|len| client.input.len() >= len)
                .then_some(())
        });
        let len = 2 + usize::from(client.input[1]);
        client.input.drain(..len).collect()
    }
}

/// A client that has connected, whatever CONNACK said besides success.
fn join(wire: &mut dyn Wire, connect: &Connect<'_>) -> (usize, bool) {
    let client = wire.open();
    wire.send(
        client,
        &bytes_of(connect.version, &Packet::Connect(*connect)),
    );
    let answer = wire.packet(client);
    assert_eq!((answer[0], answer[3]), (0x20, 0));
    (client, answer[2] == 1)
}

fn joined(wire: &mut dyn Wire, version: ProtocolVersion, name: &str) -> usize {
    join(wire, &connect(version, name)).0
}

fn subscribed(wire: &mut dyn Wire, client: usize, version: ProtocolVersion, filter: &str, qos: u8) {
    wire.send(client, &subscribe_bytes(version, filter.as_bytes(), qos));
    let answer = [&[0, 1][..], no_properties(version), &[qos]].concat();
    wire.expect(client, &packet(0x90, &answer));
}

fn message(version: ProtocolVersion, publish: &Publish<'_>) -> Vec<u8> {
    bytes_of(version, &Packet::Publish(*publish))
}

/// Says something and hears the answer: what was sent before has been seen to by then.
fn ping(wire: &mut dyn Wire, client: usize) {
    wire.send(client, &[0xC0, 0]);
    wire.expect(client, &[0xD0, 0]);
}

/// Each script is a test that runs on the machine and over TCP, in both versions.
macro_rules! scripts {
    ($(
        $(#[$meta:meta])*
        fn $name:ident($wire:ident: &mut dyn Wire, $version:ident) $body:block
    )*) => {$(
        #[test]
        fn $name() {
            fn script($wire: &mut dyn Wire, $version: ProtocolVersion) $body
            for version in BOTH {
                println!("on the machine, {version}");
                script(&mut OnTheMachine {
                    house: House::new(false),
                    clients: Vec::new(),
                    unseen: Vec::new(),
                }, version);
                println!("over TCP, {version}");
                script(&mut OverTcp { bench: Plan::tcp().start(), clients: Vec::new() }, version);
            }
        }
    )*};
}

scripts! {
    // [MQTT-3.1.0-1] [MQTT-3.1.0-1/3.1.1]
    fn nothing_but_connect_is_a_first_word(wire: &mut dyn Wire, version) {
        for bytes in [&[0xC0, 0][..], &publish_bytes(version, b"t", b"x"), &[0xE0, 0]] {
            let client = wire.open();
            wire.send(client, bytes);
            wire.expect_end(client, Some(b""));
        }
    }

    // [MQTT-3.1.0-2] [MQTT-3.1.0-2/3.1.1]
    fn connect_is_said_once(wire: &mut dyn Wire, version) {
        let client = joined(wire, version, "a");
        wire.send(client, &bytes_of(version, &Packet::Connect(connect(version, "a"))));
        wire.expect_end(client, (version == V4).then_some(b""));
    }

    // [MQTT-3.1.2-2] [MQTT-3.1.2-2/3.1.1]
    fn a_level_that_is_not_spoken_is_refused(wire: &mut dyn Wire, version) {
        let mut bytes = connect_bytes(V4, 2, b"");
        bytes[8] = if version == V4 { 2 } else { 6 };
        let client = wire.open();
        wire.send(client, &bytes);
        let answer = wire.packet(client);
        assert_eq!((answer[0], answer[3]), (0x20, if version == V4 { 1 } else { 0x84 }));
        wire.expect_end(client, Some(b""));
    }

    // [MQTT-3.1.2-3] [MQTT-3.1.2-3/3.1.1]
    fn a_connect_with_the_reserved_flag_is_refused(wire: &mut dyn Wire, version) {
        let client = wire.open();
        wire.send(client, &connect_bytes(version, 3, b""));
        if version == V5 {
            assert_eq!(wire.packet(client)[2..4], [0, 0x81]);
        }
        wire.expect_end(client, Some(b""));
    }

    // [MQTT-3.1.4-3] [MQTT-3.1.4-2/3.1.1]
    fn a_client_that_connects_again_takes_over(wire: &mut dyn Wire, version) {
        let old = joined(wire, version, "a");
        let new = joined(wire, version, "a");
        let last_word = if version == V5 { &[0xE0, 1, 0x8E][..] } else { b"" };
        wire.expect_end(old, Some(last_word));
        ping(wire, new);
    }

    // [MQTT-3.1.2-5] [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-3.1.2-4/3.1.1] [MQTT-4.4.0-1/3.1.1]
    // [MQTT-3.3.1-1/3.1.1]
    fn a_session_goes_on_with_what_was_not_acknowledged(wire: &mut dyn Wire, version) {
        let (taker, present) = join(wire, &lasting(version, "taker"));
        assert!(!present);
        subscribed(wire, taker, version, "t", 1);
        let publisher = joined(wire, version, "publisher");
        let sent = publish(Q1, "t", "x");
        wire.send(publisher, &message(version, &sent));
        wire.expect(publisher, &[0x40, 2, 0, 1]);
        wire.expect(taker, &message(version, &sent));
        wire.lose(taker);
        let (taker, present) = join(wire, &lasting(version, "taker"));
        assert!(present);
        wire.expect(taker, &message(version, &Publish { dup: true, ..sent }));
        wire.send(taker, &[0x40, 2, 0, 1]);
        ping(wire, taker);
        wire.lose(taker);
        let (taker, _) = join(wire, &lasting(version, "taker"));
        ping(wire, taker);
    }

    // [MQTT-3.1.2-8] [MQTT-3.14.4-3] [MQTT-3.1.2-8/3.1.1] [MQTT-3.14.4-3/3.1.1]
    fn a_lost_client_has_its_will(wire: &mut dyn Wire, version) {
        let watcher = joined(wire, version, "watcher");
        subscribed(wire, watcher, version, "will/#", 0);
        let with_will = |topic| Connect {
            will: Some(Will {
                topic: TopicName::new(topic).unwrap(),
                payload: b"gone",
                qos: Q0,
                retain: false,
                properties: WillProperties::default(),
            }),
            ..connect(version, "a")
        };
        let (polite, _) = join(wire, &with_will("will/polite"));
        let goodbye = Packet::Disconnect(Disconnect::new(ReasonCode::NORMAL_DISCONNECTION));
        wire.send(polite, &bytes_of(version, &goodbye));
        wire.expect_end(polite, Some(b""));
        let (lost, _) = join(wire, &with_will("will/lost"));
        wire.lose(lost);
        wire.expect(watcher, &publish_bytes(version, b"will/lost", b"gone"));
    }

    // [MQTT-3.3.1-5] [MQTT-3.3.1-7] [MQTT-3.3.1-9] [MQTT-3.3.1-5/3.1.1] [MQTT-3.3.1-6/3.1.1]
    // [MQTT-3.3.1-8/3.1.1] [MQTT-3.3.1-11/3.1.1]
    fn what_is_retained_comes_with_a_subscription(wire: &mut dyn Wire, version) {
        let publisher = joined(wire, version, "publisher");
        let retained = |text| message(version, &Publish { retain: true, ..publish(Q0, "t", text) });
        wire.send(publisher, &retained("old"));
        wire.send(publisher, &retained("new"));
        ping(wire, publisher);
        let taker = joined(wire, version, "taker");
        subscribed(wire, taker, version, "t", 0);
        wire.expect(taker, &retained("new"));
        wire.send(publisher, &retained(""));
        wire.expect(taker, &publish_bytes(version, b"t", b""));
        let late = joined(wire, version, "late");
        subscribed(wire, late, version, "t", 0);
        ping(wire, late);
    }

    // [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT-4.3.3-12] [MQTT-4.3.3-2/3.1.1]
    fn a_qos_2_message_arrives_once(wire: &mut dyn Wire, version) {
        let taker = joined(wire, version, "taker");
        subscribed(wire, taker, version, "t", 0);
        let publisher = joined(wire, version, "publisher");
        for text in ["1", "2"] {
            let sent = publish(Q2, "t", text);
            for dup in [false, true] {
                wire.send(publisher, &message(version, &Publish { dup, ..sent }));
                wire.expect(publisher, &[0x50, 2, 0, 1]);
            }
            wire.send(publisher, &bytes_of(version, &Packet::Pubrel(Ack::success(id(1)))));
            wire.expect(publisher, &[0x70, 2, 0, 1]);
            wire.expect(taker, &publish_bytes(version, b"t", text.as_bytes()));
        }
        ping(wire, taker);
    }

    // [MQTT-3.3.2-2] [MQTT-4.13.1-1] [MQTT-4.13.2-1] [MQTT-3.3.2-2/3.1.1] [MQTT-4.8.0-1/3.1.1]
    fn an_error_ends_its_connection_and_no_other(wire: &mut dyn Wire, version) {
        let watcher = joined(wire, version, "watcher");
        subscribed(wire, watcher, version, "a/#", 0);
        for bad in [&publish_bytes(version, b"a/#", b"x")[..], &[0x36, 3, 0, 1, b't'], &[0x00, 0]] {
            let client = joined(wire, version, "a");
            wire.send(client, bad);
            if version == V5 {
                let last_word = wire.packet(client);
                assert_eq!(last_word[0], 0xE0);
                assert!(last_word[2] >= 0x80, "{last_word:02x?}");
            }
            wire.expect_end(client, Some(b""));
        }
        ping(wire, watcher);
    }

    // [MQTT-3.8.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-4] [MQTT-3.8.4-1/3.1.1] [MQTT-3.10.4-2/3.1.1]
    // [MQTT-3.10.4-4/3.1.1]
    fn who_unsubscribes_gets_nothing_more(wire: &mut dyn Wire, version) {
        let taker = joined(wire, version, "taker");
        subscribed(wire, taker, version, "t/+", 0);
        let publisher = joined(wire, version, "publisher");
        let bytes = publish_bytes(version, b"t/x", b"1");
        wire.send(publisher, &bytes);
        wire.expect(taker, &bytes);
        wire.send(taker, &unsubscribe_bytes(version, b"t/+"));
        let answer: &[u8] = if version == V5 { &[0, 1, 0, 0] } else { &[0, 1] };
        wire.expect(taker, &packet(0xB0, answer));
        wire.send(publisher, &bytes);
        ping(wire, publisher);
        ping(wire, taker);
    }

    // [MQTT-4.2-1] [MQTT-7.1.1-1/3.1.1]
    fn a_packet_may_come_in_any_pieces(wire: &mut dyn Wire, version) {
        let client = wire.open();
        let whole = bytes_of(version, &Packet::Connect(connect(version, "a")));
        for byte in &whole {
            wire.send(client, &[*byte]);
        }
        assert_eq!(wire.packet(client)[3], 0);
        subscribed(wire, client, version, "t", 0);
        let bytes = publish_bytes(version, b"t", &[7; 100]);
        wire.send(client, &[&bytes[..], &bytes[..50]].concat());
        wire.expect(client, &bytes);
        wire.send(client, &bytes[50..]);
        wire.expect(client, &bytes);
    }
}
