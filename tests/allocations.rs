//! Forwarding a small QoS 0 message allocates nothing once the broker is warm.
//!
//! In a process of its own, because it counts every allocation of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use fieldgate::broker::settings::Settings;
use fieldgate::broker::{Admission, Broker};
use fieldgate::buffer::{Memory, Outbox, RecvBuffer};
use fieldgate::id::{ConnId, Lsn};
use fieldgate::mqtt::{
    Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS,
    Subscribe, SubscribeProperties, SubscriptionIdentifier, SubscriptionOptions,
    SubscriptionRequest, SubscriptionRequests, TopicAlias, TopicFilter,
};
use fieldgate::rng::Rng;
use fieldgate::slab::Key;
use fieldgate::time::{Instant, Now, WallTime};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came; only a number is counted
// up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NOW: Now = Now {
    monotonic: Instant::from_nanos(1_000_000_000),
    wall: WallTime::EARLIEST_PLAUSIBLE,
};

struct House {
    broker: Broker,
    outbox: Outbox,
    memory: Memory,
    recv: Vec<RecvBuffer>,
}

impl House {
    fn new() -> Self {
        let memory = Memory::new(usize::MAX);
        Self {
            broker: Broker::new(Settings::default(), &memory, &mut Rng::from_seed(1)),
            outbox: Outbox::new(&memory),
            recv: Vec::new(),
            memory,
        }
    }

    fn client(&mut self, version: ProtocolVersion) -> ConnId {
        let slot = self.recv.len() as u32;
        let conn = ConnId::from_parts(slot, 0);
        self.recv.push(RecvBuffer::new(&self.memory));
        self.outbox.open(conn);
        let admission = Admission {
            allow_anonymous: true,
            excess: 0,
            address: None,
            is_exempt: false,
            is_costly: false,
        };
        self.broker
            .handle_accepted(NOW, conn, admission, &mut self.outbox);
        let connect = Packet::Connect(Connect {
            version,
            clean_start: true,
            keep_alive: 60,
            client_id: &format!("client-{slot}"),
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties {
                // One of them takes aliases.
                topic_alias_maximum: (slot == 4).then_some(8),
                ..ConnectProperties::default()
            },
        });
        self.receive(conn, &encoded(&connect, version));
        self.turn();
        conn
    }

    fn subscribe(&mut self, conn: ConnId, version: ProtocolVersion, filter: &str, identifier: u32) {
        let requests = [SubscriptionRequest {
            filter: TopicFilter::new(filter).unwrap(),
            options: SubscriptionOptions::new(QoS::AtLeastOnce),
        }];
        let subscribe = Packet::Subscribe(Subscribe {
            packet_id: PacketId::FIRST,
            properties: SubscribeProperties {
                subscription_identifier: SubscriptionIdentifier::new(identifier),
                ..SubscribeProperties::default()
            },
            requests: SubscriptionRequests::from_slice(&requests),
        });
        self.receive(conn, &encoded(&subscribe, version));
        self.turn();
    }

    fn receive(&mut self, conn: ConnId, bytes: &[u8]) {
        let recv = &mut self.recv[conn.slot() as usize];
        recv.spare()[..bytes.len()].copy_from_slice(bytes);
        recv.commit(bytes.len());
        self.broker
            .handle_received(NOW, conn, recv, &mut self.outbox);
    }

    /// One turn of a host; gives back how many bytes it wrote.
    fn turn(&mut self) -> usize {
        self.broker.end_turn(NOW, Lsn(u64::MAX), &mut self.outbox);
        assert!(self.broker.poll_output().is_none());
        let mut written = 0;
        while let Some(conn) = self.outbox.poll_ready() {
            self.broker.fill(NOW, conn, 64 * 1024, &mut self.outbox);
            let queue = self.outbox.queue_mut(conn).unwrap();
            written += queue.len();
            queue.consume(queue.len());
        }
        written
    }
}

fn encoded(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode_into(version, &mut bytes);
    bytes
}

#[test]
fn forwarding_a_small_qos_0_message_allocates_nothing_once_warm() {
    use ProtocolVersion::{V4, V5};
    let mut house = House::new();
    let publisher = house.client(V5);
    for version in [V4, V5, V4, V5] {
        let taker = house.client(version);
        house.subscribe(taker, version, "shed/+/temperature", 0);
        // An overlap, so that copies are merged, and identifiers.
        house.subscribe(taker, version, "shed/#", 7);
    }
    let payload = [b'2'; 100];
    let plain = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "shed/greenhouse/temperature",
        packet_id: None,
        properties: PublishProperties {
            content_type: Some("text/plain"),
            ..PublishProperties::default()
        },
        payload: &payload,
    };
    let aliased = Publish {
        properties: PublishProperties {
            topic_alias: TopicAlias::new(3),
            ..plain.properties
        },
        ..plain
    };
    let mut bytes = encoded(&Packet::Publish(plain), V5);
    bytes.extend(encoded(&Packet::Publish(aliased), V5));
    bytes.extend(encoded(&Packet::Pingreq, V5));
    let mut forward = |rounds: usize| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..rounds {
            house.receive(publisher, &bytes);
            assert!(house.turn() > 8 * payload.len());
        }
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    forward(10);
    assert_eq!(forward(100), 0);
}
