//! The bridge machine, driven with bytes on both sides: against scripts that say what no good peer
//! says, and against the broker machine as an upstream.

mod house;
#[expect(dead_code, reason = "the simulation uses all of it")]
mod upstream;

mod attempts;
mod cuts;
mod lanes;
mod limits;
mod loops;
mod receiving;
mod trouble;
