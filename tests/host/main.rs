//! The host against the real kernel: sockets, unix sockets, ptys and signals, on loopback and in
//! folders of its own.
//!
//! Most tests drive the loop themselves, turn by turn, with non-blocking peers in the same thread:
//! nothing sleeps, and how many turns something took is a number that can be asserted. What needs a
//! process of its own (signals, a limit on descriptors) runs the binary.

mod authority;
mod bench;
mod connections;
mod devices;
mod disk;
mod process;
mod proxies;
mod sockets;
mod tls;
mod websocket;
