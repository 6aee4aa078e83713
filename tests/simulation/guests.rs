//! Clients that come and go, beside those of `power.rs` that stay: what a subscription's end, a
//! session's end and a session without a future must come to when the power fails.
//!
//! A [`Fickle`] subscribes, unsubscribes and begins again with Clean Start; it is judged by when
//! its packets left and answers came, against when each message was published and acknowledged. A
//! [`Passer`] stays away, sometimes for longer than its session lives. A [`Watcher`] keeps nothing.
//! A [`Mortal`] has a will, and does not always come back.

use std::collections::{BTreeMap, BTreeSet};

use fieldgate::mqtt::{Packet, PacketId, Publish, QoS, TopicName, Will, WillProperties};
use fieldgate::time::{Duration, Instant};

/// A moment of a run: everything that happens has another one.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub tick: u64,
    pub now: Instant,
    /// Since when the present gateway listens.
    pub opened: Instant,
}

/// What a publisher knows of one of its messages.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// When it was said for the first time.
    pub said: u64,
    /// It was said more than once.
    pub is_repeated: bool,
    pub acknowledged: Option<u64>,
}

/// The packet identifiers of QoS 2 that were received and not released.
#[derive(Debug, Default)]
pub struct Inbox {
    pending: BTreeSet<PacketId>,
}

impl Inbox {
    /// Whether it is a new message.
    pub fn take(&mut self, publish: &Publish<'_>) -> bool {
        match publish.packet_id {
            Some(id) if publish.qos == QoS::ExactlyOnce => {
                let is_new = self.pending.insert(id);
                assert!(
                    is_new || publish.dup,
                    "identifier {id} of {} came again without DUP",
                    publish.topic
                );
                is_new
            }
            _ => true,
        }
    }

    pub fn release(&mut self, id: PacketId) {
        self.pending.remove(&id);
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

/// What a fickle client has done or been told, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    AsksToSubscribe,
    IsSubscribed,
    AsksToUnsubscribe,
    IsUnsubscribed,
    AsksForCleanStart,
    IsClean,
    Got(u32),
}

/// What it is about to do until it is told that it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    Subscribe,
    Unsubscribe,
    CleanStart,
}

/// Subscribes and unsubscribes, and begins again.
#[derive(Debug)]
pub struct Fickle {
    pub inbox: Inbox,
    pub wish: Wish,
    is_subscribed: bool,
    steps: Vec<(u64, Step)>,
}

impl Fickle {
    pub fn new() -> Self {
        Self {
            inbox: Inbox::default(),
            wish: Wish::Subscribe,
            is_subscribed: false,
            steps: Vec::new(),
        }
    }

    /// It wants something else, if it has what it wanted. `dice` is below 4.
    pub fn change_its_mind(&mut self, dice: u64) {
        if self.wish == Wish::Nothing {
            self.wish = match dice {
                0 => Wish::CleanStart,
                _ if self.is_subscribed => Wish::Unsubscribe,
                _ => Wish::Subscribe,
            };
        }
    }

    /// The packet of its wish is said now.
    pub fn asks(&mut self, at: Moment) {
        let step = match self.wish {
            Wish::Nothing => return,
            Wish::Subscribe => Step::AsksToSubscribe,
            Wish::Unsubscribe => Step::AsksToUnsubscribe,
            Wish::CleanStart => Step::AsksForCleanStart,
        };
        self.steps.push((at.tick, step));
    }

    /// The answer has come.
    pub fn is_answered(&mut self, wish: Wish, at: Moment) {
        assert_eq!(self.wish, wish, "an answer to what was not asked");
        let step = match wish {
            Wish::Nothing => return,
            Wish::Subscribe => Step::IsSubscribed,
            Wish::Unsubscribe => Step::IsUnsubscribed,
            Wish::CleanStart => {
                self.inbox = Inbox::default();
                Step::IsClean
            }
        };
        self.is_subscribed = wish == Wish::Subscribe;
        self.wish = Wish::Nothing;
        self.steps.push((at.tick, step));
    }

    pub fn got(&mut self, number: u32, at: Moment) {
        self.steps.push((at.tick, Step::Got(number)));
    }

    /// What it should have been sent and was not.
    ///
    /// # Panics
    /// If it was sent what cannot have been for it: published when it was certain to have no
    /// subscription, or before a Clean Start that it was told of.
    pub fn missing(&self, published: &BTreeMap<u32, Published>) -> BTreeSet<u32> {
        let mut wanted = BTreeSet::new();
        let mut got = BTreeSet::new();
        // Since when it had certainly no subscription; and nothing in its queue.
        let (mut off, mut is_clean) = (0, true);
        // Since when it may have one, and since when it has.
        let (mut asked, mut granted) = (None, None);
        let between = |from: Option<u64>, to: u64| {
            published.iter().filter(move |(_, it)| {
                from.is_some_and(|from| it.said > from) && it.acknowledged.is_some_and(|at| at < to)
            })
        };
        for (tick, step) in &self.steps {
            match step {
                Step::AsksToSubscribe => asked = asked.or(Some(*tick)),
                Step::IsSubscribed => granted = granted.or(Some(*tick)),
                Step::AsksToUnsubscribe => {
                    wanted.extend(between(granted.take(), *tick).map(|(number, _)| *number));
                }
                Step::AsksForCleanStart => {
                    granted = None;
                    wanted.clear();
                }
                Step::IsUnsubscribed => (off, is_clean, asked) = (*tick, false, None),
                Step::IsClean => {
                    (off, is_clean, asked) = (*tick, true, None);
                    got.clear();
                }
                Step::Got(number) => {
                    let it = published[number];
                    let is_old = it.said < off && !is_clean;
                    let is_new = asked
                        .is_some_and(|asked| it.acknowledged.is_none_or(|acked| acked > asked));
                    assert!(
                        is_old || is_new,
                        "{number} came without a subscription: {:?}",
                        self.steps
                    );
                    got.insert(*number);
                }
            }
        }
        wanted.extend(between(granted, u64::MAX).map(|(number, _)| *number));
        &wanted - &got
    }
}

/// Away for a while, and again.
#[derive(Debug)]
pub struct Passer {
    /// When it was last gone after it had been let in, and after any attempt.
    left: Option<Instant>,
    left_any: Option<Instant>,
    /// It does not come back before.
    pub back: Instant,
    dialled: Moment,
}

impl Passer {
    /// Seconds that its session outlives a connection.
    pub const EXPIRY: u32 = 2;

    pub fn new() -> Self {
        let never = Instant::from_nanos(0);
        Self {
            left: None,
            left_any: None,
            back: never,
            dialled: Moment {
                tick: 0,
                now: never,
                opened: never,
            },
        }
    }

    pub fn leaves(&mut self, now: Instant, was_let_in: bool) {
        if was_let_in {
            self.left = Some(now);
        }
        self.left_any = Some(now);
    }

    pub fn dials(&mut self, at: Moment) {
        self.dialled = at;
    }

    /// It is let in. Its session's time runs from its leaving, or from a start of the gateway at
    /// the latest.
    pub fn is_in(&mut self, is_present: bool, at: Moment) {
        const A_MOMENT: Duration = Duration::from_millis(100);
        let expiry = Duration::from_secs(Self::EXPIRY.into());
        if let Some(left) = self.left {
            assert!(
                is_present || at.now.since(left) >= expiry,
                "the session has ended before its time"
            );
        }
        match self.left_any.map(|left| left.max(self.dialled.opened)) {
            Some(from) => assert!(
                !is_present || self.dialled.now.since(from) <= expiry + A_MOMENT,
                "the session is there after its time"
            ),
            None => assert!(!is_present, "a session that nobody made"),
        }
    }
}

/// Its sessions end with its connections: of what is published at QoS 2 it gets nothing twice, and
/// nothing that comes later before what comes sooner.
#[derive(Debug)]
pub struct Watcher {
    pub qos: QoS,
    pub inbox: Inbox,
    last: BTreeMap<String, u32>,
}

impl Watcher {
    pub fn new(qos: QoS) -> Self {
        Self {
            qos,
            inbox: Inbox::default(),
            last: BTreeMap::new(),
        }
    }

    pub fn take(&mut self, publish: &Publish<'_>, number: u32) {
        let is_new = self.inbox.take(publish);
        if !is_new || publish.topic == "t/0" {
            return; // Its publisher may say a message of QoS 1 more than once.
        }
        let last = self.last.insert(publish.topic.to_owned(), number);
        assert!(
            last.is_none_or(|last| last < number),
            "{number} of {} came after {last:?}",
            publish.topic
        );
    }
}

/// How a [`Mortal`] ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is there whenever it can be.
    Never,
    /// It stays away after a power cut.
    PowerCut,
    /// It says goodbye, in peace.
    Goodbye,
}

/// A client with a retained will, which says the number of its connection.
#[derive(Debug)]
pub struct Mortal {
    pub topic: &'static str,
    qos: QoS,
    /// Its session outlives its connections.
    pub is_to_stay: bool,
    pub end: End,
    pub is_gone: bool,
    /// Of its last connection; 0: there was none.
    pub number: u32,
    /// Of the connection that it had when the power went, if it was to come back in time.
    spared: u32,
    text: String,
}

impl Mortal {
    pub fn new(topic: &'static str, qos: QoS, is_to_stay: bool, end: End) -> Self {
        Self {
            topic,
            qos,
            is_to_stay,
            end,
            is_gone: false,
            number: 0,
            spared: 0,
            text: String::new(),
        }
    }

    /// What it leaves for its next connection.
    pub fn dials(&mut self) -> Will<'_> {
        self.number += 1;
        self.text = self.number.to_string();
        Will {
            topic: TopicName::new(self.topic).expect("a topic"),
            payload: self.text.as_bytes(),
            qos: self.qos,
            retain: true,
            properties: WillProperties::default(),
        }
    }

    /// The power goes while it is there: it goes too, or will be back in a moment.
    pub fn power_fails(&mut self, is_its_end: bool) {
        if is_its_end {
            self.is_gone = true;
        } else {
            self.spared = self.number;
        }
    }

    /// Whether this may be what is retained of it when everybody has had time to come back. Who was
    /// let in and is gone with the power is told of by its last will. Of who has come back or said
    /// goodbye, those of connections may have been published that were lost before the power was.
    pub fn may_say(&self, retained: Option<u32>) -> bool {
        match self.end {
            End::PowerCut if self.is_gone => retained == Some(self.number),
            _ => retained.is_none_or(|number| number < self.number && number != self.spared),
        }
    }
}

/// The acknowledgement of a received publication.
pub fn answer(publish: &Publish<'_>) -> Option<Packet<'static>> {
    let ack = fieldgate::mqtt::Ack::success(publish.packet_id?);
    Some(match publish.qos {
        QoS::ExactlyOnce => Packet::Pubrec(ack),
        _ => Packet::Puback(ack),
    })
}
