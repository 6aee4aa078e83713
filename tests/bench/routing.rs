//! A PUBLISH from a publisher's receive buffer to its takers' send queues.

use divan::Bencher;
use divan::counter::ItemsCount;
use fieldgate::broker::settings::{
    AccessSettings, Effect, Order, Pattern, Rule, Rules, Settings, Who,
};
use fieldgate::broker::{Admission, Broker};
use fieldgate::buffer::{Memory, Outbox, RecvBuffer};
use fieldgate::id::{ConnId, Lsn};
use fieldgate::mqtt::{
    Ack, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, PublishProperties,
    QoS, Subscribe, SubscribeProperties, SubscriptionOptions, SubscriptionRequest,
    SubscriptionRequests, TopicFilter,
};
use fieldgate::rng::Rng;
use fieldgate::slab::Key;
use fieldgate::time::{Instant, Now, WallTime};

fn main() {
    divan::main();
}

const NOW: Now = Now {
    monotonic: Instant::from_nanos(1_000_000_000),
    wall: WallTime::EARLIEST_PLAUSIBLE,
};
const VERSION: ProtocolVersion = ProtocolVersion::V4;

/// A broker with one publisher, connection 0, and takers behind it.
struct House {
    broker: Broker,
    outbox: Outbox,
    recv: Vec<RecvBuffer>,
}

impl House {
    fn new(takers: u32, qos: QoS) -> Self {
        Self::with(Settings::default(), takers, qos)
    }

    fn with(settings: Settings, takers: u32, qos: QoS) -> Self {
        let memory = Memory::new(usize::MAX);
        let mut house = Self {
            broker: Broker::new(settings, &memory, &mut Rng::from_seed(1)),
            outbox: Outbox::new(&memory),
            recv: Vec::new(),
        };
        for slot in 0..=takers {
            let conn = ConnId::from_parts(slot, 0);
            house.recv.push(RecvBuffer::new(&memory));
            house.outbox.open(conn);
            let admission = Admission {
                allow_anonymous: true,
                excess: 0,
                address: None,
                is_exempt: false,
                is_costly: false,
            };
            house
                .broker
                .handle_accepted(NOW, conn, admission, &mut house.outbox);
            house.receive(
                slot,
                &encoded(&Packet::Connect(Connect {
                    version: VERSION,
                    clean_start: true,
                    keep_alive: 60,
                    client_id: &slot.to_string(),
                    will: None,
                    username: None,
                    password: None,
                    properties: ConnectProperties::default(),
                })),
            );
            if slot > 0 {
                let requests = [SubscriptionRequest {
                    filter: TopicFilter::new("plant/+/temperature").expect("a filter"),
                    options: SubscriptionOptions::new(qos),
                }];
                let subscribe = Packet::Subscribe(Subscribe {
                    packet_id: PacketId::FIRST,
                    properties: SubscribeProperties::default(),
                    requests: SubscriptionRequests::from_slice(&requests),
                });
                house.receive(slot, &encoded(&subscribe));
            }
        }
        house.turn();
        house
    }

    fn receive(&mut self, slot: u32, bytes: &[u8]) {
        let recv = &mut self.recv[slot as usize];
        recv.spare()[..bytes.len()].copy_from_slice(bytes);
        recv.commit(bytes.len());
        let conn = ConnId::from_parts(slot, 0);
        self.broker
            .handle_received(NOW, conn, recv, &mut self.outbox);
    }

    fn turn(&mut self) -> usize {
        self.broker.end_turn(NOW, Lsn(u64::MAX), &mut self.outbox);
        let mut written = 0;
        while let Some(conn) = self.outbox.poll_ready() {
            self.broker.fill(NOW, conn, 64 * 1024, &mut self.outbox);
            let queue = self.outbox.queue_mut(conn).expect("an open connection");
            written += queue.len();
            queue.consume(queue.len());
        }
        written
    }
}

fn encoded(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode_into(VERSION, &mut bytes);
    bytes
}

fn publish(qos: QoS) -> Vec<u8> {
    encoded(&Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: "plant/greenhouse/temperature",
        packet_id: (qos > QoS::AtMostOnce).then_some(PacketId::FIRST),
        properties: PublishProperties::default(),
        payload: &[b'2'; 64],
    }))
}

/// The time is for one publication to all of its takers; 20 of them are parsed from one read.
#[divan::bench(args = [1, 10, 100])]
fn fan_out_at_qos_0(bencher: Bencher<'_, '_>, takers: u32) {
    let mut house = House::new(takers, QoS::AtMostOnce);
    let bytes = publish(QoS::AtMostOnce).repeat(20);
    bencher
        .counter(ItemsCount::new(20 * takers as usize))
        .bench_local(|| {
            house.receive(0, &bytes);
            house.turn()
        });
}

fn publish_to(topic: &str) -> Vec<u8> {
    encoded(&Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic,
        packet_id: None,
        properties: PublishProperties::default(),
        payload: &[b'2'; 64],
    }))
}

/// One publication after the other to as many topics in turn: to one, the route is known; of so
/// many, it never is.
fn in_turn(bencher: Bencher<'_, '_>, mut house: House, topics: usize) {
    let publications: Vec<_> = (0..topics)
        .map(|number| publish_to(&format!("plant/{number}/temperature")))
        .collect();
    let mut next = 0;
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        house.receive(0, &publications[next]);
        next = (next + 1) % publications.len();
        house.turn()
    });
}

/// The time is for one publication to four takers by a wildcard.
#[divan::bench(args = [1, 50_000])]
fn topics_in_turn(bencher: Bencher<'_, '_>, topics: usize) {
    in_turn(bencher, House::new(4, QoS::AtMostOnce), topics);
}

/// The same where 1000 rules speak of everybody, of which the last allows it: for the publisher and
/// for each of the four takers.
#[divan::bench(args = [1, 50_000])]
fn topics_in_turn_with_1000_rules(bencher: Bencher<'_, '_>, topics: usize) {
    let rule = |filter: &str| Rule {
        who: Who::Everybody,
        effect: Effect::Allow,
        publish: true,
        subscribe: true,
        filter: Pattern::new(filter).expect("a filter"),
        own: false,
    };
    let others = (1..1000).map(|number| rule(&format!("plant/+/point-{number}/#")));
    let rules = Rules {
        list: others.chain([rule("plant/#")]).collect(),
        order: Order::FirstMatch,
        default: Effect::Deny,
    };
    let settings = Settings {
        access: AccessSettings {
            rules: Some(rules),
            ..AccessSettings::default()
        },
        ..Settings::default()
    };
    in_turn(bencher, House::with(settings, 4, QoS::AtMostOnce), topics);
}

/// The whole way: PUBLISH, PUBACK, PUBLISH to each taker, and each taker's PUBACK.
#[divan::bench(args = [1, 10, 100])]
fn fan_out_at_qos_1(bencher: Bencher<'_, '_>, takers: u32) {
    let mut house = House::new(takers, QoS::AtLeastOnce);
    let bytes = publish(QoS::AtLeastOnce);
    let mut packet_id = PacketId::FIRST;
    bencher
        .counter(ItemsCount::new(takers as usize))
        .bench_local(|| {
            house.receive(0, &bytes);
            let written = house.turn();
            let puback = encoded(&Packet::Puback(Ack::success(packet_id)));
            for slot in 1..=takers {
                house.receive(slot, &puback);
            }
            packet_id = packet_id.next();
            written
        });
}
