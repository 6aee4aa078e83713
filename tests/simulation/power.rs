//! The third judge: a gateway on a disk that loses its power, and clients that only know what they
//! were told.
//!
//! Publishers at QoS 1 and 2 whose sessions stay, subscribers whose sessions stay, a topic that is
//! retained; connections that are cut at any byte, a disk that answers late, fails and is full, and
//! power that goes at any moment with any part of what was not synced. In the end everybody is
//! served in peace, and then:
//!
//! * every message that was acknowledged to its publisher has come to every subscriber, at QoS 2
//!   exactly once, at QoS 1 at least once;
//! * each publisher's messages have come in order, what came again left out;
//! * no subscription had to be made again, and no session was lost;
//! * what is retained is what was published last;
//! * nothing is left in any queue, and every client is served in the end.
//!
//! `SIM_POWER=4711` replays a seed, `SIM_SEEDS=500` says how many there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;

use fieldgate::gateway::Gateway;
use fieldgate::gateway::boundary::{CloseCause, Input, JournalCommand, JournalEvent, Output, Peer};
use fieldgate::id::{ConnId, ListenerId};
use fieldgate::mqtt::frame::{self, Frame};
use fieldgate::mqtt::{
    Ack, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, PublishProperties,
    QoS, Subscribe, SubscribeProperties, SubscriptionOptions, SubscriptionRequest,
    SubscriptionRequests, TopicFilter,
};
use fieldgate::rng::Rng;
use fieldgate::slab::GenSlab;
use fieldgate::time::{Duration, Instant, Now, WallTime};

use super::disk::{Disk, Trouble};

/// Small enough for segments to be used again and again.
const CONFIG: &str = r#"
[gateway]
name = "power"
data_dir = "/nowhere"
[gateway.defaults]
every = "5s"
[journal]
size = "SIZE"
segment = "SEGMENT"
sync_within = "50ms"
[broker]
queue = { messages = 10000, bytes = "16MiB", when_full = "refuse" }
connect_rate = "unlimited"
"#;

/// Each publisher's messages.
const MESSAGES: u32 = 40;

/// Unacknowledged at once.
const WINDOW: usize = 5;

/// Turns after which a run that does not end is a failure.
const TURNS_MAX: u32 = 60_000;

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
    }

    /// Whether everything that can go wrong did.
    pub fn has_all(&self) -> bool {
        ![
            self.cuts,
            self.crashes,
            self.again,
            self.unkept,
            self.disk_faults,
        ]
        .contains(&0)
    }
}

/// A client, and what its protocol makes it remember.
struct Client {
    name: String,
    version: ProtocolVersion,
    conn: Option<ConnId>,
    is_welcome: bool,
    /// It has been in once: its session has to be there from then on.
    was_in: bool,
    recv: Vec<u8>,
    /// What it has said and the network has not carried.
    unsent: VecDeque<u8>,
    role: Role,
}

enum Role {
    Sender(Sender),
    Taker(Taker),
}

struct Sender {
    topic: String,
    qos: QoS,
    retain: bool,
    next: u32,
    next_id: PacketId,
    /// Oldest first: identifier, number, released.
    underway: Vec<(PacketId, u32, bool)>,
    acknowledged: u32,
}

#[derive(Default)]
struct Taker {
    filter: &'static str,
    is_subscribed: bool,
    /// QoS 2 identifiers that were received and not released.
    pending: BTreeSet<PacketId>,
    /// Topic, QoS, number, in the order of their coming.
    got: Vec<(String, QoS, u32)>,
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
    size: &'static str,
    segment: &'static str,
    report: Report,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        let disk = Disk::new(rng.next_u64());
        let sizes = [("1MiB", "64KiB"), ("512KiB", "64KiB"), ("8MiB", "1MiB")];
        let (size, segment) = *rng.choose(&sizes).expect("some");
        let now = Instant::from_nanos(1_000_000_000);
        let wall = WallTime::EARLIEST_PLAUSIBLE;
        let gateway = open(&mut rng, now, wall, size, segment);
        let mut clients = Vec::new();
        for (number, qos) in [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce]
            .into_iter()
            .enumerate()
        {
            let sender = Sender::new(format!("t/{number}"), qos, false);
            clients.push(Client::new(
                &mut rng,
                format!("p{number}"),
                Role::Sender(sender),
            ));
        }
        let keeper = Sender::new("kept".to_owned(), QoS::AtLeastOnce, true);
        clients.push(Client::new(
            &mut rng,
            "keeper".to_owned(),
            Role::Sender(keeper),
        ));
        for (number, filter) in ["t/#", "t/+"].into_iter().enumerate() {
            let taker = Taker {
                filter,
                ..Taker::default()
            };
            clients.push(Client::new(
                &mut rng,
                format!("s{number}"),
                Role::Taker(taker),
            ));
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
            size,
            segment,
            report: Report::default(),
        }
    }

    pub fn run(mut self) -> Report {
        let mut calm_since = None;
        for turn in 0..TURNS_MAX {
            self.turn();
            self.report.turns += 1;
            if self.trouble && (turn > 3_000 || self.is_all_acknowledged()) {
                self.trouble = false;
                self.disk.set_trouble(Trouble::none());
            }
            if !self.trouble && self.is_all_here() {
                // A moment more, so that what should not come has time to.
                let since = *calm_since.get_or_insert(turn);
                if turn - since > 50 {
                    self.judge();
                    return self.report;
                }
            }
        }
        panic!(
            "not all is delivered after so long: {:?} {:?}",
            self.progress(),
            self.gateway.broker().stats()
        );
    }

    fn progress(&self) -> Vec<(String, u32, usize)> {
        let each = self.clients.iter().map(|client| match &client.role {
            Role::Sender(sender) => (
                client.name.clone(),
                sender.acknowledged,
                sender.underway.len(),
            ),
            Role::Taker(taker) => {
                let all = (0..MESSAGES).flat_map(|number| (0..3).map(move |of| (of, number)));
                let missing: Vec<_> = all
                    .filter(|(of, number)| {
                        !taker
                            .got
                            .iter()
                            .any(|(topic, _, other)| *topic == format!("t/{of}") && other == number)
                    })
                    .collect();
                eprintln!(
                    "{}: missing {missing:?}, pending {:?}",
                    client.name, taker.pending
                );
                (client.name.clone(), taker.distinct(), taker.got.len())
            }
        });
        each.collect()
    }

    fn is_all_acknowledged(&self) -> bool {
        self.clients.iter().all(|client| match &client.role {
            Role::Sender(sender) => sender.acknowledged >= MESSAGES,
            Role::Taker(_) => true,
        })
    }

    /// Everything that was promised has come, and nobody has anything under way.
    fn is_all_here(&self) -> bool {
        self.is_all_acknowledged()
            && self.clients.iter().all(|client| match &client.role {
                Role::Sender(_) => true,
                Role::Taker(taker) => taker.distinct() >= 3 * MESSAGES && taker.pending.is_empty(),
            })
    }

    fn judge(&mut self) {
        for client in &self.clients {
            let Role::Taker(taker) = &client.role else {
                self.report.acknowledged += u64::from(MESSAGES);
                continue;
            };
            let mut of_topic: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
            for (topic, _, number) in &taker.got {
                of_topic.entry(topic).or_default().push(*number);
            }
            assert_eq!(of_topic.len(), 3, "{} has heard of", client.name);
            for (topic, numbers) in of_topic {
                let mut seen = BTreeSet::new();
                let firsts: Vec<u32> = numbers
                    .iter()
                    .copied()
                    .filter(|number| seen.insert(*number))
                    .collect();
                let all: Vec<u32> = (0..MESSAGES).collect();
                assert_eq!(firsts, all, "{} has of {topic}", client.name);
                if topic != "t/0" {
                    assert_eq!(numbers, all, "{} has of {topic}, at QoS 2", client.name);
                }
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
        assert_eq!(
            self.retained().as_deref(),
            Some(&*format!("{}", MESSAGES - 1))
        );
    }

    /// What a stranger finds retained.
    fn retained(&mut self) -> Option<String> {
        let taker = Taker {
            filter: "kept",
            ..Taker::default()
        };
        let stranger = Client::new(&mut self.rng, "stranger".to_owned(), Role::Taker(taker));
        self.clients.push(stranger);
        for _ in 0..2_000 {
            self.turn();
            let Some(Client {
                role: Role::Taker(taker),
                ..
            }) = self.clients.last()
            else {
                return None;
            };
            if let Some((_, _, number)) = taker.got.first() {
                return Some(number.to_string());
            }
        }
        None
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
        while let Some(event) = self.disk.poll_event(self.now) {
            self.gateway.handle_input(now, Input::Disk(event));
        }
        self.drain();
        for index in 0..self.clients.len() {
            self.serve(index);
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

    fn trouble_somebody(&mut self) {
        match self.rng.below(400) {
            0..4 => {
                let index = self.rng.below(self.clients.len() as u64) as usize;
                self.cut(index);
            }
            4..6 => self.crash(),
            6..10 => {
                let trouble = Trouble::some(&mut self.rng);
                self.disk.set_trouble(trouble);
            }
            10..20 => self.disk.set_trouble(Trouble::none()),
            20..24 => {
                for client in &mut self.clients {
                    if let Role::Taker(taker) = &mut client.role {
                        taker.is_idle = !taker.is_idle;
                    }
                }
            }
            _ => {}
        }
    }

    /// The connection breaks: what was on its way either way is lost.
    fn cut(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(conn) = client.forget_connection() else {
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
        self.report.unkept += self.gateway.broker().stats().unkept;
        self.disk.crash();
        for client in &mut self.clients {
            client.forget_connection();
        }
        self.conns = GenSlab::new();
        self.listener = None;
        let off = Duration::from_millis(self.rng.below(5_000));
        self.now = self.now + off;
        self.wall = self.wall.saturating_add(off);
        let (size, segment) = (self.size, self.segment);
        self.gateway = open(&mut self.rng, self.now, self.wall, size, segment);
    }

    fn drain(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            let now = self.at();
            match output {
                Output::Listen { listener, .. } => {
                    self.listener = Some(listener);
                    let outcome = Ok("127.0.0.1:1883".into());
                    self.gateway
                        .handle_input(now, Input::Listening { listener, outcome });
                }
                Output::Disk(command) => self.disk.submit(self.now, command),
                Output::Close { conn, .. } => {
                    // What is queued is lost, which it may be.
                    if let Some(index) = self.conns.remove(conn) {
                        self.clients[index].forget_connection();
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
        let client = &mut self.clients[index];
        if client.conn.is_none() {
            if self.trouble && !self.rng.chance(1, 20) {
                return;
            }
            let conn = self.conns.insert(index);
            client.connect(conn);
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
            Role::Taker(taker) => taker.is_subscribed || taker.filter == "kept",
            Role::Sender(_) => true,
        });
        let client = &mut self.clients[index];
        if client.is_welcome
            && are_there
            && let Role::Sender(sender) = &mut client.role
            && (!self.trouble || self.rng.chance(1, 6))
        {
            sender.publish(client.version, &mut client.unsent);
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
            let client = &mut self.clients[index];
            client.recv.extend_from_slice(&bytes[..some]);
            client.read();
        }
    }
}

fn open(rng: &mut Rng, now: Instant, wall: WallTime, size: &str, segment: &str) -> Gateway {
    let source = fieldgate::config::Source {
        path: "power.toml".into(),
        text: CONFIG.replace("SIZE", size).replace("SEGMENT", segment),
    };
    let environment = fieldgate::config::Environment::default();
    let loaded = fieldgate::config::parse(vec![source], &environment)
        .unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let now = Now {
        monotonic: now,
        wall,
    };
    Gateway::new(loaded.meant.gateway, rng.next_u64(), now)
}

impl Client {
    fn new(rng: &mut Rng, name: String, role: Role) -> Self {
        Self {
            name,
            version: if rng.chance(1, 2) {
                ProtocolVersion::V4
            } else {
                ProtocolVersion::V5
            },
            conn: None,
            is_welcome: false,
            was_in: false,
            recv: Vec::new(),
            unsent: VecDeque::new(),
            role,
        }
    }

    fn forget_connection(&mut self) -> Option<ConnId> {
        self.is_welcome = false;
        self.recv.clear();
        self.unsent.clear();
        self.conn.take()
    }

    fn say(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode_into(self.version, &mut bytes);
        self.unsent.extend(bytes);
    }

    fn connect(&mut self, conn: ConnId) {
        self.conn = Some(conn);
        let name = self.name.clone();
        let properties = ConnectProperties {
            session_expiry_interval: self.version.is_v5().then_some(100_000),
            ..ConnectProperties::default()
        };
        self.say(&Packet::Connect(Connect {
            version: self.version,
            client_id: &name,
            clean_start: false,
            keep_alive: 0,
            properties,
            will: None,
            username: None,
            password: None,
        }));
    }

    fn read(&mut self) {
        let bytes = std::mem::take(&mut self.recv);
        let mut at = 0;
        while let Ok(Frame::Complete { total_len, .. }) = frame::peek(&bytes[at..], 1 << 20) {
            let packet = Packet::parse(self.version, &bytes[at..at + total_len])
                .unwrap_or_else(|error| panic!("{} was sent nonsense: {error}", self.name));
            self.take(&packet);
            at += total_len;
        }
        self.recv = bytes[at..].to_vec();
    }

    fn take(&mut self, packet: &Packet<'_>) {
        match packet {
            Packet::Connack(connack) => {
                assert!(
                    !connack.reason.is_error(),
                    "{} is refused: {connack:?}",
                    self.name
                );
                assert!(
                    connack.session_present || !self.was_in,
                    "the session of {} is lost",
                    self.name
                );
                self.is_welcome = true;
                self.was_in = true;
                self.resume();
            }
            Packet::Suback(_) => {
                if let Role::Taker(taker) = &mut self.role {
                    taker.is_subscribed = true;
                }
            }
            Packet::Publish(publish) => self.take_publish(publish),
            Packet::Pubrel(ack) => {
                if let Role::Taker(taker) = &mut self.role {
                    taker.pending.remove(&ack.packet_id);
                }
                self.say(&Packet::Pubcomp(Ack::success(ack.packet_id)));
            }
            Packet::Puback(ack) | Packet::Pubcomp(ack) => {
                if let Role::Sender(sender) = &mut self.role {
                    let before = sender.underway.len();
                    sender.underway.retain(|(id, ..)| *id != ack.packet_id);
                    sender.acknowledged += (before - sender.underway.len()) as u32;
                }
            }
            Packet::Pubrec(ack) => {
                if let Role::Sender(sender) = &mut self.role {
                    for (id, _, is_released) in &mut sender.underway {
                        *is_released |= *id == ack.packet_id;
                    }
                }
                self.say(&Packet::Pubrel(Ack::success(ack.packet_id)));
            }
            Packet::Disconnect(_) => {}
            other => panic!("{} was sent {other:?}", self.name),
        }
    }

    /// What its protocol has it do first.
    fn resume(&mut self) {
        let mut packets = Vec::new();
        match &self.role {
            Role::Sender(sender) => {
                for (id, number, is_released) in &sender.underway {
                    if *is_released {
                        Packet::Pubrel(Ack::success(*id)).encode_into(self.version, &mut packets);
                    } else {
                        sender.encode(*id, *number, true, self.version, &mut packets);
                    }
                }
            }
            Role::Taker(taker) if !taker.is_subscribed => {
                let request = SubscriptionRequest {
                    filter: TopicFilter::new(taker.filter).expect("a filter"),
                    options: SubscriptionOptions::new(QoS::ExactlyOnce),
                };
                Packet::Subscribe(Subscribe {
                    packet_id: PacketId::FIRST,
                    properties: SubscribeProperties::default(),
                    requests: SubscriptionRequests::from_slice(&[request]),
                })
                .encode_into(self.version, &mut packets);
            }
            Role::Taker(_) => {}
        }
        self.unsent.extend(packets);
    }

    fn take_publish(&mut self, publish: &Publish<'_>) {
        let text = std::str::from_utf8(publish.payload).expect("a number");
        let number = text.trim().parse().expect("a number");
        let Role::Taker(taker) = &mut self.role else {
            panic!("{} did not subscribe", self.name);
        };
        let got = (publish.topic.to_owned(), publish.qos, number);
        match (publish.qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(id)) => {
                if taker.pending.insert(id) {
                    taker.got.push(got);
                }
                self.say(&Packet::Pubrec(Ack::success(id)));
            }
            (_, Some(id)) => {
                taker.got.push(got);
                self.say(&Packet::Puback(Ack::success(id)));
            }
            (_, None) => taker.got.push(got),
        }
    }
}

impl Sender {
    fn new(topic: String, qos: QoS, retain: bool) -> Self {
        Self {
            topic,
            qos,
            retain,
            next: 0,
            next_id: PacketId::FIRST,
            underway: Vec::new(),
            acknowledged: 0,
        }
    }

    fn publish(&mut self, version: ProtocolVersion, unsent: &mut VecDeque<u8>) {
        if self.underway.len() >= WINDOW || self.next >= MESSAGES {
            return;
        }
        let (id, number) = (self.next_id, self.next);
        self.next_id = id.next();
        self.next += 1;
        self.underway.push((id, number, false));
        let mut bytes = Vec::new();
        self.encode(id, number, false, version, &mut bytes);
        unsent.extend(bytes);
    }

    fn encode(
        &self,
        id: PacketId,
        number: u32,
        dup: bool,
        version: ProtocolVersion,
        into: &mut Vec<u8>,
    ) {
        // Of different lengths, some of more than a block.
        let len = [4, 60, 700, 5000][number as usize % 4];
        let payload = format!("{number:<len$}");
        Packet::Publish(Publish {
            dup,
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            packet_id: Some(id),
            properties: PublishProperties::default(),
            payload: payload.as_bytes(),
        })
        .encode_into(version, into);
    }
}

impl Taker {
    /// Messages that have come, each counted once.
    fn distinct(&self) -> u32 {
        let all: BTreeSet<(&str, u32)> = self
            .got
            .iter()
            .map(|(topic, _, number)| (&**topic, *number))
            .collect();
        all.len() as u32
    }
}
