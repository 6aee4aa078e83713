//! Deadlines of many connections: what a packet, and what a timer that fires, costs.
//!
//! `cargo bench --bench timers`. Touching a keep-alive only writes a number; the heap's entry moves
//! when it fires.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use fieldgate::deadlines::{Deadlines, ExactDeadlines};
use fieldgate::rng::Rng;
use fieldgate::time::{Duration, Instant};

const COUNTS: [u64; 3] = [100, 10_000, 100_000];

/// One and a half times the usual keep-alive.
const PATIENCE: Duration = Duration::from_secs(90);

fn main() {
    divan::main();
}

/// So many connections that were heard at times of their own.
fn heard(count: u64) -> Vec<Instant> {
    let mut rng = Rng::from_seed(1);
    let minute = 60_000_000_000;
    (0..count)
        .map(|_| Instant::from_nanos(rng.below(minute)))
        .collect()
}

/// The next timer fires, and turns out to have been touched since: it is armed again.
#[divan::bench(args = COUNTS)]
fn fire_and_rearm(bencher: Bencher<'_, '_>, count: u64) {
    let mut deadlines = Deadlines::new();
    for (key, at) in heard(count).into_iter().enumerate() {
        deadlines.arm(at + PATIENCE, key);
    }
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let now = deadlines.next().expect("they are armed again");
        let key = deadlines.pop_due(now).expect("it is due");
        deadlines.arm(now + PATIENCE, black_box(key));
    });
}

/// The same where every entry is exact, as few timers are: moved at each touch.
#[divan::bench(args = COUNTS)]
fn move_an_exact_one(bencher: Bencher<'_, '_>, count: u64) {
    let mut deadlines = ExactDeadlines::default();
    for (key, at) in heard(count).into_iter().enumerate() {
        deadlines.arm(key as u64, at + PATIENCE);
    }
    let mut rng = Rng::from_seed(2);
    let mut now = Instant::from_nanos(60_000_000_000);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        now = now + Duration::from_micros(1);
        deadlines.arm(rng.below(count), now + PATIENCE);
    });
}
