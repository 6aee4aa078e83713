//! The second host: a whole gateway, seven clients, a chip, a relay, a door, a scale and a network
//! that cuts, all from one seed.
//!
//! Nothing here reads a clock or draws chance elsewhere, so a seed is a run: `SIM_SEED=4711 cargo
//! test --test simulation` replays it. `SIM_SEEDS=500` says how many seeds a run tries. Two judges
//! look at each:
//!
//! * The model (`model.rs`) stands on the wire, knows what each session has to get, and holds every
//!   packet against that while the run goes on.
//! * The oracle (`oracle.rs`) asks the clients at the end. QoS 1: acknowledged is delivered, at least
//!   once; QoS 2: exactly once; QoS 0: at most once; each in order per topic. Every command has one
//!   result, the gateway says what its hardware is, the relay is where the last command put it, and
//!   after a stop where it is safe. Clients that are gone leave no session, no message and no byte.
//!
//! The third judge has a world of its own, in which the power goes (`power.rs`), and the fourth one
//! in which bridges carry everything up besides (`uplink.rs`).
//!
//! A run with the same seed is the same run, to the last byte. `tests/mutants` shows that the judges
//! see; that the third one does, `tests/mutants/power`.

mod client;
mod devices;
mod disk;
mod guests;
mod ledger;
mod model;
mod oracle;
mod peer;
mod people;
mod plan;
mod plant;
#[path = "../journal/disk.rs"]
mod platter;
mod power;
mod setting;
mod site;
mod uplink;
#[path = "../bridge/upstream.rs"]
mod upstream;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use setting::Setting;
use world::World;

/// Enough for `cargo test`; `tests/run` asks for more.
const SEEDS_BY_DEFAULT: u64 = 40;

/// Seeds of bridges on which something was lost that others do not lose.
const FOUND_SOMETHING: [u64; 1] = [155];

/// Of the older simulation: one in which a message outlived its first copy.
const FOUND_IN_WORLD: [u64; 1] = [1994];

/// Of power cuts: a full journal that nobody could empty.
const FOUND_IN_POWER: [&str; 2] = ["157,size=256", "166,size=256"];

/// Enough to look at; a run that hangs takes its time.
const FAILURES_MAX: usize = 3;

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
    for seed in (first..first + seeds).chain(FOUND_IN_WORLD) {
        if let Ok(report) = catch_unwind(AssertUnwindSafe(|| World::new(seed).run())) {
            total.add(&report);
        } else {
            eprintln!("replay with: SIM_SEED={seed} cargo test --test simulation");
            failed.push(seed);
            if failed.len() == FAILURES_MAX {
                break;
            }
        }
    }
    println!("{seeds} seeds: {total:?}");
    assert!(failed.is_empty(), "seeds that broke a promise: {failed:?}");
    // A simulation in which nothing goes wrong proves nothing.
    let faults = [
        total.cuts,
        total.bus_faults,
        total.line_faults,
        total.port_faults,
        total.commands,
    ];
    assert!(seeds < 20 || !faults.contains(&0), "a fault that never was");
    assert!(
        seeds < 20 || total.counts.has_all(),
        "something never happened"
    );
}

#[test]
fn what_was_acknowledged_survives_the_power() {
    if let Ok(text) = std::env::var("SIM_POWER") {
        let setting = Setting::parse(&text)
            .unwrap_or_else(|| panic!("SIM_POWER is a seed and settings, not {text:?}"));
        if std::env::var_os("SIM_SHRINK").is_some() {
            return shrink(setting);
        }
        let _ = env_logger::try_init();
        println!("seed {setting}: {:?}", power::World::new(setting).run());
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS_BY_DEFAULT);
    let first = number("SIM_FIRST").unwrap_or(1);
    let failures_max = number("SIM_FAILURES").map_or(FAILURES_MAX, |most| most as usize);
    let mut failed = Vec::new();
    let mut total = power::Report::default();
    let found = FOUND_IN_POWER.map(|text| Setting::parse(text).expect("a setting"));
    for setting in (first..first + seeds).map(Setting::new).chain(found) {
        if let Some(report) = try_power(setting) {
            total.add(&report);
        } else {
            eprintln!("replay with: SIM_POWER={setting} cargo test --test simulation power");
            failed.push(setting.to_string());
            if failed.len() == failures_max {
                break;
            }
        }
    }
    println!("{seeds} seeds: {total:?}");
    assert!(failed.is_empty(), "seeds that lost something: {failed:?}");
    assert!(seeds < 20 || total.has_all(), "something never happened");
}

fn try_power(setting: Setting) -> Option<power::Report> {
    catch_unwind(AssertUnwindSafe(|| power::World::new(setting).run())).ok()
}

/// Looks for less that still fails, and says how to replay the least.
fn shrink(mut setting: Setting) {
    assert!(try_power(setting).is_none(), "{setting} does not fail");
    while let Some(smaller) = setting
        .smaller()
        .into_iter()
        .find(|smaller| try_power(*smaller).is_none())
    {
        setting = smaller;
    }
    panic!("replay with: SIM_POWER={setting} cargo test --test simulation power");
}

#[test]
fn settings_are_read_as_they_are_written() {
    let usual = Setting::new(4711);
    assert_eq!(usual.to_string(), "4711");
    for setting in usual.smaller() {
        assert_eq!(Setting::parse(&setting.to_string()), Some(setting));
        assert_ne!(setting, usual);
    }
    for wrong in ["", "x", "1,", "1,messages", "1,messages=x", "1,nothing=1"] {
        assert_eq!(Setting::parse(wrong), None, "{wrong:?}");
    }
}

#[test]
fn what_was_acknowledged_arrives_upstream() {
    if let Some(seed) = number("SIM_UPLINK") {
        let _ = env_logger::try_init();
        println!("seed {seed}: {:?}", uplink::World::new(seed).run());
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS_BY_DEFAULT);
    let first = number("SIM_FIRST").unwrap_or(1);
    let failures_max = number("SIM_FAILURES").map_or(FAILURES_MAX, |most| most as usize);
    let mut failed = Vec::new();
    let mut total = uplink::Report::default();
    for seed in (first..first + seeds).chain(FOUND_SOMETHING) {
        if let Ok(report) = catch_unwind(AssertUnwindSafe(|| uplink::World::new(seed).run())) {
            total.add(&report);
        } else {
            eprintln!("replay with: SIM_UPLINK={seed} cargo test --test simulation upstream");
            failed.push(seed);
            if failed.len() == failures_max {
                break;
            }
        }
    }
    println!("{seeds} seeds: {total:?}");
    assert!(failed.is_empty(), "seeds that lost something: {failed:?}");
    assert!(seeds < 40 || total.has_all(), "something never happened");
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
