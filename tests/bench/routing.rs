//! A PUBLISH from a publisher's receive buffer to its takers' send queues.

use divan::Bencher;
use divan::counter::ItemsCount;
use fieldgate::broker::settings::Settings;
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
        let memory = Memory::new(usize::MAX);
        let mut house = Self {
            broker: Broker::new(Settings::default(), &memory, &mut Rng::from_seed(1)),
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
