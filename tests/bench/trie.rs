//! Matching a topic against many subscriptions.

use divan::Bencher;
use divan::counter::ItemsCount;
use fieldgate::broker::Taker;
use fieldgate::broker::subscriptions::{Subscription, Subscriptions};
use fieldgate::buffer::Memory;
use fieldgate::id::SessionId;
use fieldgate::mqtt::QoS;
use fieldgate::rng::Rng;
use fieldgate::slab::Key;

fn main() {
    divan::main();
}

fn taker(number: usize) -> Taker {
    Taker::Session(SessionId::from_parts(number as u32, 0))
}

/// A plant: 100 devices with 10 points each, every point watched by a filter of its own, every
/// device by one with `+`, and the whole by one with `#`.
fn plant(extra: usize) -> Subscriptions {
    let mut trie = Subscriptions::new(&Memory::new(usize::MAX), &mut Rng::from_seed(1));
    let subscription = Subscription {
        maximum_qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        identifier: None,
    };
    for device in 0..100 {
        for point in 0..10 {
            let filter = format!("plant/hall-3/device-{device}/point-{point}");
            trie.insert(taker(device * 10 + point), &filter, subscription);
        }
        let filter = format!("plant/+/device-{device}/+");
        trie.insert(taker(2000 + device), &filter, subscription);
    }
    trie.insert(taker(3000), "plant/#", subscription);
    for number in 0..extra {
        let filter = format!("plant/hall-3/device-{}/point-3", 42);
        trie.insert(taker(10_000 + number), &filter, subscription);
    }
    trie
}

/// How many takers beside the three that the plant has.
#[divan::bench(args = [0, 10, 100, 1000])]
fn a_topic_with_so_many_takers_more(bencher: Bencher<'_, '_>, extra: usize) {
    let mut trie = plant(extra);
    let mut found = Vec::new();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        found.clear();
        trie.matches(
            divan::black_box("plant/hall-3/device-42/point-3"),
            &mut found,
        );
        found.len()
    });
}

#[divan::bench]
fn a_topic_that_nobody_watches(bencher: Bencher<'_, '_>) {
    let mut trie = plant(0);
    let mut found = Vec::new();
    bencher.bench_local(|| {
        found.clear();
        trie.matches(
            divan::black_box("office/room-7/lamp-1/brightness"),
            &mut found,
        );
        found.len()
    });
}

#[divan::bench]
fn subscribing_and_unsubscribing(bencher: Bencher<'_, '_>) {
    let mut trie = plant(0);
    let subscription = trie.get(taker(3000), "plant/#").expect("the plant has it");
    bencher.bench_local(|| {
        trie.insert(taker(9999), "plant/hall-4/+/status", subscription);
        trie.remove(taker(9999), "plant/hall-4/+/status")
    });
}
