//! The commands as a shell sees them: arguments in, text and exit codes out.
//!
//! Every test runs the real binary. What it needs of the world it brings along: a folder of its
//! own, a broker of its own on a port that the system chose, no configuration of the machine's.
//! Nothing waits for a time to pass: what is waited for is a line, an answer or an end.

mod clients;
mod demo;
mod gateway;
mod help;
mod journal;
mod passwd;
mod queue;
mod support;
