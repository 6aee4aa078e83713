//! Bytes on their way in and out, and the one account of them.
//!
//! | type | holds | limit, and what happens there |
//! |---|---|---|
//! | [`Memory`] | every counted byte, and the free chunks | [`Memory::try_reserve`] refuses; refusals are counted |
//! | [`Payload`] | a message body that several takers share | its message's charge |
//! | [`RecvBuffer`] | what a peer has sent and nobody has parsed | one chunk, or one announced frame; a stranger's: what it has sent, doubled |
//! | [`SendQueue`] | encoded bytes for one peer | [`HIGH_WATER`]: above it takers keep references |
//! | [`Outbox`] | all send queues, and whose turn it is | one queue a connection |
//!
//! Small things are copied into chunks, large ones are shared ([`COPY_MAX`]); an idle connection
//! holds no chunk at all. There is no unsafe code here: chunks are zeroed once and recycled, so
//! reading into them needs none.

mod memory;
mod outbox;
mod payload;
mod recv;
mod send;

pub use memory::{
    CHUNK_SIZE, Charge, Chunk, FREE_CHUNKS_MAX, FREE_SMALL_CHUNKS_MAX, Memory, SMALL_CHUNK_SIZE,
};
pub use outbox::Outbox;
pub use payload::Payload;
pub use recv::{FIRST_STEP, GROW_STEP, OverBudget, RecvBuffer};
pub use send::{COPY_MAX, HIGH_WATER, SendQueue};
