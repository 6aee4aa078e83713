//! The second host: a whole gateway, two clients, a chip, a relay and a network that cuts, all from
//! one seed.
//!
//! Nothing here reads a clock or draws chance elsewhere, so a seed is a run: `SIM_SEED=4711 cargo
//! test --test simulation` replays it. `SIM_SEEDS=500` says how many seeds a run tries. Each seed
//! ends with an oracle that knows only what was acknowledged and what arrived:
//!
//! * QoS 1: acknowledged is delivered, at least once; QoS 2: exactly once; QoS 0: at most once;
//!   each in order per topic.
//! * The retained value of a point is what its chip says once faults stop, and its quality is good
//!   again.
//! * The relay is where the last acknowledged command put it, and every command got its result.
//! * Memory returns when the clients are gone, and a run with the same seed is the same run.

mod client;
mod devices;
mod oracle;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// Enough for `cargo test`; `tests/run` asks for more.
const SEEDS_BY_DEFAULT: u64 = 40;

#[test]
fn every_seed_keeps_what_was_promised() {
    if let Some(seed) = number("SIM_SEED") {
        let report = World::new(seed).run();
        println!("seed {seed}: {report:?}");
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS_BY_DEFAULT);
    let first = number("SIM_FIRST").unwrap_or(1);
    let mut failed = Vec::new();
    let mut total = world::Report::default();
    for seed in first..first + seeds {
        if let Ok(report) = catch_unwind(AssertUnwindSafe(|| World::new(seed).run())) {
            total.add(&report);
        } else {
            eprintln!("replay with: SIM_SEED={seed} cargo test --test simulation");
            failed.push(seed);
        }
    }
    println!("{seeds} seeds: {total:?}");
    assert!(failed.is_empty(), "seeds that broke a promise: {failed:?}");
    // A simulation in which nothing goes wrong proves nothing.
    assert!(total.cuts > 0, "no connection was ever cut");
    assert!(total.bus_faults > 0, "no transfer ever failed");
    assert!(total.redelivered > 0, "nothing was ever sent again");
    assert!(total.commands > 0, "no command was ever given");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 2, 3] {
        let (one, other) = (World::new(seed).run(), World::new(seed).run());
        assert_eq!(one, other, "seed {seed}");
    }
    assert_ne!(
        World::new(1).run().trace,
        World::new(2).run().trace,
        "the trace sees nothing"
    );
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
    )
}
