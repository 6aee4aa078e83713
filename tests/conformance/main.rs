//! Every normative statement of MQTT 5.0 and 3.1.1, and what proves that it is met.
//!
//! `mqtt5.toml` and `mqtt311.toml` are the manifest: one entry for each clause, with the tests that
//! prove it, or that it binds the client only, or what we chose and why. A clause of 5.0 is cited
//! bare, `[MQTT-3.1.2-3]`, one of 3.1.1 with its version, `[MQTT-3.1.2-3/3.1.1]`, because the
//! numbers differ.
//!
//! | file | holds |
//! |---|---|
//! | `manifest` | the test of the manifest itself |
//! | `data` | sections 1.5 and 2: strings, numbers, fixed header, packet identifiers |
//! | `connect` | 3.1 and 3.2 |
//! | `publish` | 3.3 to 3.7, 4.9 |
//! | `subscribe` | 3.8 to 3.11 |
//! | `ending` | 3.12 to 3.15, 4.12, 4.13 |
//! | `delivery` | 4.1 to 4.6 |
//! | `topics` | 4.7 and 4.8 |
//! | `wire` | a part of it again, on the machine and over a real socket with the same script |
//!
//! The tests send bytes to the broker's machine, in both versions; what other tests prove already
//! is not proven again here. Above each test stand the clauses that it is for, and the manifest
//! names it for exactly those.

#[expect(
    dead_code,
    reason = "the broker's own tests use all of it, these only a part"
)]
#[path = "../broker/house.rs"]
mod house;
#[expect(
    dead_code,
    reason = "the broker's own tests use all of it, these only a part"
)]
#[path = "../broker/ledger.rs"]
mod ledger;

#[expect(
    dead_code,
    reason = "the host's own tests use all of it, these only a part"
)]
#[path = "../host/bench.rs"]
mod bench;
#[path = "../broker/scram.rs"]
mod scram;

mod connect;
mod data;
mod delivery;
mod ending;
mod manifest;
mod publish;
mod subscribe;
mod support;
mod topics;
mod wire;
