//! The third judge: a gateway on a disk that loses its power, and clients that only know what they
//! were told.
//!
//! Publishers at QoS 1 and 2 whose sessions stay, subscribers whose sessions stay, topics that are
//! retained, and clients that come and go (`guests.rs`); connections that are cut at any byte, a
//! disk that answers late, fails and is full, and power that goes at any moment with any part of
//! what was not synced. Then everybody is served in peace, and the power goes once more; in the
//! end:
//!
//! * every message that was acknowledged to its publisher has come to every subscriber, at QoS 2
//!   exactly once, at QoS 1 at least once;
//! * each publisher's messages have come in order, what came again left out, and been acknowledged
//!   in order;
//! * what came again though its publisher had said it once said DUP;
//! * no subscription had to be made again, no session was lost, and none that was over came back;
//! * who was told that it has no subscription got nothing of what was published then;
//! * what is retained is what was published last, also at QoS 0 if that was some time ago, and what
//!   was removed is not;
//! * who has not come back after a power cut is told of by its last will, whoever has come back or
//!   said goodbye is not;
//! * nothing is left in any queue, and every client is served in the end;
//! * after a bit of what was synced has rotted, what was not there is there still.
//!
//! `SIM_POWER=4711` replays a seed, `SIM_SEEDS=500` says how many there are. With `SIM_SHRINK=1` a
//! seed that fails is tried with less of everything, for as long as it fails: the last line is the
//! least that does, and replays it, as `SIM_POWER=4711,messages=3,cuts=0`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;

use fieldgate::broker::keep::{KeyKind, RETURN_GRACE};
use fieldgate::gateway::Gateway;
use fieldgate::gateway::boundary::{CloseCause, Input, JournalCommand, JournalEvent, Output, Peer};
use fieldgate::id::{ConnId, ListenerId};
use fieldgate::journal::Key;
use fieldgate::mqtt::frame::{self, Frame};
use fieldgate::mqtt::{
    Ack, Connect, ConnectProperties, Disconnect, Packet, PacketId, ProtocolVersion, Publish,
    PublishProperties, QoS, ReasonCode, Subscribe, SubscribeProperties, SubscriptionOptions,
    SubscriptionRequest, SubscriptionRequests, TopicFilter, TopicFilters, Unsubscribe,
    UnsubscribeProperties,
};
use fieldgate::rng::Rng;
use fieldgate::slab::GenSlab;
use fieldgate::time::{Duration, Instant, Now, WallTime};

use super::disk::{Disk, Trouble};
use super::guests::{self, Fickle, Inbox, Moment, Mortal, Passer, Published, Watcher, Wish};
use super::setting::Setting;

const CONFIG: &str = r#"
[gateway]
name = "power"
data_dir = "/nowhere"
[gateway.defaults]
every = "5s"
[journal]
sync_within = "50ms"
[broker]
queue = { messages = 10000, bytes = "16MiB", when_full = "refuse" }
connect_rate = "unlimited"
"#;

/// Unacknowledged at once.
const WINDOW: usize = 5;

/// Turns after which a run that does not end is a failure.
const TURNS_MAX: u32 = 60_000;

/// Turns of peace before the last power cut: all that waits longest for its sync has had it.
const CALM: u32 = 60;

/// Messages of each publisher after that, but for those of what is retained.
const ENCORE: u32 = 6;

/// Goes to a topic that nobody takes, so its acknowledgement waits for nothing.
const VOID: u32 = u32::MAX;

/// Its retained message is removed by every second publication.
const REMOVED: &str = "removed";

/// The last word of the meter.
const LAST_VALUE: u32 = 1_000_000;

/// What a run did; equal for equal seeds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    pub turns: u64,
    pub cuts: u64,
    pub crashes: u64,
    pub acknowledged: u64,
    pub delivered: u64,
    pub again: u64,
    pub unkept: u64,
    pub disk_faults: u64,
    /// Clean Starts and subscriptions' ends that were answered, and sessions that ran out.
    pub changes: u64,
    pub expired: u64,
    /// Clients that did not come back, and were told of.
    pub wills: u64,
    /// Places that rotted.
    pub rotten: u64,
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        self.turns += other.turns;
        self.cuts += other.cuts;
        self.crashes += other.crashes;
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.again += other.again;
        self.unkept += other.unkept;
        self.disk_faults += other.disk_faults;
        self.changes += other.changes;
        self.expired += other.expired;
        self.wills += other.wills;
        self.rotten += other.rotten;
    }

    /// Whether everything that can go wrong did.
    pub fn has_all(&self) -> bool {
        ![
            self.cuts,
            self.crashes,
            self.again,
            self.unkept,
            self.disk_faults,
            self.changes,
            self.expired,
            self.wills,
            self.rotten,
        ]
        .contains(&0)
    }
}

/// A client, and what its protocol makes it remember.
struct Client {
    name: &'static str,
    version: ProtocolVersion,
    conn: Option<ConnId>,
    is_welcome: bool,
    /// It has been in once: its session has to be there from then on.
    was_in: bool,
    /// CONNACK has said that there is one.
    is_present: bool,
    /// It has said what it wants, and waits for the answer.
    is_asking: bool,
    recv: Vec<u8>,
    /// What it has said and the network has not carried.
    unsent: VecDeque<u8>,
    role: Role,
}

enum Role {
    Sender(Sender),
    Taker(Taker),
    Fickle(Fickle),
    Passer(Passer),
    Watcher(Watcher),
    Mortal(Mortal),
    Meter(Meter),
}

struct Sender {
    topic: &'static str,
    qos: QoS,
    retain: bool,
    /// It says something in one of so many turns.
    pace: u64,
    /// How many it has to say.
    most: u32,
    next: u32,
    /// Oldest first: identifier, number, released.
    underway: Vec<(PacketId, u32, bool)>,
    acknowledged: u32,
    published: BTreeMap<u32, Published>,
}

/// Publishes at QoS 0 what is retained. Its last value it says at some time, and again only if the
/// power has failed since: the journal has to keep it when it can, though nobody waits for that.
struct Meter {
    value: u32,
    /// Of the last value but one.
    most: u32,
    end: End,
}

/// How far a meter is with its last value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// Said with PINGREQ behind it.
    Said,
    /// PINGRESP has come, so the gateway has heard it.
    Heard(Instant),
    /// Something was said after it that waits for the journal.
    Probed,
    /// And answered: the journal works.
    Over,
}

impl Meter {
    fn power_fails(&mut self) {
        if self.end != End::Over {
            self.end = End::NotYet;
        }
    }

    fn is_cut(&mut self) {
        match self.end {
            End::Said => self.end = End::NotYet,
            End::Probed => self.end = End::Heard(Instant::from_nanos(0)),
            End::NotYet | End::Heard(_) | End::Over => {}
        }
    }
}

#[derive(Default)]
struct Taker {
    filter: &'static str,
    is_subscribed: bool,
    inbox: Inbox,
    /// Topic, number, whether it said DUP, in the order of their coming.
    got: Vec<(String, u32, bool)>,
    /// It does not read for a while.
    is_idle: bool,
}

pub struct World {
    rng: Rng,
    now: Instant,
    wall: WallTime,
    gateway: Gateway,
    disk: Disk,
    listener: Option<ListenerId>,
    conns: GenSlab<ConnId, usize>,
    clients: Vec<Client>,
    trouble: bool,
    /// Counts everything that a client does or is told.
    tick: u64,
    /// Since when the present gateway listens.
    opened: Instant,
    /// What the present gateway could not keep, when that was last looked at.
    unkept: u64,
    /// Turns until the power goes.
    fuse: Option<u64>,
    setting: Setting,
    /// Each publisher's messages, until now.
    messages: u32,
    report: Report,
}

impl World {
    pub fn new(setting: Setting) -> Self {
        let mut rng = Rng::from_seed(setting.seed);
        let disk = Disk::new(rng.next_u64());
        let now = Instant::from_nanos(1_000_000_000);
        let wall = WallTime::EARLIEST_PLAUSIBLE;
        let gateway = open(&mut rng, now, wall, setting.size);
        let mut clients = Vec::new();
        let some_qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][rng.below(2) as usize];
        for (name, topic, qos, pace) in [
            ("p0", "t/0", QoS::AtLeastOnce, 6),
            ("p1", "t/1", QoS::ExactlyOnce, 6),
            ("p2", "t/2", QoS::ExactlyOnce, 6),
            ("keeper", "kept", QoS::AtLeastOnce, 6),
            ("remover", REMOVED, some_qos, 6),
            ("slow", "f/0", some_qos, 12),
        ] {
            let mut sender = Sender::new(topic, qos, setting.messages);
            sender.pace = pace;
            sender.retain = !topic.contains('/');
            clients.push(Client::new(&mut rng, name, Role::Sender(sender)));
        }
        for (number, filter) in ["t/#", "t/+"].into_iter().enumerate() {
            let taker = Taker {
                filter,
                ..Taker::default()
            };
            let name = ["s0", "s1"][number];
            clients.push(Client::new(&mut rng, name, Role::Taker(taker)));
        }
        let meter = Meter {
            value: 0,
            most: rng.below(60) as u32,
            end: End::NotYet,
        };
        clients.push(Client::new(&mut rng, "meter", Role::Meter(meter)));
        if setting.guests > 0 {
            for (name, role) in [
                ("fickle", Role::Fickle(Fickle::new())),
                ("passer", Role::Passer(Passer::new())),
                ("w0", Role::Watcher(Watcher::new(QoS::AtMostOnce))),
                ("w2", Role::Watcher(Watcher::new(QoS::ExactlyOnce))),
            ] {
                clients.push(Client::new(&mut rng, name, role));
            }
            for (topic, is_to_stay, end) in [
                ("state/m0", true, guests::End::PowerCut),
                ("state/m1", false, guests::End::PowerCut),
                ("state/m2", true, guests::End::Never),
                ("state/m3", false, guests::End::Never),
                ("state/m4", true, guests::End::Goodbye),
                ("state/m5", false, guests::End::Goodbye),
            ] {
                let qos = [QoS::AtMostOnce, some_qos][rng.below(2) as usize];
                let mortal = Mortal::new(topic, qos, is_to_stay, end);
                let name = &topic["state/".len()..];
                clients.push(Client::new(&mut rng, name, Role::Mortal(mortal)));
            }
        }
        Self {
            rng,
            now,
            wall,
            gateway,
            disk,
            listener: None,
            conns: GenSlab::new(),
            clients,
            trouble: true,
            tick: 0,
            opened: now,
            unkept: 0,
            fuse: None,
            setting,
            messages: setting.messages,
            report: Report::default(),
        }
    }

    pub fn run(mut self) -> Report {
        let mut calm_since = None;
        let mut is_over = false;
        for turn in 0..TURNS_MAX {
            self.turn();
            self.report.turns += 1;
            if self.trouble && (turn > self.setting.trouble || self.is_all_acknowledged()) {
                self.trouble = false;
                self.disk.set_trouble(Trouble::none());
            }
            if self.trouble || !self.is_all_here() {
                continue;
            }
            // A moment more, so that what should not come has time to, and what is kept in time is
            // kept.
            let since = *calm_since.get_or_insert(turn);
            if turn - since > CALM {
                if is_over {
                    self.grace_is_over();
                    self.judge();
                    if self.setting.rot > 0 {
                        self.rot();
                    }
                    return self.report;
                }
                // What was acknowledged or is old enough is there, and nothing else comes back.
                is_over = true;
                calm_since = None;
                self.crash();
                // Life goes on: with identifiers that were used before.
                self.messages += ENCORE;
                for client in &mut self.clients {
                    // What is retained stays as it was, so that it can be looked at.
                    if let Role::Sender(sender) = &mut client.role
                        && !sender.retain
                    {
                        sender.most += ENCORE;
                    }
                }
            }
        }
        panic!(
            "not all is delivered after so long: {:?} {:?} {:?}",
            self.progress(),
            self.gateway.broker().stats(),
            self.gateway.journal_stats()
        );
    }

    fn progress(&self) -> Vec<(&'static str, u32, usize)> {
        let each = self.clients.iter().map(|client| match &client.role {
            Role::Sender(sender) => (client.name, sender.acknowledged, sender.underway.len()),
            Role::Taker(taker) => {
                let missing: Vec<_> = (0..3)
                    .flat_map(|of| (0..self.messages).map(move |number| (of, number)))
                    .filter(|(of, number)| {
                        let is_it = |got: &(String, u32, bool)| {
                            got.0 == format!("t/{of}") && got.1 == *number
                        };
                        !taker.got.iter().any(is_it)
                    })
                    .collect();
                eprintln!(
                    "{}: missing {missing:?}, pending {:?}",
                    client.name, taker.inbox
                );
                (client.name, taker.distinct(), taker.got.len())
            }
            Role::Fickle(fickle) => {
                let missing = fickle.missing(&self.sender("slow").published);
                eprintln!("{}: {:?}, missing {missing:?}", client.name, fickle.wish);
                (client.name, 0, missing.len())
            }
            _ => (client.name, u32::from(client.is_welcome), 0),
        });
        each.collect()
    }

    fn sender(&self, name: &str) -> &Sender {
        let of_name = self.clients.iter().find(|client| client.name == name);
        match of_name.map(|client| &client.role) {
            Some(Role::Sender(sender)) => sender,
            _ => panic!("nobody publishes as {name}"),
        }
    }

    fn is_all_acknowledged(&self) -> bool {
        self.clients.iter().all(|client| match &client.role {
            Role::Sender(sender) => sender.acknowledged >= sender.most,
            _ => true,
        })
    }

    /// Everything that was promised has come, everybody is there, and nobody has anything under
    /// way.
    fn is_all_here(&self) -> bool {
        self.is_all_acknowledged()
            && self.clients.iter().all(|client| {
                let is_there = match &client.role {
                    Role::Mortal(Mortal {
                        end: guests::End::Goodbye,
                        is_gone,
                        ..
                    }) => *is_gone && client.conn.is_none(),
                    Role::Mortal(mortal) => mortal.is_gone || client.is_welcome,
                    _ => client.is_welcome,
                };
                is_there
                    && match &client.role {
                        Role::Sender(sender) => sender.underway.is_empty(),
                        Role::Taker(taker) => {
                            taker.distinct() >= 3 * self.messages && taker.inbox.is_empty()
                        }
                        Role::Fickle(fickle) => {
                            fickle.wish == Wish::Nothing
                                && fickle.inbox.is_empty()
                                && fickle.missing(&self.sender("slow").published).is_empty()
                        }
                        Role::Watcher(watcher) => watcher.inbox.is_empty(),
                        Role::Passer(_) | Role::Mortal(_) => true,
                        Role::Meter(meter) => meter.end == End::Over,
                    }
            })
    }

    fn judge(&mut self) {
        for client in &self.clients {
            let taker = match &client.role {
                Role::Taker(taker) => taker,
                Role::Sender(sender) => {
                    self.report.acknowledged += u64::from(sender.acknowledged);
                    continue;
                }
                _ => continue,
            };
            let mut of_topic: BTreeMap<&str, Vec<(u32, bool)>> = BTreeMap::new();
            for (topic, number, dup) in &taker.got {
                of_topic.entry(topic).or_default().push((*number, *dup));
            }
            assert_eq!(of_topic.len(), 3, "{} has heard of", client.name);
            for (topic, numbers) in of_topic {
                let sender = self.sender(if topic == "t/0" { "p0" } else { "p1" });
                let mut firsts = Vec::new();
                for (number, dup) in &numbers {
                    if !firsts.contains(number) {
                        firsts.push(*number);
                    } else if topic == "t/0" {
                        // The gateway has been told of it once: that it comes again is its doing.
                        let is_repeated = sender.published[number].is_repeated;
                        assert!(
                            *dup || is_repeated,
                            "{number} came again to {} without DUP",
                            client.name
                        );
                    } else {
                        panic!("{number} of {topic} came twice to {}", client.name);
                    }
                }
                let all: Vec<u32> = (0..self.messages).collect();
                assert_eq!(firsts, all, "{} has of {topic}", client.name);
                self.report.again += (numbers.len() - firsts.len()) as u64;
                self.report.delivered += firsts.len() as u64;
            }
        }
        let stats = self.gateway.broker().stats();
        self.report.unkept += stats.unkept;
        assert_eq!(stats.queued, 0, "nothing is left in a queue");
        assert_eq!(stats.unrecovered, 0, "what was written can be read");
        assert_eq!(
            self.gateway.broker().held(),
            0,
            "nothing is held back for ever"
        );
        let found = self.retained("stranger", "+");
        assert_eq!(found, self.expected(), "what is retained");
        self.judge_wills();
    }

    /// Whoever has not come back by now is gone.
    fn grace_is_over(&mut self) {
        self.now = self.now + RETURN_GRACE;
        self.wall = self.wall.saturating_add(RETURN_GRACE);
        for _ in 0..CALM {
            self.turn();
        }
    }

    fn judge_wills(&mut self) {
        let found: BTreeMap<String, u32> =
            self.retained("mourner", "state/+").into_iter().collect();
        for client in &self.clients {
            if let Role::Mortal(mortal) = &client.role {
                let retained = found.get(mortal.topic).copied();
                assert!(mortal.may_say(retained), "{retained:?} of {mortal:?}");
                let is_lost = mortal.is_gone && mortal.end == guests::End::PowerCut;
                self.report.wills += u64::from(is_lost);
            }
        }
    }

    /// What should be retained.
    fn expected(&self) -> Vec<(String, u32)> {
        let last = self.setting.messages - 1;
        let mut expected = vec![("kept", last), ("level", LAST_VALUE), ("probe", 0)];
        if !is_removal(REMOVED, last) {
            expected.push((REMOVED, last));
        }
        let named = expected.into_iter();
        named.map(|(topic, it)| (topic.to_owned(), it)).collect()
    }

    /// What a stranger finds retained.
    fn retained(&mut self, name: &'static str, filter: &'static str) -> Vec<(String, u32)> {
        let taker = Taker {
            filter,
            ..Taker::default()
        };
        let stranger = Client::new(&mut self.rng, name, Role::Taker(taker));
        self.clients.push(stranger);
        let mut left = None;
        for _ in 0..2_000 {
            self.turn();
            let Some(Client {
                role: Role::Taker(taker),
                ..
            }) = self.clients.last()
            else {
                break;
            };
            if taker.is_subscribed {
                let left = left.get_or_insert(CALM);
                *left -= 1;
                if *left == 0 {
                    let got = taker.got.iter();
                    let mut got: Vec<_> = got.map(|(topic, it, _)| (topic.clone(), *it)).collect();
                    got.sort();
                    return got;
                }
            }
        }
        panic!("nobody tells {name} what is retained");
    }

    /// A bit of the journal is not what was written, and says nothing of what lies behind it: what
    /// was said there may be lost, and nothing else.
    fn rot(&mut self) {
        self.power_goes();
        let lost = self.disk.rot();
        let lost_of = |kind: KeyKind| {
            let of_kind = |key: &&Key| KeyKind::from_u8(key.kind) == Some(kind);
            lost.iter().flatten().filter(of_kind).count()
        };
        let stays = |client: &Client| matches!(client.role, Role::Sender(_) | Role::Taker(_));
        self.clients.retain(stays);
        for client in &mut self.clients {
            client.was_in = false;
        }
        self.power_comes();
        let mut turns = 0;
        while !self.clients.iter().all(|client| client.is_welcome) {
            self.turn();
            turns += 1;
            assert!(turns < TURNS_MAX, "the gateway does not start");
        }
        let sessions = self.clients.iter().filter(|client| !client.is_present);
        let sessions: Vec<_> = sessions.map(|client| client.name).collect();
        assert!(
            sessions.len() <= lost_of(KeyKind::Session),
            "the sessions of {sessions:?} are lost, with {lost:?}"
        );
        let found = self.retained("another", "+");
        let gone = self.expected().into_iter().filter(|it| !found.contains(it));
        let gone: Vec<_> = gone.collect();
        assert!(
            gone.len() <= lost_of(KeyKind::Retained),
            "what is retained: {found:?}, with {lost:?} lost"
        );
        self.report.rotten += u64::from(lost.is_some());
    }

    fn at(&self) -> Now {
        Now {
            monotonic: self.now,
            wall: self.wall,
        }
    }

    fn turn(&mut self) {
        if self.trouble {
            self.trouble_somebody();
        }
        // A step, or to the next deadline if nothing else is to happen.
        let step = Duration::from_micros(self.rng.below(8_000));
        self.now = self.now + step;
        self.wall = self.wall.saturating_add(step);
        let now = self.at();
        self.hear_disk(self.now);
        for index in 0..self.clients.len() {
            self.serve(index);
            self.hear_disk_meanwhile();
        }
        if self
            .gateway
            .poll_timeout()
            .is_some_and(|(at, _)| at <= self.now)
        {
            self.gateway.handle_timeout(now);
        }
        self.gateway.end_turn(now);
        self.drain();
        while let Some(conn) = self.gateway.poll_resumed() {
            self.gateway
                .handle_input(now, Input::Received { conn, count: 0 });
        }
        self.drain();
        self.write_out();
        self.drain();
    }

    /// What the disk has done by `until` is heard, and what it is to do next is handed over at
    /// once, though the turn goes on.
    fn hear_disk(&mut self, until: Instant) {
        let now = self.at();
        while let Some(event) = self.disk.poll_event(until) {
            self.gateway.handle_input(now, Input::Disk(event));
            while let Some(command) = self.gateway.poll_disk() {
                self.disk.submit(self.now, command);
            }
        }
    }

    /// A turn takes time, though its `now` stands still: the disk may be done with something while
    /// clients are read.
    fn hear_disk_meanwhile(&mut self) {
        if self.rng.chance(1, 8) {
            let meanwhile = Duration::from_micros(self.rng.below(4_000));
            self.hear_disk(self.now + meanwhile);
        }
    }

    fn trouble_somebody(&mut self) {
        if self.rng.chance(self.setting.cuts.into(), 1_000) {
            let index = self.rng.below(self.clients.len() as u64) as usize;
            self.cut(index);
        }
        // Where the journal has just refused something, much is half done.
        let unkept = self.gateway.broker().stats().unkept;
        if unkept > std::mem::replace(&mut self.unkept, unkept) && self.rng.chance(1, 8) {
            self.fuse.get_or_insert(1 + self.rng.below(100));
        }
        self.fuse = self.fuse.and_then(|left| left.checked_sub(1));
        let is_due = self.fuse == Some(0) && self.setting.crashes > 0;
        if is_due || self.rng.chance(self.setting.crashes.into(), 1_000) {
            self.crash();
        }
        match self.rng.below(400) {
            0..4 if self.setting.disk > 0 => {
                let trouble = Trouble::some(&mut self.rng);
                self.disk.set_trouble(trouble);
            }
            4..14 => self.disk.set_trouble(Trouble::none()),
            14..18 if self.setting.idle > 0 => {
                for client in &mut self.clients {
                    if let Role::Taker(taker) = &mut client.role {
                        taker.is_idle = !taker.is_idle;
                    }
                }
            }
            18..22 => {
                let dice = self.rng.below(4);
                for client in &mut self.clients {
                    if let Role::Fickle(fickle) = &mut client.role
                        && client.is_welcome
                    {
                        fickle.change_its_mind(dice);
                    }
                }
            }
            22..26 => {
                let is_passer = |client: &Client| matches!(client.role, Role::Passer(_));
                if let Some(index) = self.clients.iter().position(is_passer) {
                    self.cut(index);
                    let away = Duration::from_millis(self.rng.below(5_000));
                    if let Role::Passer(passer) = &mut self.clients[index].role {
                        passer.back = self.now + away;
                    }
                }
            }
            _ => {}
        }
    }

    /// The connection breaks: what was on its way either way is lost.
    fn cut(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(conn) = client.forget_connection(self.now) else {
            return;
        };
        self.report.cuts += 1;
        if self.conns.remove(conn).is_some() {
            let cause = CloseCause::Peer;
            let now = self.at();
            self.gateway
                .handle_input(now, Input::Closed { conn, cause });
        }
    }

    fn crash(&mut self) {
        self.report.crashes += 1;
        log::info!("crash at {:?}", self.now);
        self.power_goes();
        self.power_comes();
    }

    fn power_goes(&mut self) {
        let stats = self.gateway.broker().stats();
        self.report.unkept += stats.unkept;
        self.report.expired += stats.expired_sessions;
        // What the journal did not take is not there again.
        let are_kept = stats.unkept_wills == 0;
        for client in self.clients.iter_mut().filter(|it| it.is_welcome) {
            if let Role::Mortal(mortal) = &mut client.role {
                let is_asked = mortal.end == guests::End::PowerCut && are_kept;
                let is_its_end =
                    is_asked && (!self.trouble || mortal.is_to_stay && self.rng.chance(1, 8));
                mortal.power_fails(is_its_end);
            }
        }
        self.disk.crash();
        for client in &mut self.clients {
            client.forget_connection(self.now);
            if let Role::Meter(meter) = &mut client.role {
                meter.power_fails();
            }
        }
        self.conns = GenSlab::new();
        self.listener = None;
        (self.unkept, self.fuse) = (0, None);
    }

    fn power_comes(&mut self) {
        let off = Duration::from_millis(self.rng.below(5_000));
        self.now = self.now + off;
        self.wall = self.wall.saturating_add(off);
        self.gateway = open(&mut self.rng, self.now, self.wall, self.setting.size);
    }

    /// A moment that no other thing has.
    fn moment(&mut self) -> Moment {
        self.tick += 1;
        Moment {
            tick: self.tick,
            now: self.now,
            opened: self.opened,
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            let now = self.at();
            match output {
                Output::Listen { listener, .. } => {
                    self.listener = Some(listener);
                    self.opened = self.now;
                    let outcome = Ok("127.0.0.1:1883".into());
                    self.gateway
                        .handle_input(now, Input::Listening { listener, outcome });
                }
                Output::Disk(command) => self.disk.submit(self.now, command),
                Output::Close { conn, .. } => {
                    // What is queued is lost, which it may be.
                    if let Some(index) = self.conns.remove(conn) {
                        self.clients[index].forget_connection(self.now);
                        let cause = CloseCause::Ours;
                        self.gateway
                            .handle_input(now, Input::Closed { conn, cause });
                    }
                }
                Output::Journal(JournalCommand::Fetch { message }) => {
                    let payload = None;
                    let event = JournalEvent::Fetched { message, payload };
                    self.gateway.handle_input(now, Input::Journal(event));
                }
                _ => {}
            }
        }
        self.report.disk_faults = self.disk.faults();
    }

    /// A client dials, says what it has to, and some of its bytes arrive.
    fn serve(&mut self, index: usize) {
        let now = self.at();
        let Some(listener) = self.listener else {
            return;
        };
        let moment = self.moment();
        let client = &mut self.clients[index];
        if client.conn.is_none() {
            if matches!(&client.role, Role::Mortal(mortal) if mortal.is_gone) {
                return;
            }
            let is_away = matches!(&client.role, Role::Passer(it) if it.back > self.now);
            if self.trouble && (is_away || !self.rng.chance(1, 20)) {
                return;
            }
            let conn = self.conns.insert(index);
            client.connect(conn, moment);
            let peer = Peer::Tcp("127.0.0.1:40000".parse().expect("an address"));
            self.gateway.handle_input(
                now,
                Input::Accepted {
                    conn,
                    listener,
                    peer,
                },
            );
        }
        // Nobody publishes before all are there to hear it.
        let are_there = self.clients.iter().all(|client| match &client.role {
            Role::Taker(taker) => taker.is_subscribed || !taker.filter.starts_with("t/"),
            _ => true,
        });
        let moment = self.moment();
        let dice = self.rng.below(24);
        let client = &mut self.clients[index];
        if client.is_welcome {
            match &mut client.role {
                Role::Sender(sender)
                    if are_there && (!self.trouble || dice.is_multiple_of(sender.pace)) =>
                {
                    let is_void = self.trouble && dice == 0;
                    sender.publish(is_void, moment, client.version, &mut client.unsent);
                }
                Role::Mortal(mortal)
                    if mortal.end == guests::End::Goodbye && !mortal.is_gone && !self.trouble =>
                {
                    mortal.is_gone = true;
                    let goodbye = Disconnect::new(ReasonCode::NORMAL_DISCONNECTION);
                    client.say(&Packet::Disconnect(goodbye));
                }
                Role::Meter(_) if dice == 0 || !self.trouble => {
                    client.tell_value(self.trouble, self.now);
                }
                Role::Fickle(fickle) if !client.is_asking && fickle.wish != Wish::Nothing => {
                    if fickle.wish == Wish::CleanStart {
                        return self.cut(index);
                    }
                    client.ask(moment);
                }
                _ => {}
            }
        }
        let Some(conn) = client.conn else {
            return;
        };
        let some = if self.trouble {
            self.rng.below(300) as usize
        } else {
            usize::MAX
        };
        let Some(buffer) = self.gateway.recv_buffer(conn) else {
            return;
        };
        let client = &mut self.clients[index];
        let spare = buffer.spare();
        let count = client.unsent.len().min(spare.len()).min(some);
        for (place, byte) in spare.iter_mut().zip(client.unsent.drain(..count)) {
            *place = byte;
        }
        if count > 0 {
            self.gateway
                .handle_input(now, Input::Received { conn, count });
        } else {
            buffer.commit(0);
        }
        self.drain();
    }

    fn write_out(&mut self) {
        let mut ready: Vec<ConnId> = Vec::new();
        while let Some(conn) = self.gateway.poll_writable() {
            ready.push(conn);
        }
        // Whoever has something left comes again.
        ready.extend(self.conns.keys());
        let mut seen = BTreeSet::new();
        ready.retain(|conn| seen.insert(*conn));
        for conn in ready {
            let Some(index) = self.conns.get(conn).copied() else {
                continue;
            };
            let is_idle = matches!(&self.clients[index].role, Role::Taker(it) if it.is_idle);
            if self.trouble && (is_idle || self.rng.chance(1, 4)) {
                continue;
            }
            let now = self.at();
            let Some(queue) = self.gateway.fill(now, conn, 4096) else {
                continue;
            };
            let mut slices = [IoSlice::new(&[]); 16];
            let count = queue.gather(&mut slices, usize::MAX);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|it| it.to_vec()).collect();
            let some = if self.trouble {
                (self.rng.below(600) as usize).min(bytes.len())
            } else {
                bytes.len()
            };
            queue.consume(some);
            let moment = self.moment();
            let client = &mut self.clients[index];
            client.recv.extend_from_slice(&bytes[..some]);
            let is_last_before = client.has_retained_its_last();
            self.report.changes += u64::from(client.read(moment));
            // Nothing that follows would hide that this is lost.
            if self.trouble && client.has_retained_its_last() && !is_last_before {
                self.fuse = self.fuse.or(self.rng.chance(1, 4).then_some(1));
            }
        }
    }
}

fn open(rng: &mut Rng, now: Instant, wall: WallTime, size: u32) -> Gateway {
    let source = fieldgate::config::Source {
        path: "power.toml".into(),
        text: CONFIG.to_owned(),
    };
    let environment = fieldgate::config::Environment::default();
    let loaded = fieldgate::config::parse(vec![source], &environment)
        .unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let now = Now {
        monotonic: now,
        wall,
    };
    let mut config = loaded.meant.gateway;
    let journal = config.journal.as_mut().expect("there is a journal");
    // The small ones are smaller than a configuration may ask for, so that they are nearly full, and
    // segments are used again and again.
    let segment = if size < 1024 { 32 } else { 1024 };
    (journal.size, journal.segment) = (u64::from(size) * 1024, segment * 1024);
    let seed = rng.next_u64();
    let mut gateway = Gateway::new(config, seed, now);
    // So little waits here that a whole window would hold it: with a small one sessions draw what
    // they are sent from the disk.
    let windows = [1, 2, 3, 5, 8, 256];
    gateway
        .broker_mut()
        .set_window(windows[(seed % 6) as usize]);
    gateway
}

/// Whether this publication removes what is retained.
fn is_removal(topic: &str, number: u32) -> bool {
    topic == REMOVED && number % 2 == 1
}

impl Client {
    fn new(rng: &mut Rng, name: &'static str, role: Role) -> Self {
        let is_new = matches!(role, Role::Fickle(_) | Role::Passer(_)) || rng.chance(1, 2);
        Self {
            name,
            version: if is_new {
                ProtocolVersion::V5
            } else {
                ProtocolVersion::V4
            },
            conn: None,
            is_welcome: false,
            was_in: false,
            is_present: false,
            is_asking: false,
            recv: Vec::new(),
            unsent: VecDeque::new(),
            role,
        }
    }

    fn forget_connection(&mut self, now: Instant) -> Option<ConnId> {
        let was_in = std::mem::take(&mut self.is_welcome);
        self.is_asking = false;
        self.recv.clear();
        self.unsent.clear();
        let conn = self.conn.take();
        match &mut self.role {
            Role::Passer(passer) if conn.is_some() => passer.leaves(now, was_in),
            Role::Meter(meter) => meter.is_cut(),
            _ => {}
        }
        conn
    }

    /// What is retained of it is acknowledged, and stays as it is.
    fn has_retained_its_last(&self) -> bool {
        matches!(&self.role, Role::Sender(it) if it.retain && it.acknowledged >= it.most)
    }

    fn say(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode_into(self.version, &mut bytes);
        self.unsent.extend(bytes);
    }

    fn connect(&mut self, conn: ConnId, at: Moment) {
        self.conn = Some(conn);
        let (clean_start, expiry) = match &mut self.role {
            Role::Watcher(watcher) => {
                watcher.inbox = Inbox::default();
                (true, 0)
            }
            Role::Fickle(fickle) => {
                let is_clean = fickle.wish == Wish::CleanStart;
                if is_clean {
                    fickle.asks(at);
                }
                (is_clean, 100_000)
            }
            Role::Passer(passer) => {
                passer.dials(at);
                (false, Passer::EXPIRY)
            }
            Role::Mortal(mortal) if !mortal.is_to_stay => (true, 0),
            _ => (false, 100_000),
        };
        let properties = ConnectProperties {
            session_expiry_interval: self.version.is_v5().then_some(expiry),
            ..ConnectProperties::default()
        };
        let will = match &mut self.role {
            Role::Mortal(mortal) => Some(mortal.dials()),
            _ => None,
        };
        let mut bytes = Vec::new();
        Packet::Connect(Connect {
            version: self.version,
            client_id: self.name,
            clean_start,
            keep_alive: 0,
            properties,
            will,
            username: None,
            password: None,
        })
        .encode_into(self.version, &mut bytes);
        self.unsent.extend(bytes);
    }

    /// Whether a fickle client was told that something has changed.
    fn read(&mut self, at: Moment) -> bool {
        let bytes = std::mem::take(&mut self.recv);
        let mut read = 0;
        let mut has_changed = false;
        while let Ok(Frame::Complete { total_len, .. }) = frame::peek(&bytes[read..], 1 << 20) {
            let packet = Packet::parse(self.version, &bytes[read..read + total_len])
                .unwrap_or_else(|error| panic!("{} was sent nonsense: {error}", self.name));
            has_changed |= self.take(&packet, at);
            read += total_len;
        }
        self.recv = bytes[read..].to_vec();
        has_changed
    }

    fn take(&mut self, packet: &Packet<'_>, at: Moment) -> bool {
        match packet {
            Packet::Connack(connack) => {
                assert!(
                    !connack.reason.is_error(),
                    "{} is refused: {connack:?}",
                    self.name
                );
                return self.is_let_in(connack.session_present, at);
            }
            Packet::Suback(_) => match &mut self.role {
                Role::Taker(taker) => taker.is_subscribed = true,
                Role::Fickle(fickle) => {
                    self.is_asking = false;
                    fickle.is_answered(Wish::Subscribe, at);
                }
                _ => {}
            },
            Packet::Unsuback(_) => {
                if let Role::Fickle(fickle) = &mut self.role {
                    self.is_asking = false;
                    fickle.is_answered(Wish::Unsubscribe, at);
                    return true;
                }
            }
            Packet::Publish(publish) => self.take_publish(publish, at),
            Packet::Pubrel(ack) => {
                match &mut self.role {
                    Role::Taker(Taker { inbox, .. })
                    | Role::Fickle(Fickle { inbox, .. })
                    | Role::Watcher(Watcher { inbox, .. }) => inbox.release(ack.packet_id),
                    _ => {}
                }
                self.say(&Packet::Pubcomp(Ack::success(ack.packet_id)));
            }
            Packet::Puback(ack) => self.is_acknowledged(ack, false, at),
            Packet::Pubcomp(ack) => self.is_acknowledged(ack, true, at),
            Packet::Pubrec(ack) => {
                if let Role::Sender(sender) = &mut self.role {
                    let first = sender.underway.iter_mut().find(|it| !it.2);
                    let (id, _, is_released) = first.expect("it waits for this");
                    assert_eq!(*id, ack.packet_id, "PUBREC in the order of PUBLISH");
                    *is_released = true;
                }
                self.say(&Packet::Pubrel(Ack::success(ack.packet_id)));
            }
            Packet::Pingresp => {
                if let Role::Meter(Meter { end, .. }) = &mut self.role
                    && *end == End::Said
                {
                    *end = End::Heard(at.now);
                }
            }
            Packet::Disconnect(_) => {}
            other => panic!("{} was sent {other:?}", self.name),
        }
        false
    }

    fn is_acknowledged(&mut self, ack: &Ack<'_>, is_released: bool, at: Moment) {
        let sender = match &mut self.role {
            Role::Sender(sender) => sender,
            Role::Meter(meter) => {
                meter.end = End::Over;
                return;
            }
            _ => panic!("{} has published nothing", self.name),
        };
        let waits = |it: &&(PacketId, u32, bool)| it.2 == is_released;
        let first = sender.underway.iter().find(waits).copied();
        let (id, number, _) = first.expect("it waits for this");
        assert_eq!(
            id, ack.packet_id,
            "answers in the order of what they answer"
        );
        sender.underway.retain(|it| it.0 != id);
        if number != VOID {
            sender.acknowledged += 1;
            let published = sender.published.get_mut(&number).expect("it was said");
            published.acknowledged = Some(at.tick);
        }
    }

    /// CONNACK. Whether it ends a session before.
    fn is_let_in(&mut self, is_present: bool, at: Moment) -> bool {
        let mut is_cleaned = false;
        match &mut self.role {
            Role::Passer(passer) => passer.is_in(is_present, at),
            Role::Watcher(_)
            | Role::Mortal(Mortal {
                is_to_stay: false, ..
            }) => {
                assert!(!is_present, "{} asked for a new session", self.name);
            }
            Role::Fickle(fickle) if fickle.wish == Wish::CleanStart => {
                assert!(!is_present, "{} asked for a new session", self.name);
                fickle.is_answered(Wish::CleanStart, at);
                is_cleaned = true;
            }
            _ => assert!(
                is_present || !self.was_in,
                "the session of {} is lost",
                self.name
            ),
        }
        self.is_welcome = true;
        self.was_in = true;
        self.is_present = is_present;
        self.resume();
        is_cleaned
    }

    /// What its protocol has it do first.
    fn resume(&mut self) {
        let mut packets = Vec::new();
        match &mut self.role {
            Role::Sender(sender) => {
                for (id, number, is_released) in &sender.underway {
                    if *is_released {
                        Packet::Pubrel(Ack::success(*id)).encode_into(self.version, &mut packets);
                    } else {
                        if let Some(published) = sender.published.get_mut(number) {
                            published.is_repeated = true;
                        }
                        encode(sender, (*id, *number), true, self.version, &mut packets);
                    }
                }
            }
            Role::Taker(taker) if !taker.is_subscribed => {
                let filter = taker.filter;
                self.subscribe(filter, QoS::ExactlyOnce);
            }
            Role::Watcher(watcher) => {
                let qos = watcher.qos;
                self.subscribe("t/+", qos);
            }
            _ => {}
        }
        self.unsent.extend(packets);
    }

    fn subscribe(&mut self, filter: &str, qos: QoS) {
        let request = SubscriptionRequest {
            filter: TopicFilter::new(filter).expect("a filter"),
            options: SubscriptionOptions::new(qos),
        };
        self.say(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::FIRST,
            properties: SubscribeProperties::default(),
            requests: SubscriptionRequests::from_slice(&[request]),
        }));
    }

    /// What a fickle client wants.
    fn ask(&mut self, at: Moment) {
        let Role::Fickle(fickle) = &mut self.role else {
            return;
        };
        fickle.asks(at);
        self.is_asking = true;
        if fickle.wish == Wish::Subscribe {
            return self.subscribe("f/#", QoS::ExactlyOnce);
        }
        let filter = TopicFilter::new("f/#").expect("a filter");
        self.say(&Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId::FIRST,
            properties: UnsubscribeProperties::default(),
            filters: TopicFilters::from_slice(&[filter]),
        }));
    }

    fn tell_value(&mut self, is_trouble: bool, now: Instant) {
        const WITHIN: Duration = Duration::from_millis(100);
        let Role::Meter(meter) = &mut self.role else {
            return;
        };
        let (qos, topic, value) = match meter.end {
            End::NotYet if is_trouble && meter.value < meter.most => {
                meter.value += 1;
                (QoS::AtMostOnce, "level", meter.value)
            }
            End::NotYet => {
                meter.end = End::Said;
                (QoS::AtMostOnce, "level", LAST_VALUE)
            }
            End::Heard(at) if !is_trouble && now >= at + WITHIN => {
                meter.end = End::Probed;
                (QoS::AtLeastOnce, "probe", 0)
            }
            _ => return,
        };
        self.say(&Packet::Publish(Publish {
            dup: false,
            qos,
            retain: true,
            topic,
            packet_id: (qos > QoS::AtMostOnce).then_some(PacketId::FIRST),
            properties: PublishProperties::default(),
            payload: value.to_string().as_bytes(),
        }));
        self.say(&Packet::Pingreq);
    }

    fn take_publish(&mut self, publish: &Publish<'_>, at: Moment) {
        let text = std::str::from_utf8(publish.payload).expect("a number");
        let number = text.trim().parse().expect("a number");
        match &mut self.role {
            Role::Taker(taker) => {
                if taker.inbox.take(publish) {
                    let topic = publish.topic.to_owned();
                    taker.got.push((topic, number, publish.dup));
                }
            }
            Role::Fickle(fickle) => {
                if fickle.inbox.take(publish) {
                    fickle.got(number, at);
                }
            }
            Role::Watcher(watcher) => watcher.take(publish, number),
            _ => panic!("{} did not subscribe", self.name),
        }
        if let Some(answer) = guests::answer(publish) {
            self.say(&answer);
        }
    }
}

impl Sender {
    fn new(topic: &'static str, qos: QoS, most: u32) -> Self {
        Self {
            topic,
            qos,
            retain: false,
            pace: 1,
            most,
            next: 0,
            underway: Vec::new(),
            acknowledged: 0,
            published: BTreeMap::new(),
        }
    }

    /// Says the next thing, or something that nobody hears.
    fn publish(
        &mut self,
        is_void: bool,
        at: Moment,
        version: ProtocolVersion,
        unsent: &mut VecDeque<u8>,
    ) {
        if self.underway.len() >= WINDOW || self.next >= self.most {
            return;
        }
        // The first that is free, so that each is soon used again.
        let mut id = PacketId::FIRST;
        while self.underway.iter().any(|(other, ..)| *other == id) {
            id = id.next();
        }
        let number = if is_void { VOID } else { self.next };
        if !is_void {
            self.next += 1;
            let published = Published {
                said: at.tick,
                is_repeated: false,
                acknowledged: None,
            };
            self.published.insert(number, published);
        }
        self.underway.push((id, number, false));
        let mut bytes = Vec::new();
        encode(self, (id, number), false, version, &mut bytes);
        unsent.extend(bytes);
    }
}

fn encode(
    sender: &Sender,
    (id, number): (PacketId, u32),
    dup: bool,
    version: ProtocolVersion,
    into: &mut Vec<u8>,
) {
    // Of different lengths, some of more than a block.
    let len = [4, 60, 700, 5000][number as usize % 4];
    let is_void = number == VOID;
    let payload = if is_removal(sender.topic, number) && !is_void {
        String::new()
    } else {
        format!("{number:<len$}")
    };
    Packet::Publish(Publish {
        dup,
        qos: sender.qos,
        retain: sender.retain && !is_void,
        topic: if is_void { "void" } else { sender.topic },
        packet_id: Some(id),
        properties: PublishProperties::default(),
        payload: payload.as_bytes(),
    })
    .encode_into(version, into);
}

impl Taker {
    /// Messages that have come, each counted once.
    fn distinct(&self) -> u32 {
        let all: BTreeSet<(&str, u32)> = self
            .got
            .iter()
            .map(|(topic, number, _)| (&**topic, *number))
            .collect();
        all.len() as u32
    }
}
