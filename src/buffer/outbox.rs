//! All send queues, and which of them have something to say this turn.

use std::collections::VecDeque;

use super::{Memory, SendQueue};
use crate::id::ConnId;
use crate::slab::IdTable;

/// The send queue of every connection. Machines write into it, the host drains it.
#[derive(Debug)]
pub struct Outbox {
    memory: Memory,
    queues: IdTable<ConnId, Entry>,
    /// Connections to be offered to the host, each at most once; stale ones are passed over.
    ready: VecDeque<ConnId>,
    /// Connections whose queue has passed [`PRESSED`], each at most once.
    pressed: Vec<ConnId>,
    /// Bytes sent on connections that have closed.
    sent_before: u64,
}

/// Unsent bytes from which a host does well to send before the turn ends: a turn in which many
/// speak to one would bring that one to [`HIGH_WATER`](super::HIGH_WATER) otherwise, though its
/// socket has room.
const PRESSED: usize = super::HIGH_WATER / 2;

#[derive(Debug)]
struct Entry {
    queue: SendQueue,
    /// Invariant: true exactly while the connection is in `pressed`.
    is_pressed: bool,
    /// Invariant: true exactly while the connection is in `ready`.
    is_ready: bool,
}

impl Outbox {
    /// No connections.
    pub fn new(memory: &Memory) -> Self {
        Self {
            memory: memory.clone(),
            queues: IdTable::new(),
            ready: VecDeque::new(),
            pressed: Vec::new(),
            sent_before: 0,
        }
    }

    /// Makes a queue for a connection that has opened.
    pub fn open(&mut self, conn: ConnId) {
        let entry = Entry {
            queue: SendQueue::new(&self.memory),
            is_pressed: false,
            is_ready: false,
        };
        let before = self.queues.insert(conn, entry);
        debug_assert!(
            before.is_none(),
            "a slot is reused only after its connection has closed"
        );
    }

    /// Drops the queue of a connection that has closed, and what was in it.
    pub fn close(&mut self, conn: ConnId) {
        if let Some(entry) = self.queues.remove(conn) {
            self.sent_before += entry.queue.sent();
        }
    }

    /// The queue, to append to; the connection is offered to the host this turn. `None`: it is
    /// gone.
    pub fn write(&mut self, conn: ConnId) -> Option<&mut SendQueue> {
        let entry = self.queues.get_mut(conn)?;
        if !entry.is_ready {
            entry.is_ready = true;
            self.ready.push_back(conn);
        }
        if entry.queue.len() >= PRESSED && !entry.is_pressed {
            entry.is_pressed = true;
            self.pressed.push(conn);
        }
        Some(&mut entry.queue)
    }

    /// Offers the connection to the host this turn: whoever fills its queue has something new.
    pub fn wake(&mut self, conn: ConnId) {
        if let Some(entry) = self.queues.get_mut(conn)
            && !entry.is_ready
        {
            entry.is_ready = true;
            self.ready.push_back(conn);
        }
    }

    /// The next connection with something to send; each once until it is woken again.
    pub fn poll_ready(&mut self) -> Option<ConnId> {
        while let Some(conn) = self.ready.pop_front() {
            if let Some(entry) = self.queues.get_mut(conn) {
                entry.is_ready = false;
                return Some(conn);
            }
        }
        None
    }

    /// A connection with so much to send that it should be sent now, if its socket takes it.
    pub fn poll_pressed(&mut self) -> Option<ConnId> {
        while let Some(conn) = self.pressed.pop() {
            if let Some(entry) = self.queues.get_mut(conn) {
                entry.is_pressed = false;
                return Some(conn);
            }
        }
        None
    }

    /// The queue, without offering it to the host.
    pub fn queue_mut(&mut self, conn: ConnId) -> Option<&mut SendQueue> {
        self.queues.get_mut(conn).map(|entry| &mut entry.queue)
    }

    /// The queue.
    pub fn queue(&self, conn: ConnId) -> Option<&SendQueue> {
        self.queues.get(conn).map(|entry| &entry.queue)
    }

    /// Bytes sent on all connections since the start.
    pub fn sent(&self) -> u64 {
        let open = self.queues.iter().map(|(_, entry)| entry.queue.sent());
        self.sent_before + open.sum::<u64>()
    }

    /// Unsent bytes of all connections.
    pub fn bytes(&self) -> usize {
        self.queues.iter().map(|(_, entry)| entry.queue.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Key;

    #[test]
    fn offers_each_connection_once_a_turn_and_gone_ones_never() {
        let mut outbox = Outbox::new(&Memory::new(usize::MAX));
        let [a, b, gone] = [0, 1, 2].map(|slot| ConnId::from_parts(slot, 0));
        for conn in [a, b, gone] {
            outbox.open(conn);
        }
        for conn in [b, a, b, gone] {
            outbox.write(conn).expect("open").reserve(1).fill(0);
        }
        outbox.close(gone);
        assert!(outbox.write(gone).is_none());
        assert_eq!(
            [
                outbox.poll_ready(),
                outbox.poll_ready(),
                outbox.poll_ready()
            ],
            [Some(b), Some(a), None]
        );
        outbox.wake(a);
        assert_eq!(outbox.poll_ready(), Some(a));
        assert_eq!(outbox.bytes(), 3);
        assert_eq!(outbox.poll_pressed(), None, "so little presses nobody");
        outbox.write(a).expect("open").reserve(PRESSED).fill(0);
        for _ in 0..3 {
            outbox.write(a).expect("open");
        }
        assert_eq!(
            [outbox.poll_pressed(), outbox.poll_pressed()],
            [Some(a), None]
        );
        outbox.queue_mut(a).expect("open").consume(1 + PRESSED);
        outbox.queue_mut(b).expect("open").consume(1);
        outbox.close(b);
        assert_eq!((outbox.bytes(), outbox.sent()), (0, 2 + PRESSED as u64));
    }
}
