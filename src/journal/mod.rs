//! What survives a power cut: one append-only log of everything that was promised.
//!
//! The machine turns what its owners want kept into batches, says when they are synced, gives back
//! after a start what was kept before, and makes room by copying forward what still lives. It does
//! no I/O: [`disk`] is what it asks of a host.

pub mod disk;
