//! Whole connections against the broker's machine: a script of bytes is what clients send, when
//! connections open and break, and how time passes.
//!
//! Whatever the script: no assertion of the broker fails, everything that it sends is a packet that
//! a client of that version may get and is no longer than that client takes, a deadline that was
//! handled is over, and when everybody has been gone for long enough nothing is left.

use fieldgate::broker::settings::{PublishQuota, QueueLimits, Settings, WhenFull};
use fieldgate::broker::{Admission, Broker, Output};
use fieldgate::buffer::{Memory, Outbox, RecvBuffer};
use fieldgate::id::{ConnId, Lsn, MessageId};
use fieldgate::mqtt::frame::{self, Frame};
use fieldgate::mqtt::{Packet, PacketType, ProtocolVersion};
use fieldgate::rng::Rng;
use fieldgate::slab::Key;
use fieldgate::time::{Duration, Instant, Now, WallTime};
use fieldgate::units::Rate;

/// Connections at once; more steps to open one do nothing.
const CONNECTIONS: usize = 4;

/// Sessions live at most so long without a connection.
const EXPIRY: Duration = Duration::from_secs(100);

struct Peer {
    conn: ConnId,
    recv: RecvBuffer,
    /// What was sent to the broker while it did not read.
    unread: Vec<u8>,
    /// What the broker has sent.
    got: Vec<u8>,
    /// As its CONNECT says.
    version: Option<ProtocolVersion>,
    is_stalled: bool,
}

struct Lives {
    broker: Broker,
    memory: Memory,
    outbox: Outbox,
    now: Now,
    peers: Vec<Peer>,
    opened: u32,
    fetched: Vec<MessageId>,
    verified: Vec<ConnId>,
    /// What the journal has synced; everything, if it is not held back.
    mark: Option<Lsn>,
}

fn settings(first: u8) -> Settings {
    let mut settings = Settings {
        max_connections: 3,
        max_packet_size: 1024,
        max_connect_size: 512,
        receive_maximum: 3,
        topic_alias_maximum: 2,
        inflight_maximum: 2,
        max_session_expiry: Some(EXPIRY),
        memory: 200_000,
        queue: QueueLimits {
            messages: 5,
            bytes: 4096,
            when_full: [
                WhenFull::DropNewest,
                WhenFull::DropOldest,
                WhenFull::Refuse,
                WhenFull::Disconnect,
            ][usize::from(first % 4)],
        },
        queues_bytes: 8192,
        retained_messages: 4,
        retained_bytes: 4096,
        max_sessions: 4,
        max_subscriptions: 5,
        ..Settings::default()
    };
    if first & 0x10 != 0 {
        settings.publish_quota = PublishQuota {
            messages: Some(Rate::per_second(2)),
            bytes: None,
        };
    }
    settings
}

/// A script: a byte of options, then steps of one byte each, most of which take more.
pub fn broker(bytes: &[u8]) {
    let Some((&first, mut script)) = bytes.split_first() else {
        return;
    };
    let mut lives = Lives::new(first);
    let mut next = || {
        let (byte, rest) = script.split_first()?;
        script = rest;
        Some(*byte)
    };
    while let Some(step) = next() {
        let who = usize::from(step >> 4) % CONNECTIONS;
        match step % 16 {
            0 => lives.open(),
            1 => lives.close(who),
            2 => lives.wait(Duration::from_millis(100 * u64::from(next().unwrap_or(1)))),
            3 => {
                if let Some(peer) = lives.peers.get_mut(who) {
                    peer.is_stalled = !peer.is_stalled;
                }
            }
            4 => lives.answer(next().unwrap_or_default()),
            5 => {
                let is_held = lives.mark.is_some();
                lives.mark = (!is_held).then(|| lives.broker.last_lsn());
            }
            6 => lives.reconfigure(first ^ next().unwrap_or_default()),
            7 => {
                let connect = connect(next().unwrap_or_default());
                lives.send(who, &connect);
            }
            // The next byte says how many bytes it sends.
            _ => {
                let count = usize::from(next().unwrap_or_default());
                let sent: Vec<u8> = (0..count).map_while(|_| next()).collect();
                lives.send(who, &sent);
            }
        }
        lives.turn();
    }
    lives.end();
}

/// A CONNECT that a byte is enough for.
fn connect(how: u8) -> Vec<u8> {
    let level = [3, 4, 5][usize::from(how % 3)];
    let name: &[u8] = if level == 3 { b"MQIsdp" } else { b"MQTT" };
    let (clean, has_will) = (how & 0x10 != 0, how & 0x20 != 0);
    let mut body = vec![0, name.len() as u8];
    body.extend_from_slice(name);
    body.push(level);
    body.push(u8::from(clean) << 1 | if has_will { 0x2C } else { 0 });
    body.extend([0, 30]);
    if level == 5 {
        // Session Expiry 60, Receive Maximum 2, Maximum Packet Size 256.
        body.extend(b"\x0D\x11\x00\x00\x00\x3C\x21\x00\x02\x27\x00\x00\x01\x00");
    }
    body.extend([0, 1, b'a' + (how >> 6)]);
    if has_will {
        if level == 5 {
            body.extend(b"\x05\x18\x00\x00\x00\x0A");
        }
        body.extend(b"\x00\x01w\x00\x01x");
    }
    let mut packet = vec![0x10, body.len() as u8];
    packet.extend(body);
    packet
}

impl Lives {
    fn new(first: u8) -> Self {
        let memory = Memory::new(0);
        let mut broker = Broker::new(settings(first), &memory, &mut Rng::from_seed(1));
        broker.set_fetch_every_draw(first & 0x20 != 0);
        Self {
            broker,
            outbox: Outbox::new(&memory),
            memory,
            now: Now {
                monotonic: Instant::from_nanos(1_000_000_000),
                wall: WallTime::EARLIEST_PLAUSIBLE,
            },
            peers: Vec::new(),
            opened: 0,
            fetched: Vec::new(),
            verified: Vec::new(),
            mark: None,
        }
    }

    fn open(&mut self) {
        if self.peers.len() == CONNECTIONS {
            return;
        }
        let conn = ConnId::from_parts(self.opened, 0);
        self.opened += 1;
        self.outbox.open(conn);
        self.peers.push(Peer {
            conn,
            recv: RecvBuffer::for_stranger(&self.memory),
            unread: Vec::new(),
            got: Vec::new(),
            version: None,
            is_stalled: false,
        });
        let admission = Admission {
            allow_anonymous: true,
            excess: 0,
            address: None,
            is_exempt: false,
            is_costly: false,
        };
        self.broker
            .handle_accepted(self.now, conn, admission, &mut self.outbox);
    }

    fn close(&mut self, who: usize) {
        if who < self.peers.len() {
            let peer = self.peers.swap_remove(who);
            self.broker
                .handle_closed(self.now, peer.conn, &mut self.outbox);
            self.outbox.close(peer.conn);
        }
    }

    fn send(&mut self, who: usize, bytes: &[u8]) {
        if let Some(peer) = self.peers.get_mut(who) {
            if peer.version.is_none() && peer.unread.is_empty() && peer.recv.bytes().is_empty() {
                let found = Packet::parse(ProtocolVersion::V5, bytes);
                if let Ok(Packet::Connect(connect)) = found {
                    peer.version = Some(connect.version);
                }
            }
            peer.unread.extend_from_slice(bytes);
            let conn = peer.conn;
            self.read(conn);
        }
    }

    /// As a host reads: as long as the broker takes it.
    fn read(&mut self, conn: ConnId) {
        loop {
            let Some(peer) = self.peers.iter_mut().find(|peer| peer.conn == conn) else {
                return;
            };
            if self.broker.is_paused(conn) {
                return;
            }
            let before = peer.unread.len();
            if before > 0 {
                let spare = peer.recv.spare();
                let count = spare.len().min(before);
                spare[..count].copy_from_slice(&peer.unread[..count]);
                peer.unread.drain(..count);
                peer.recv.commit(count);
            }
            self.broker
                .handle_received(self.now, conn, &mut peer.recv, &mut self.outbox);
            if before == 0 || peer.unread.len() == before {
                return;
            }
        }
    }

    fn wait(&mut self, duration: Duration) {
        let until = self.now.monotonic + duration;
        while let Some(at) = self.broker.poll_timeout().filter(|at| *at <= until) {
            self.advance(at);
            self.broker.handle_timeout(self.now, &mut self.outbox);
            let next = self.broker.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now.monotonic));
            self.turn();
        }
        self.advance(until);
    }

    fn advance(&mut self, to: Instant) {
        let by = to.since(self.now.monotonic);
        self.now.monotonic = self.now.monotonic + by;
        self.now.wall = self.now.wall.saturating_add(by);
    }

    /// Somebody brings what was fetched, and says whether passwords are right.
    fn answer(&mut self, how: u8) {
        for message in core::mem::take(&mut self.fetched) {
            self.broker
                .handle_fetched(self.now, message, &mut self.outbox);
        }
        for conn in core::mem::take(&mut self.verified) {
            let is_right = how & 1 == 1;
            self.broker
                .handle_verified(self.now, conn, is_right, &mut self.outbox);
        }
    }

    fn reconfigure(&mut self, how: u8) {
        self.broker
            .reconfigure(self.now, settings(how), &mut self.outbox);
    }

    /// The end of turns, until nothing happens.
    fn turn(&mut self) {
        for _ in 0..10_000 {
            let mark = self.mark.unwrap_or_else(|| self.broker.last_lsn());
            self.broker.end_turn(self.now, mark, &mut self.outbox);
            let mut is_busy = false;
            while let Some(output) = self.broker.poll_output() {
                is_busy = true;
                match output {
                    Output::Close { conn, .. } => {
                        self.write(conn);
                        let who = self.peers.iter().position(|peer| peer.conn == conn);
                        self.close(who.unwrap_or(CONNECTIONS));
                    }
                    Output::Fetch { message } => self.fetched.push(message),
                    Output::Verify { conn, .. } => self.verified.push(conn),
                    Output::Delivery { .. } | Output::SystemSubscribed => {}
                }
            }
            while let Some(conn) = self.outbox.poll_ready() {
                is_busy |= self.write(conn);
            }
            while let Some(conn) = self.broker.poll_resumed() {
                is_busy = true;
                self.read(conn);
            }
            if !is_busy {
                return;
            }
        }
        panic!("the broker never comes to rest");
    }

    /// What the broker has for a client that reads; whether that is anything.
    fn write(&mut self, conn: ConnId) -> bool {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.conn == conn) else {
            return false;
        };
        if peer.is_stalled {
            return false;
        }
        let mut is_busy = false;
        loop {
            self.broker.fill(self.now, conn, 1000, &mut self.outbox);
            let Some(queue) = self.outbox.queue_mut(conn) else {
                break;
            };
            if queue.is_empty() {
                break;
            }
            while !queue.is_empty() {
                let front = queue.front();
                let count = front.len();
                peer.got.extend_from_slice(front);
                queue.consume(count);
            }
            is_busy = true;
        }
        peer.look();
        is_busy
    }

    /// Everybody leaves, and nothing stays.
    fn end(mut self) {
        while !self.peers.is_empty() {
            self.close(0);
            self.turn();
        }
        self.mark = None;
        self.answer(1);
        self.turn();
        self.wait(EXPIRY * 3);
        self.turn();
        let stats = self.broker.stats();
        assert_eq!(
            (stats.sessions, stats.subscriptions, stats.queued),
            (0, 0, 0)
        );
        assert_eq!(
            stats.messages, stats.retained,
            "only what is retained is kept"
        );
        if stats.retained == 0 {
            assert_eq!(self.memory.used(), 0);
        }
    }
}

impl Peer {
    /// Everything that the broker has sent is a packet that this client may get.
    fn look(&mut self) {
        let Some(version) = self.version else {
            // Its CONNECT came in pieces, or is none: what it gets is a refusal or nothing.
            self.got.clear();
            return;
        };
        while let Ok(Frame::Complete { total_len, .. }) = frame::peek(&self.got, u32::MAX) {
            let packet = Packet::parse(version, &self.got[..total_len]);
            let packet = packet.expect("what the broker sends is a packet");
            assert!(matches!(
                packet.packet_type(),
                PacketType::Connack
                    | PacketType::Publish
                    | PacketType::Puback
                    | PacketType::Pubrec
                    | PacketType::Pubrel
                    | PacketType::Pubcomp
                    | PacketType::Suback
                    | PacketType::Unsuback
                    | PacketType::Pingresp
                    | PacketType::Disconnect
            ));
            self.got.drain(..total_len);
        }
        assert!(self.got.is_empty(), "half a packet was sent");
    }
}
