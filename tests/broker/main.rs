//! The broker as a whole, driven through its public calls by a small host that owns the buffers.
//!
//! Every case runs twice: with draws that are answered at once, and with a host that lets every
//! first draw of a message wait for a fetch, as the journal will.

mod house;
mod keep;
mod ledger;
mod scram;

mod access;
mod aliases;
mod authenticate;
mod connect;
mod features;
mod garbage;
mod identity;
mod kept_wills;
mod limits;
mod model;
mod publish;
mod queues;
mod redirect;
mod retained;
mod rules;
mod sequences;
mod sessions;
mod settle;
mod shared;
mod spilled;
mod subscribe;
mod wills;
