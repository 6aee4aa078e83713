//! Random lives of a few clients, against a broker that is too simple to be wrong.
//!
//! The model knows nothing of packets, windows or tries: it has lists, and scans them. Its clients
//! acknowledge everything at once, so what they are sent is what the model says, in its order.

use std::collections::BTreeMap;

use fieldgate::id::ConnId;
use fieldgate::mqtt::{
    Connect, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, SubscriptionOptions,
    TopicName, Will, WillProperties, topic,
};
use fieldgate::time::Duration;
use proptest::prelude::*;

use crate::house::*;

const NAMES: [&str; 3] = ["ada", "bob", "cyd"];
const TOPICS: [&str; 5] = ["a", "a/b", "a/c", "b", "a/b/c"];
const FILTERS: [&str; 8] = ["a", "a/b", "a/+", "a/#", "#", "+", "+/b", "a/+/c"];
const WILLS: [&str; 3] = ["a/c", "b", "a/b"];

#[derive(Debug, Clone)]
enum Step {
    Connect {
        who: usize,
        version: ProtocolVersion,
        clean: bool,
        will: bool,
    },
    /// The connection breaks, or is left in an orderly way.
    Leave {
        who: usize,
        breaks: bool,
    },
    Subscribe {
        who: usize,
        filter: usize,
        qos: QoS,
    },
    Unsubscribe {
        who: usize,
        filter: usize,
    },
    Publish {
        who: usize,
        topic: usize,
        qos: QoS,
        retain: bool,
        empty: bool,
    },
    Wait {
        seconds: u64,
    },
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(Q0), Just(Q1), Just(Q2)]
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..NAMES.len();
    let version = prop_oneof![Just(V4), Just(V5)];
    prop_oneof![
        3 => (who.clone(), version, any::<bool>(), any::<bool>()).prop_map(
            |(who, version, clean, will)| Step::Connect { who, version, clean, will }
        ),
        2 => (who.clone(), any::<bool>()).prop_map(|(who, breaks)| Step::Leave { who, breaks }),
        4 => (who.clone(), 0..FILTERS.len(), qos()).prop_map(
            |(who, filter, qos)| Step::Subscribe { who, filter, qos }
        ),
        1 => (who.clone(), 0..FILTERS.len()).prop_map(
            |(who, filter)| Step::Unsubscribe { who, filter }
        ),
        8 => (who, 0..TOPICS.len(), qos(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(who, topic, qos, retain, empty)| Step::Publish { who, topic, qos, retain, empty }
        ),
        1 => (1_u64..3000).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// What a client is sent: topic, QoS, RETAIN, payload.
type Sent = (String, QoS, bool, String);

#[derive(Default)]
struct Model {
    sessions: BTreeMap<usize, ModelSession>,
    retained: BTreeMap<String, (QoS, String)>,
    now: u64,
}

#[derive(Default)]
struct ModelSession {
    /// Where a connected client's messages go.
    inbox: Option<Vec<Sent>>,
    lasts: bool,
    will: bool,
    gone_at: u64,
    filters: BTreeMap<&'static str, QoS>,
    queue: Vec<Sent>,
}

impl Model {
    fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &str) {
        if retain && payload.is_empty() {
            self.retained.remove(topic);
        } else if retain {
            self.retained.insert(topic.into(), (qos, payload.into()));
        }
        for session in self.sessions.values_mut() {
            let granted = session
                .filters
                .iter()
                .filter(|(filter, _)| topic::matches(filter, topic))
                .map(|(_, qos)| *qos)
                .max();
            let Some(qos) = granted.map(|granted| granted.min(qos)) else {
                continue;
            };
            let sent = (topic.to_owned(), qos, false, payload.to_owned());
            match &mut session.inbox {
                Some(inbox) => inbox.push(sent),
                None if qos > Q0 => session.queue.push(sent),
                None => {}
            }
        }
    }

    fn subscribe(&mut self, who: usize, filter: &'static str, granted: QoS) {
        let session = self.sessions.get_mut(&who).expect("it is connected");
        session.filters.insert(filter, granted);
        let inbox = session.inbox.as_mut().expect("it is connected");
        for (topic, (qos, payload)) in &self.retained {
            if topic::matches(filter, topic) {
                inbox.push((topic.clone(), granted.min(*qos), true, payload.clone()));
            }
        }
    }

    /// The client is gone; its will is published after its session has ended, if that ends.
    fn leave(&mut self, who: usize, breaks: bool) {
        let Some(session) = self.sessions.get_mut(&who) else {
            return;
        };
        if session.inbox.take().is_none() {
            return;
        }
        let will = core::mem::take(&mut session.will);
        session.gone_at = self.now;
        if !session.lasts {
            self.sessions.remove(&who);
        }
        if will && breaks {
            self.publish(WILLS[who], Q1, false, NAMES[who]);
        }
    }

    /// Whether the session was there.
    fn connect(&mut self, who: usize, clean: bool, will: bool) -> bool {
        if clean {
            self.sessions.remove(&who);
        }
        let was_there = self.sessions.contains_key(&who);
        let session = self.sessions.entry(who).or_default();
        session.inbox = Some(core::mem::take(&mut session.queue));
        session.lasts = !clean;
        session.will = will;
        was_there
    }

    fn wait(&mut self, seconds: u64) {
        self.now += seconds;
        let now = self.now;
        self.sessions
            .retain(|_, session| session.inbox.is_some() || now < session.gone_at + 3600);
    }
}

/// Everything that a client has been sent, all of it acknowledged.
fn read_and_acknowledge(b: &mut House, conn: ConnId) -> Vec<Sent> {
    let mut got = Vec::new();
    loop {
        let seen = b.read_with(conn, |packet| match packet {
            Packet::Publish(publish) => {
                assert!(!publish.dup);
                let payload = core::str::from_utf8(publish.payload).unwrap();
                let sent = (
                    publish.topic.into(),
                    publish.qos,
                    publish.retain,
                    payload.into(),
                );
                (Some(sent), publish.packet_id, publish.qos)
            }
            Packet::Pubrel(ack) => (None, Some(ack.packet_id), Q0),
            other => panic!("{other:?}"),
        });
        let Some((sent, packet_id, qos)) = seen else {
            return got;
        };
        let number = packet_id.map(PacketId::value);
        match (qos, number) {
            (Q1, Some(number)) => b.puback(conn, number),
            (Q2, Some(number)) => b.pubrec(conn, number),
            (Q0, Some(number)) => b.pubcomp(conn, number),
            _ => {}
        }
        got.extend(sent);
    }
}

struct Run {
    house: House,
    model: Model,
    conns: [Option<ConnId>; 3],
    count: usize,
}

impl Run {
    fn step(&mut self, step: &Step) {
        let (b, model) = (&mut self.house, &mut self.model);
        match *step {
            Step::Connect {
                who,
                version,
                clean,
                will,
            } => {
                // A takeover is the old connection's end, and then a connect.
                let old = self.conns[who].take();
                let connect = Connect {
                    clean_start: clean,
                    will: will.then(|| Will {
                        topic: TopicName::new(WILLS[who]).unwrap(),
                        payload: NAMES[who].as_bytes(),
                        qos: Q1,
                        retain: false,
                        properties: WillProperties::default(),
                    }),
                    ..if clean {
                        connect(version, NAMES[who])
                    } else {
                        lasting(version, NAMES[who])
                    }
                };
                let conn = b.dial(&connect);
                if let Some(old) = old {
                    assert!(!b.is_open(old));
                    // The new one's subscriptions are in place before the old one's will goes out.
                    let session = model.sessions.get_mut(&who).unwrap();
                    let lost_will = core::mem::take(&mut session.will);
                    model.leave(who, true);
                    let present = model.connect(who, clean, will);
                    if lost_will {
                        model.publish(WILLS[who], Q1, false, NAMES[who]);
                    }
                    expect_connack(b, conn, present);
                } else {
                    let present = model.connect(who, clean, will);
                    expect_connack(b, conn, present);
                }
                self.conns[who] = Some(conn);
            }
            Step::Leave { who, breaks } => {
                if let Some(conn) = self.conns[who].take() {
                    if breaks {
                        b.drop_conn(conn);
                    } else {
                        b.disconnect_with(conn, ReasonCode::NORMAL_DISCONNECTION);
                    }
                    model.leave(who, breaks);
                }
            }
            Step::Subscribe { who, filter, qos } => {
                if let Some(conn) = self.conns[who] {
                    let options = SubscriptionOptions::new(qos);
                    b.subscribe_with(conn, FILTERS[filter], options, None);
                    assert!(b.read(conn).starts_with("SUBACK"));
                    model.subscribe(who, FILTERS[filter], qos);
                }
            }
            Step::Unsubscribe { who, filter } => {
                if let Some(conn) = self.conns[who] {
                    b.unsubscribe(conn, FILTERS[filter]);
                    assert!(b.read(conn).starts_with("UNSUBACK"));
                    let session = model.sessions.get_mut(&who).unwrap();
                    session.filters.remove(FILTERS[filter]);
                }
            }
            Step::Publish {
                who,
                topic,
                qos,
                retain,
                empty,
            } => {
                if let Some(conn) = self.conns[who] {
                    self.count += 1;
                    let payload = if empty {
                        String::new()
                    } else {
                        self.count.to_string()
                    };
                    let message = Publish {
                        retain,
                        ..publish(qos, TOPICS[topic], &payload)
                    };
                    b.push(conn, &Packet::Publish(message));
                    // Its own answer comes before what the publication brings it.
                    model.publish(TOPICS[topic], qos, retain, &payload);
                    b.turn_and_release(conn, qos);
                }
            }
            Step::Wait { seconds } => {
                b.seconds(seconds);
                model.wait(seconds);
            }
        }
        self.compare();
    }

    fn compare(&mut self) {
        for (who, conn) in self.conns.iter().enumerate() {
            let Some(conn) = conn else { continue };
            let got = read_and_acknowledge(&mut self.house, *conn);
            let session = self.model.sessions.get_mut(&who).unwrap();
            let expected = core::mem::take(session.inbox.as_mut().unwrap());
            assert_eq!(got, expected, "{}", NAMES[who]);
        }
        assert_eq!(
            self.house.stat("sessions"),
            self.model.sessions.len() as u64
        );
        assert_eq!(
            self.house.stat("retained"),
            self.model.retained.len() as u64
        );
        let waiting: usize = self
            .model
            .sessions
            .values()
            .map(|session| session.queue.len())
            .sum();
        assert_eq!(self.house.stat("queued"), waiting as u64);
    }
}

fn expect_connack(b: &mut House, conn: ConnId, present: bool) {
    let present = if present { " present" } else { "" };
    assert_eq!(b.read(conn), format!("CONNACK Success{present}"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn clients_get_what_a_naive_broker_gives_them(
        steps in proptest::collection::vec(step(), 1..60),
        every_draw_is_fetched in any::<bool>(),
    ) {
        let mut run = Run {
            house: House::new(every_draw_is_fetched),
            model: Model::default(),
            conns: [None; 3],
            count: 0,
        };
        // 3.1.1 clients cannot name an hour, so it is everybody's limit.
        run.house.set(|settings| settings.max_session_expiry = Some(Duration::from_secs(3600)));
        for step in &steps {
            run.step(step);
        }
        for conn in run.conns.into_iter().flatten() {
            run.house.disconnect(conn);
        }
        run.house.seconds(4000);
        prop_assert_eq!(run.house.stat("sessions"), 0);
        prop_assert_eq!(run.house.stat("messages"), run.house.stat("retained"));
    }
}
