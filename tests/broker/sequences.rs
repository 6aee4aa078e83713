//! Random lives with everything of 5.0 that depends on time or on how a subscription is made,
//! against a second naive broker: session expiry, also changed at the end, will delay, message
//! expiry, retain handling, no local, retain as published.
//!
//! As in `model`, its clients acknowledge everything at once. Time passes in whole seconds. The
//! model does what is due one second after the other, so that nothing in it can be late.

use std::collections::BTreeMap;

use fieldgate::id::ConnId;
use fieldgate::mqtt::{
    Connect, ConnectProperties, Disconnect, Packet, PacketId, ProtocolVersion, Publish,
    PublishProperties, QoS, ReasonCode, RetainHandling, SubscriptionOptions, TopicName, Will,
    WillProperties, topic,
};
use proptest::prelude::*;

use crate::house::*;

const NAMES: [&str; 3] = ["ada", "bob", "cyd"];
const TOPICS: [&str; 4] = ["a", "a/b", "b", "b/c"];
const FILTERS: [&str; 6] = ["a", "a/#", "+", "#", "+/+", "b/c"];

#[derive(Debug, Clone)]
enum Step {
    Connect {
        who: usize,
        clean: bool,
        expiry: u32,
        /// Its delay.
        will: Option<u32>,
    },
    /// The connection breaks, is left in order, or with the will and another expiry.
    Break(usize),
    Leave(usize),
    LeaveWithWill {
        who: usize,
        expiry: Option<u32>,
    },
    Subscribe {
        who: usize,
        filter: usize,
        options: SubscriptionOptions,
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
        expiry: Option<u32>,
    },
    Clear {
        who: usize,
        topic: usize,
    },
    Wait(u64),
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(Q0), Just(Q1), Just(Q2)]
}

fn options() -> impl Strategy<Value = SubscriptionOptions> {
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend),
    ];
    (qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        |(maximum_qos, no_local, retain_as_published, retain_handling)| SubscriptionOptions {
            maximum_qos,
            no_local,
            retain_as_published,
            retain_handling,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..NAMES.len();
    let seconds = || prop_oneof![Just(0_u32), Just(3), Just(10)];
    let maybe = move || proptest::option::of(prop_oneof![Just(1_u32), Just(4), Just(12)]);
    let will = proptest::option::of(seconds());
    prop_oneof![
        4 => (who(), prop::bool::weighted(0.3), seconds(), will).prop_map(
            |(who, clean, expiry, will)| Step::Connect { who, clean, expiry, will }
        ),
        2 => who().prop_map(Step::Break),
        1 => who().prop_map(Step::Leave),
        1 => (who(), maybe()).prop_map(|(who, expiry)| Step::LeaveWithWill { who, expiry }),
        4 => (who(), 0..FILTERS.len(), options()).prop_map(
            |(who, filter, options)| Step::Subscribe { who, filter, options }
        ),
        1 => (who(), 0..FILTERS.len()).prop_map(
            |(who, filter)| Step::Unsubscribe { who, filter }
        ),
        6 => (who(), 0..TOPICS.len(), qos(), any::<bool>(), maybe()).prop_map(
            |(who, topic, qos, retain, expiry)| Step::Publish { who, topic, qos, retain, expiry }
        ),
        1 => (who(), 0..TOPICS.len()).prop_map(|(who, topic)| Step::Clear { who, topic }),
        4 => (1_u64..8).prop_map(Step::Wait),
    ]
}

/// A message as the model has it, or as a client was sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    topic: String,
    qos: QoS,
    retain: bool,
    payload: String,
    /// The second in which it dies.
    dies_at: Option<u64>,
}

#[derive(Default)]
struct Model {
    now: u64,
    sessions: BTreeMap<usize, Session>,
    /// With the session that published it.
    retained: BTreeMap<String, (Message, Origin)>,
    born: u64,
}

/// A client, and which of its sessions.
type Origin = (usize, u64);

struct Session {
    origin: Origin,
    /// Where a connected client's messages go.
    inbox: Option<Vec<Message>>,
    expiry: u64,
    ends_at: u64,
    /// Its delay, while the client is connected.
    will: Option<u64>,
    /// Once it is gone.
    will_at: Option<u64>,
    filters: BTreeMap<&'static str, SubscriptionOptions>,
    queue: Vec<Message>,
}

impl Model {
    fn publish(&mut self, message: &Message, origin: Origin) {
        if message.retain && message.payload.is_empty() {
            self.retained.remove(&message.topic);
        } else if message.retain {
            let stored = (message.clone(), origin);
            self.retained.insert(message.topic.clone(), stored);
        }
        for session in self.sessions.values_mut() {
            let mut matching = Vec::new();
            for (filter, options) in &session.filters {
                let is_own = options.no_local && session.origin == origin;
                if topic::matches(filter, &message.topic) && !is_own {
                    matching.push(options);
                }
            }
            let Some(granted) = matching.iter().map(|it| it.maximum_qos).max() else {
                continue;
            };
            let sent = Message {
                qos: granted.min(message.qos),
                retain: message.retain && matching.iter().any(|it| it.retain_as_published),
                ..message.clone()
            };
            match &mut session.inbox {
                Some(inbox) => inbox.push(sent),
                None if sent.qos > Q0 => session.queue.push(sent),
                None => {}
            }
        }
    }

    fn publish_will(&mut self, origin: Origin) {
        let will = Message {
            topic: format!("will/{}", NAMES[origin.0]),
            qos: Q1,
            retain: false,
            payload: "gone".into(),
            dies_at: None,
        };
        self.publish(&will, origin);
    }

    /// The client is gone.
    fn leave(&mut self, who: usize, has_will: bool) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&who) else {
            return;
        };
        session.inbox = None;
        session.ends_at = now + session.expiry;
        let will = session.will.take().filter(|_| has_will);
        let origin = session.origin;
        session.will_at = will.map(|delay| now + delay);
        if session.expiry == 0 {
            self.sessions.remove(&who);
            if will.is_some() {
                self.publish_will(origin);
            }
        } else {
            self.wills_due();
        }
    }

    /// Whether the session was there, and whether a will goes out behind the CONNACK.
    fn connect(
        &mut self,
        who: usize,
        clean: bool,
        expiry: u32,
        will: Option<u32>,
    ) -> (bool, Option<Origin>) {
        let mut orphan = None;
        if clean && let Some(old) = self.sessions.remove(&who) {
            orphan = old.will_at.map(|_| old.origin);
        }
        let was_there = self.sessions.contains_key(&who);
        self.born += 1;
        let born = self.born;
        let session = self.sessions.entry(who).or_insert_with(|| Session {
            origin: (who, born),
            inbox: None,
            expiry: 0,
            ends_at: 0,
            will: None,
            will_at: None,
            filters: BTreeMap::new(),
            queue: Vec::new(),
        });
        session.will_at = None;
        session.will = will.map(u64::from);
        session.expiry = expiry.into();
        session.inbox = Some(core::mem::take(&mut session.queue));
        (was_there, orphan)
    }

    fn subscribe(&mut self, who: usize, filter: &'static str, options: SubscriptionOptions) {
        let session = self.sessions.get_mut(&who).expect("it is connected");
        let is_new = session.filters.insert(filter, options).is_none();
        let is_replayed = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        };
        let inbox = session.inbox.as_mut().expect("it is connected");
        for (message, origin) in self.retained.values().filter(|_| is_replayed) {
            let is_own = options.no_local && session.origin == *origin;
            if topic::matches(filter, &message.topic) && !is_own {
                inbox.push(Message {
                    qos: options.maximum_qos.min(message.qos),
                    ..message.clone()
                });
            }
        }
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += 1;
            let now = self.now;
            let lives = move |message: &Message| message.dies_at.is_none_or(|at| at > now);
            self.retained.retain(|_, (message, _)| lives(message));
            self.wills_due();
            for who in 0..NAMES.len() {
                let is_over = |it: &Session| it.inbox.is_none() && it.ends_at <= now;
                if self.sessions.get(&who).is_some_and(is_over)
                    && let Some(old) = self.sessions.remove(&who)
                    && old.will_at.is_some()
                {
                    self.publish_will(old.origin);
                }
            }
            for session in self.sessions.values_mut() {
                session.queue.retain(lives);
            }
        }
    }

    fn wills_due(&mut self) {
        for who in 0..NAMES.len() {
            if let Some(session) = self.sessions.get_mut(&who)
                && session.will_at.is_some_and(|at| at <= self.now)
            {
                session.will_at = None;
                let origin = session.origin;
                self.publish_will(origin);
            }
        }
    }
}

struct Run {
    house: House,
    model: Model,
    /// With its version: one of the three speaks 3.1.1.
    conns: [Option<ConnId>; 3],
    count: usize,
}

/// `cyd` speaks 3.1.1, which knows less: no expiry but "clean", no delay, no options.
fn version(who: usize) -> ProtocolVersion {
    if who == 2 { V4 } else { V5 }
}

const LIMIT: u32 = 10;

impl Run {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Connect {
                who,
                clean,
                expiry,
                will,
            } => self.connect(who, clean, expiry, will),
            Step::Break(who) => {
                if let Some(conn) = self.conns[who].take() {
                    self.house.drop_conn(conn);
                    self.model.leave(who, true);
                }
            }
            Step::Leave(who) => {
                if let Some(conn) = self.conns[who].take() {
                    self.house.disconnect(conn);
                    self.model.leave(who, false);
                }
            }
            Step::LeaveWithWill { who, expiry } => self.leave_with_will(who, expiry),
            Step::Subscribe {
                who,
                filter,
                options,
            } => {
                if let Some(conn) = self.conns[who] {
                    let options = if version(who).is_v5() {
                        options
                    } else {
                        SubscriptionOptions::new(options.maximum_qos)
                    };
                    self.house
                        .subscribe_with(conn, FILTERS[filter], options, None);
                    assert!(self.house.read(conn).starts_with("SUBACK"));
                    self.model.subscribe(who, FILTERS[filter], options);
                }
            }
            Step::Unsubscribe { who, filter } => {
                if let Some(conn) = self.conns[who] {
                    self.house.unsubscribe(conn, FILTERS[filter]);
                    assert!(self.house.read(conn).starts_with("UNSUBACK"));
                    let session = self.model.sessions.get_mut(&who).unwrap();
                    session.filters.remove(FILTERS[filter]);
                }
            }
            Step::Publish {
                who,
                topic,
                qos,
                retain,
                expiry,
            } => {
                self.count += 1;
                let payload = self.count.to_string();
                self.publish(who, TOPICS[topic], qos, retain, expiry, &payload);
            }
            Step::Clear { who, topic } => self.publish(who, TOPICS[topic], Q0, true, None, ""),
            Step::Wait(seconds) => {
                self.house.seconds(seconds);
                self.model.wait(seconds);
            }
        }
        self.compare();
    }

    fn connect(&mut self, who: usize, clean: bool, expiry: u32, will: Option<u32>) {
        let (b, model) = (&mut self.house, &mut self.model);
        let is_v5 = version(who).is_v5();
        // 3.1.1 has what the operator allows, or nothing; its will waits for nothing.
        let stays = if clean { 0 } else { LIMIT };
        let (expiry, will) = if is_v5 {
            (expiry, will)
        } else {
            (stays, will.map(|_| 0))
        };
        let old = self.conns[who].take();
        let topic = format!("will/{}", NAMES[who]);
        let conn = b.dial(&Connect {
            clean_start: clean,
            will: will.map(|delay| Will {
                topic: TopicName::new(&topic).unwrap(),
                payload: b"gone",
                qos: Q1,
                retain: false,
                properties: WillProperties {
                    will_delay_interval: is_v5.then_some(delay),
                    ..WillProperties::default()
                },
            }),
            properties: ConnectProperties {
                session_expiry_interval: is_v5.then_some(expiry),
                ..ConnectProperties::default()
            },
            ..connect(version(who), NAMES[who])
        });
        // A takeover is the old connection's end and then a connect, but for a will that is due by
        // it: that goes out when the new connection is in place.
        let mut due = None;
        if let Some(old) = old {
            assert!(!b.is_open(old));
            let session = model.sessions.get_mut(&who).unwrap();
            let ends = session.expiry == 0 || clean;
            if session.will.is_some_and(|delay| ends || delay == 0) {
                due = Some(session.origin);
            }
            session.will = None;
            model.leave(who, false);
        }
        let (present, orphan) = model.connect(who, clean, expiry, will);
        if let Some(origin) = due.or(orphan) {
            model.publish_will(origin);
        }
        let present = if present { " present" } else { "" };
        assert_eq!(b.read(conn), format!("CONNACK Success{present}"));
        self.conns[who] = Some(conn);
    }

    fn leave_with_will(&mut self, who: usize, expiry: Option<u32>) {
        if !version(who).is_v5() {
            return;
        }
        if let Some(conn) = self.conns[who].take() {
            let session = self.model.sessions.get_mut(&who).unwrap();
            // What ends with its connection cannot be kept by it (3.14.2.2.2).
            let expiry = expiry.filter(|_| session.expiry > 0);
            if let Some(expiry) = expiry {
                session.expiry = expiry.min(LIMIT).into();
            }
            let mut disconnect = Disconnect::new(ReasonCode::DisconnectWithWillMessage);
            disconnect.properties.session_expiry_interval = expiry;
            self.house.send(conn, &Packet::Disconnect(disconnect));
            self.model.leave(who, true);
        }
    }

    fn publish(
        &mut self,
        who: usize,
        topic: &str,
        qos: QoS,
        retain: bool,
        expiry: Option<u32>,
        payload: &str,
    ) {
        let Some(conn) = self.conns[who] else {
            return;
        };
        let expiry = expiry.filter(|_| version(who).is_v5());
        let message = Publish {
            retain,
            properties: PublishProperties {
                message_expiry_interval: expiry,
                ..PublishProperties::default()
            },
            ..publish(qos, topic, payload)
        };
        self.house.push(conn, &Packet::Publish(message));
        let origin = self.model.sessions[&who].origin;
        let message = Message {
            topic: topic.into(),
            qos,
            retain,
            payload: payload.into(),
            dies_at: expiry.map(|seconds| self.model.now + u64::from(seconds)),
        };
        self.model.publish(&message, origin);
        self.house.turn_and_release(conn, qos);
    }

    fn compare(&mut self) {
        for (who, name) in NAMES.into_iter().enumerate() {
            let Some(conn) = self.conns[who] else {
                continue;
            };
            let mut got = self.read_and_acknowledge(conn);
            let session = self.model.sessions.get_mut(&who).unwrap();
            let mut expected = core::mem::take(session.inbox.as_mut().unwrap());
            for message in &mut expected {
                message.dies_at = message.dies_at.filter(|_| version(who).is_v5());
            }
            // Within a topic order holds; of wills that are due in one second it is nobody's.
            got.sort_by(|a, b| a.topic.cmp(&b.topic));
            expected.sort_by(|a, b| a.topic.cmp(&b.topic));
            assert_eq!(got, expected, "{name}");
        }
        let sessions = self.model.sessions.len() as u64;
        let retained = self.model.retained.len() as u64;
        assert_eq!(self.house.stat("sessions"), sessions);
        assert_eq!(self.house.stat("retained"), retained);
        let filters = self.model.sessions.values().map(|it| it.filters.len());
        let subscriptions = filters.sum::<usize>() as u64;
        assert_eq!(self.house.stat("subscriptions"), subscriptions);
    }

    /// Everything that a client has been sent, all of it acknowledged.
    fn read_and_acknowledge(&mut self, conn: ConnId) -> Vec<Message> {
        let (b, now) = (&mut self.house, self.model.now);
        let mut got = Vec::new();
        loop {
            let seen = b.read_with(conn, |packet| match packet {
                Packet::Publish(publish) => {
                    assert!(!publish.dup);
                    let left = publish.properties.message_expiry_interval;
                    let message = Message {
                        topic: publish.topic.into(),
                        qos: publish.qos,
                        retain: publish.retain,
                        payload: core::str::from_utf8(publish.payload).unwrap().into(),
                        dies_at: left.map(|left| now + u64::from(left)),
                    };
                    (Some(message), publish.packet_id, publish.qos)
                }
                Packet::Pubrel(ack) => (None, Some(ack.packet_id), Q0),
                other => panic!("{other:?}"),
            });
            let Some((message, packet_id, qos)) = seen else {
                return got;
            };
            match (qos, packet_id.map(PacketId::value)) {
                (Q1, Some(number)) => b.puback(conn, number),
                (Q2, Some(number)) => b.pubrec(conn, number),
                (Q0, Some(number)) => b.pubcomp(conn, number),
                _ => {}
            }
            got.extend(message);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn clients_of_5_0_get_what_a_naive_broker_gives_them(
        steps in proptest::collection::vec(step(), 1..50),
        every_draw_is_fetched in any::<bool>(),
    ) {
        let mut run = Run {
            house: House::new(every_draw_is_fetched),
            model: Model::default(),
            conns: [None; 3],
            count: 0,
        };
        let limit = fieldgate::time::Duration::from_secs(LIMIT.into());
        run.house.set(|settings| settings.max_session_expiry = Some(limit));
        for step in &steps {
            run.step(step);
        }
        for conn in run.conns.into_iter().flatten() {
            run.house.disconnect(conn);
        }
        run.house.seconds(100);
        prop_assert_eq!(run.house.stat("sessions"), 0);
        prop_assert_eq!(run.house.stat("messages"), run.house.stat("retained"));
    }
}
