//! Whatever happens to connections, at any byte: what was given to the bridge arrives.

use std::collections::BTreeMap;

use super::house::*;
use fieldgate::bridge::Phase;
use fieldgate::bridge::settings::{Lanes, Version};
use fieldgate::broker::settings::Settings as BrokerSettings;
use fieldgate::mqtt::ProtocolVersion;
use fieldgate::rng::Rng;
use fieldgate::time::Duration;

struct Journey {
    rig: Rig,
    upstream: Upstream,
    rng: Rng,
    /// Bytes that are on their way, both ways.
    up: Vec<u8>,
    down: Vec<u8>,
    /// Topic, number, RETAIN.
    published: Vec<(String, u32, bool)>,
}

impl Journey {
    fn new(seed: u64, version: ProtocolVersion, qos: QoS, lanes: Lanes) -> Self {
        let mut settings = settings();
        settings.version = Version::Pinned(version);
        settings.send[0].qos = qos;
        settings.send[0].lanes = lanes;
        settings.replay_rate = Some(per_second(200));
        let mut rig = Rig::new(settings);
        rig.version = version;
        Self {
            rig,
            upstream: Upstream::new(BrokerSettings {
                receive_maximum: 5,
                topic_alias_maximum: 2,
                ..BrokerSettings::default()
            }),
            rng: Rng::from_seed(seed),
            up: Vec::new(),
            down: Vec::new(),
            published: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.rng.below(12) {
            0..4 => self.publish(),
            4..10 => self.carry_some(),
            10 => {
                let millis = self.rng.below(1500);
                self.rig.wait(Duration::from_millis(millis));
            }
            _ if self.rng.chance(1, 2) => self.cut(),
            _ => {}
        }
        self.join_if_asked();
    }

    fn publish(&mut self) {
        let topic = format!("shed/{}", self.rng.below(3));
        let number = self.published.len() as u32;
        let retain = self.rng.chance(1, 2);
        self.rig.send(&topic, &number.to_string(), retain);
        self.published.push((topic, number, retain));
    }

    fn join_if_asked(&mut self) {
        if !self.rig.dials.is_empty() {
            self.up.clear();
            self.down.clear();
            self.upstream.closed.clear();
            let conn = self.rig.open();
            self.upstream.accept(self.rig.now, conn);
        }
    }

    /// Some bytes up, and some down.
    fn carry_some(&mut self) {
        let Some(conn) = self.rig.conn else { return };
        self.rig.turn();
        self.up.extend(self.rig.sent.drain(..));
        let count = self.rng.below(self.up.len() as u64 + 1) as usize;
        let bytes: Vec<u8> = self.up.drain(..count).collect();
        self.upstream.feed(self.rig.now, conn, &bytes);
        self.down.extend(self.upstream.take(self.rig.now, conn));
        let count = self.rng.below(self.down.len() as u64 + 1) as usize;
        let bytes: Vec<u8> = self.down.drain(..count).collect();
        self.rig.receive_bytes(&bytes);
        let has_said_goodbye = matches!(self.rig.bridge.phase(), Phase::Closing | Phase::Dialling);
        assert!(
            has_said_goodbye || !self.upstream.closed.contains(&conn),
            "the bridge is a good client"
        );
    }

    fn cut(&mut self) {
        if let Some(conn) = self.rig.conn {
            self.upstream.lose(self.rig.now, conn);
            self.rig.cut(false);
        }
    }

    /// No more faults: everything arrives.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            self.join_if_asked();
            if let Some(conn) = self.rig.conn {
                self.up.extend(self.rig.sent.drain(..));
                let bytes: Vec<u8> = self.up.drain(..).collect();
                self.upstream.feed(self.rig.now, conn, &bytes);
                self.down.extend(self.upstream.take(self.rig.now, conn));
                let bytes: Vec<u8> = self.down.drain(..).collect();
                self.rig.receive_bytes(&bytes);
            }
            if self.rig.status().queue_length == 0 {
                return;
            }
            self.rig.wait(Duration::from_millis(50));
        }
        panic!("it does not end: {:?}", self.rig.status());
    }

    /// The numbers that arrived under each topic, once each, as they came first.
    fn first_arrivals(&self, backlog: Option<bool>) -> BTreeMap<String, Vec<u32>> {
        let mut arrivals: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for arrived in &self.upstream.arrived {
            if backlog.is_some_and(|backlog| backlog != arrived.is_backlog) {
                continue;
            }
            let numbers = arrivals.entry(arrived.topic.clone()).or_default();
            let number = arrived.payload.parse().expect("a number");
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        arrivals
    }

    fn check_all_arrived(&self) {
        let mut arrived: Vec<u32> = self.first_arrivals(None).into_values().flatten().collect();
        arrived.sort_unstable();
        let published: Vec<u32> = self
            .published
            .iter()
            .map(|(_, number, _)| *number)
            .collect();
        assert_eq!(arrived, published, "nothing is missing");
        assert_eq!(self.rig.dead, []);
        // What is retained upstream in the end is the last that was retained here.
        let (mut here, mut there) = (BTreeMap::new(), BTreeMap::new());
        for (topic, number, _) in self.published.iter().filter(|it| it.2) {
            here.insert(topic.clone(), number.to_string());
        }
        for arrived in self.upstream.arrived.iter().filter(|it| it.retain) {
            there.insert(arrived.topic.clone(), arrived.payload.clone());
        }
        assert_eq!(there, here);
    }
}

fn is_sorted(arrivals: &BTreeMap<String, Vec<u32>>) -> bool {
    arrivals.values().all(|numbers| numbers.is_sorted())
}

fn journey(seed: u64, version: ProtocolVersion, qos: QoS, lanes: Lanes) -> Journey {
    println!("seed={seed} version={version} qos={qos:?} lanes={lanes:?}");
    let mut journey = Journey::new(seed, version, qos, lanes);
    for _ in 0..300 {
        journey.step();
    }
    journey.finish();
    journey.check_all_arrived();
    journey
}

const SEEDS: u64 = 40;

#[test]
fn with_cuts_at_any_byte_qos_1_arrives_in_the_order_of_its_lane() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let journey = journey(seed, V5, Q1, Lanes::Two);
        assert!(is_sorted(&journey.first_arrivals(Some(false))), "live");
        assert!(is_sorted(&journey.first_arrivals(Some(true))), "backlog");
        lost += journey.rig.bridge.stats().lost;
    }
    assert!(
        lost > SEEDS,
        "connections were lost while they were up: {lost}"
    );
}

#[test]
fn with_cuts_at_any_byte_one_lane_keeps_the_order_of_each_topic() {
    for seed in 0..SEEDS {
        for version in [V4, V5] {
            let journey = journey(seed, version, Q1, Lanes::One);
            assert!(is_sorted(&journey.first_arrivals(None)), "all of them");
        }
    }
}

#[test]
fn with_cuts_at_any_byte_qos_2_arrives_exactly_once() {
    for seed in 0..SEEDS {
        for version in [V4, V5] {
            let journey = journey(seed, version, Q2, Lanes::Two);
            let count = journey.upstream.arrived.len();
            assert_eq!(count, journey.published.len(), "once");
        }
    }
}
