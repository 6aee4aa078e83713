//! Topic aliases towards subscribers: what is on the wire, and what a client makes of it.

use std::collections::{BTreeMap, VecDeque};

use fieldgate::id::ConnId;
use fieldgate::mqtt::{
    Connect, ConnectProperties, Packet, Publish, QoS, SubscriptionOptions, TopicAlias,
};
use proptest::prelude::*;

use crate::house::*;

const TOPIC: &str = "shed/greenhouse/temperature";

/// A client that takes so many aliases, and packets of so many bytes.
fn taking<'a>(connect: &Connect<'a>, aliases: u16, bytes: Option<u32>) -> Connect<'a> {
    Connect {
        properties: ConnectProperties {
            topic_alias_maximum: Some(aliases),
            maximum_packet_size: bytes.and_then(core::num::NonZeroU32::new),
            ..connect.properties
        },
        ..*connect
    }
}

/// Topic and alias of the next publication, as they are on the wire.
fn on_the_wire(b: &mut House, conn: ConnId) -> (String, u16) {
    b.read_with(conn, |packet| {
        let Packet::Publish(publish) = packet else {
            panic!("{packet:?}")
        };
        let alias = publish.properties.topic_alias.map_or(0, TopicAlias::value);
        (publish.topic.to_owned(), alias)
    })
    .expect("a publication")
}

cases! {
    fn a_topic_is_said_once_and_its_alias_afterwards(b: &mut House) {
        let taker = b.join(&taking(&connect(V5, "taker"), 2, None));
        let plain = b.client(V5, "plain");
        b.subscribe(plain, "#", Q0);
        b.subscribe_with(taker, "#", SubscriptionOptions::new(Q2), Some(7));
        b.read(taker);
        let publisher = b.client(V4, "publisher");
        for (qos, topic, said) in [
            (Q0, TOPIC, (TOPIC, 1)),
            (Q0, TOPIC, ("", 1)),
            (Q1, TOPIC, ("", 1)),
            (Q2, "shed/greenhouse/humidity", ("shed/greenhouse/humidity", 2)),
            (Q0, "shed/greenhouse/humidity", ("", 2)),
            (Q0, "shed/greenhouse/pressure", ("shed/greenhouse/pressure", 0)), // none is left
            (Q0, "a/b", ("a/b", 0)),                                           // nor worth it
            (Q0, TOPIC, ("", 1)),
        ] {
            b.publish(publisher, qos, topic, "x");
            if qos == Q2 {
                b.pubrel(publisher, 1);
            }
            let (topic_said, alias) = on_the_wire(b, taker);
            assert_eq!((topic_said.as_str(), alias), said);
            assert_eq!(on_the_wire(b, plain), (topic.to_owned(), 0));
            b.read_all(publisher);
        }
    }

    fn a_packet_that_is_not_sent_establishes_nothing(b: &mut House) {
        // 2 + 2 + 27 + 1 and a payload; with an alias 3 more, and without a topic 24 fewer.
        let taker = b.join(&taking(&connect(V5, "taker"), 4, Some(60)));
        b.subscribe(taker, "#", Q1);
        let publisher = b.client(V5, "publisher");
        for qos in [Q0, Q1] {
            let topic = format!("{TOPIC}{qos}");
            b.publish(publisher, qos, &topic, &"x".repeat(40));
            assert_eq!(b.read(taker), "", "it is too large");
            // As large as it may be without an alias, and too large with it.
            let most = 60 - 2 - 2 - topic.len() - 1 - if qos == Q1 { 2 } else { 0 };
            b.publish(publisher, qos, &topic, &"x".repeat(most));
            assert_eq!(on_the_wire(b, taker), (topic.clone(), 0));
            b.publish(publisher, qos, &topic, &"x".repeat(most - 3));
            let alias = 1 + u16::from(qos == Q1);
            assert_eq!(on_the_wire(b, taker), (topic.clone(), alias));
            // What is too large with its topic fits without.
            b.publish(publisher, qos, &topic, &"x".repeat(most + 20));
            assert_eq!(on_the_wire(b, taker), (String::new(), alias));
            b.read_all(publisher);
        }
        assert_eq!(b.stat("dropped_too_large"), 2);
    }

    fn a_new_connection_has_a_new_table(b: &mut House) {
        let connect = taking(&lasting(V5, "taker"), 4, None);
        let taker = b.join(&connect);
        b.subscribe(taker, "#", Q1);
        let publisher = b.client(V5, "publisher");
        for said in [(TOPIC, 1), ("", 1)] {
            b.publish(publisher, Q1, TOPIC, "x");
            let (topic, alias) = on_the_wire(b, taker);
            assert_eq!((topic.as_str(), alias), said);
        }
        b.drop_conn(taker);
        // Both are sent again, on a connection that knows nothing.
        let taker = b.dial(&connect);
        assert_eq!(b.read(taker), "CONNACK Success present");
        for said in [(TOPIC, 1), ("", 1)] {
            let (topic, alias) = on_the_wire(b, taker);
            assert_eq!((topic.as_str(), alias), said);
        }
        b.drop_conn(taker);
        let taker = b.dial(&lasting(V5, "taker"));
        assert_eq!(b.read(taker), "CONNACK Success present");
        for _ in 0..2 {
            assert_eq!(on_the_wire(b, taker), (TOPIC.to_owned(), 0), "it takes none now");
        }
    }

    fn a_table_is_in_the_account_until_its_connection_ends(b: &mut House) {
        let publisher = b.client(V5, "publisher");
        b.publish(publisher, Q0, "warm", "x");
        let before = b.memory.used();
        let taker = b.join(&taking(&connect(V5, "taker"), 16, None));
        b.subscribe(taker, "#", Q0);
        let empty = b.memory.used();
        for number in 0..16 {
            b.publish(publisher, Q0, &format!("{}{number}", "long/".repeat(100)), "x");
        }
        b.read_all(taker);
        assert!(b.memory.used() >= empty + 16 * 500);
        b.disconnect(taker);
        // What it had received is the last that is left of it.
        assert!(b.memory.used() <= before + 16 * 1024);
    }

    fn the_operator_can_do_without(b: &mut House) {
        b.set(|settings| settings.outgoing_topic_aliases = 0);
        let taker = b.join(&taking(&connect(V5, "taker"), 16, None));
        b.subscribe(taker, "#", Q0);
        let publisher = b.client(V5, "publisher");
        for _ in 0..2 {
            b.publish(publisher, Q0, TOPIC, "x");
            assert_eq!(on_the_wire(b, taker), (TOPIC.to_owned(), 0));
        }
    }
}

/// What happens, as numbers that mean something below.
#[derive(Debug, Clone)]
enum Step {
    Publish {
        topic: usize,
        qos: QoS,
        len: usize,
        retain: bool,
    },
    /// The client stops reading, or reads on.
    Stall(bool),
    Acknowledge,
    /// The client subscribes anew, and is sent what is retained.
    Subscribe,
    /// The connection breaks, and the client comes back.
    Reconnect {
        aliases: u16,
        bytes: Option<u32>,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let qos = prop_oneof![3 => Just(Q0), 2 => Just(Q1), 1 => Just(Q2)];
    let len = prop_oneof![8 => 0..40_usize, 2 => 1900..2200_usize, 1 => 60_000..70_000_usize];
    let topic = prop_oneof![4 => 0..3_usize, 1 => 0..12_usize];
    let publish = (topic, qos, len, proptest::bool::weighted(0.1));
    let publish = publish.prop_map(|(topic, qos, len, retain)| Step::Publish {
        topic,
        qos,
        len,
        retain,
    });
    let bytes = prop_oneof![3 => Just(None), 1 => (50_u32..80).prop_map(Some)];
    let reconnect = (0..6_u16, bytes);
    let step = prop_oneof![
        20 => publish,
        2 => any::<bool>().prop_map(Step::Stall),
        4 => Just(Step::Acknowledge),
        1 => Just(Step::Subscribe),
        1 => reconnect.prop_map(|(aliases, bytes)| Step::Reconnect { aliases, bytes }),
    ];
    proptest::collection::vec(step, 1..120)
}

/// A client as the standard has it, which believes what it is sent.
struct Taker {
    conn: ConnId,
    maximum: u16,
    bytes: Option<u32>,
    table: BTreeMap<u16, String>,
    /// Acknowledgements that it owes: whether it is PUBREC, and of what.
    owed: VecDeque<(bool, u16)>,
}

impl Taker {
    fn join(b: &mut House, maximum: u16, bytes: Option<u32>) -> Self {
        let conn = b.dial(&taking(&lasting(V5, "taker"), maximum, bytes));
        assert!(b.read(conn).starts_with("CONNACK Success"));
        let (table, owed) = (BTreeMap::new(), VecDeque::new());
        Self {
            conn,
            maximum,
            bytes,
            table,
            owed,
        }
    }

    /// Reads all that there is; how many publications that was.
    fn read(&mut self, b: &mut House) -> usize {
        let mut count = 0;
        loop {
            let Self {
                maximum,
                bytes,
                table,
                owed,
                ..
            } = self;
            let more = b.read_with(self.conn, |packet| match packet {
                Packet::Publish(publish) => {
                    let len = packet.encoded_len(V5);
                    assert!(bytes.is_none_or(|bytes| len <= bytes as usize));
                    let topic = resolve(table, *maximum, publish);
                    let said = publish.payload.split(|byte| *byte == b'|').next().unwrap();
                    assert_eq!(topic.as_bytes(), said, "the topic that was published to");
                    count += 1;
                    if let Some(id) = publish.packet_id {
                        owed.push_back((publish.qos == Q2, id.value()));
                    }
                }
                Packet::Pubrel(_) | Packet::Suback(_) => {}
                other => panic!("{other:?}"),
            });
            if more.is_none() {
                return count;
            }
        }
    }

    fn acknowledge(&mut self, b: &mut House) {
        for (is_pubrec, id) in core::mem::take(&mut self.owed) {
            if is_pubrec {
                b.pubrec(self.conn, id);
                b.pubcomp(self.conn, id);
            } else {
                b.puback(self.conn, id);
            }
        }
    }
}

/// The topic of a publication (3.3.2.3.4).
fn resolve(table: &mut BTreeMap<u16, String>, maximum: u16, publish: &Publish<'_>) -> String {
    let Some(alias) = publish.properties.topic_alias else {
        assert!(!publish.topic.is_empty());
        return publish.topic.to_owned();
    };
    assert!((1..=maximum).contains(&alias.value()), "above its maximum");
    if !publish.topic.is_empty() {
        table.insert(alias.value(), publish.topic.to_owned());
    }
    let topic = table.get(&alias.value());
    topic.expect("an alias that stands for something").clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_client_with_a_table_of_its_own_sees_the_right_topics(
        steps in steps(), fetch in any::<bool>(), maximum in 0..6_u16,
    ) {
        let b = &mut House::new(fetch);
        let publisher = b.client(V4, "publisher");
        let mut taker = Taker::join(b, maximum, None);
        b.subscribe_with(taker.conn, "#", SubscriptionOptions::new(Q2), None);
        let (mut is_stalled, mut published, mut seen) = (false, 0, 0);
        let mut is_counted = true;
        for step in steps {
            match step {
                Step::Publish { topic, qos, len, retain } => {
                    let topic = format!("level/of/topic/{topic}");
                    let payload = format!("{topic}|{}", "x".repeat(len));
                    let message = Publish { retain, ..publish(qos, &topic, &payload) };
                    b.send(publisher, &Packet::Publish(message));
                    if qos == Q2 {
                        b.pubrel(publisher, 1);
                    }
                    b.read_all(publisher);
                    published += 1;
                }
                Step::Stall(stall) => {
                    is_stalled = stall;
                    b.stall(taker.conn, stall);
                }
                Step::Acknowledge => taker.acknowledge(b),
                Step::Subscribe => {
                    b.subscribe_with(taker.conn, "#", SubscriptionOptions::new(Q2), None);
                    is_counted = false;
                }
                Step::Reconnect { aliases, bytes } => {
                    b.drop_conn(taker.conn);
                    taker = Taker::join(b, aliases, bytes);
                    is_stalled = false;
                    is_counted = false; // QoS 0 is lost, and the rest comes twice
                }
            }
            if !is_stalled {
                seen += taker.read(b);
            }
        }
        b.stall(taker.conn, false);
        loop {
            let count = taker.read(b);
            seen += count;
            if count == 0 && taker.owed.is_empty() {
                break;
            }
            taker.acknowledge(b);
        }
        prop_assert!(!is_counted || seen == published, "{} of {}", seen, published);
    }
}
