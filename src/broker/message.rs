//! The messages that somebody keeps, each once, counted by those who refer to it.
//!
//! A message is here because it waits in a queue, is unacknowledged, or is retained. The last
//! reference that is released frees it, and gives its bytes back to the budget. This is the
//! journal's place: a draw answers [`Draw::Ready`], or [`Draw::Pending`] while the bytes are
//! fetched.

use crate::buffer::{Charge, Memory};
use crate::id::{MessageId, SessionId};
use crate::mqtt::ApplicationMessage;
use crate::slab::GenSlab;
use crate::time::{Instant, Now};

use super::queue::REFERENCE_BYTES;
use super::taker::Origin;

/// All kept messages.
#[derive(Debug)]
pub(super) struct Messages {
    slab: GenSlab<MessageId, Stored>,
    memory: Memory,
    /// Every first draw of a message is answered `Pending`.
    pub(super) fetch_every_draw: bool,
}

/// A kept message.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) message: ApplicationMessage,
    /// Who published it: a retained message does not come back to a client that asked for no-local.
    pub(super) origin: Origin,
    /// Invariant: at least one, except while the message is being routed.
    references: u32,
    residency: Residency,
    _charge: Charge,
}

#[derive(Debug)]
enum Residency {
    /// In memory.
    Resident,
    /// To be fetched by whoever draws it first.
    Away,
    /// Asked for; these sessions wait.
    Fetching(Vec<SessionId>),
    /// In memory, and not to be seen before it is synced; these sessions wait.
    Held(Vec<SessionId>),
}

/// What asking for a message brings.
#[derive(Debug)]
pub(super) enum Draw<T> {
    /// Here it is.
    Ready(T),
    /// It is being fetched; whoever asked is woken when it is there. With the message's name if it
    /// has to be asked for.
    Pending(Option<MessageId>),
}

impl Messages {
    pub(super) fn new(memory: &Memory) -> Self {
        Self {
            slab: GenSlab::new(),
            memory: memory.clone(),
            fetch_every_draw: false,
        }
    }

    /// Keeps a message with one reference, the caller's. `None` if the memory budget has no room.
    pub(super) fn insert(
        &mut self,
        message: ApplicationMessage,
        origin: Origin,
    ) -> Option<MessageId> {
        let charge = self
            .memory
            .try_reserve(message.footprint() + size_of::<Stored>())?;
        Some(self.store(message, origin, charge))
    }

    /// The same for one that is kept elsewhere too and has to be here now, whatever the budget.
    pub(super) fn restore(&mut self, message: ApplicationMessage, origin: Origin) -> MessageId {
        let charge = self
            .memory
            .charge(message.footprint() + size_of::<Stored>());
        self.store(message, origin, charge)
    }

    fn store(&mut self, message: ApplicationMessage, origin: Origin, charge: Charge) -> MessageId {
        self.slab.insert(Stored {
            message,
            origin,
            references: 1,
            residency: if self.fetch_every_draw {
                Residency::Away
            } else {
                Residency::Resident
            },
            _charge: charge,
        })
    }

    /// One reference more.
    pub(super) fn retain(&mut self, id: MessageId) {
        self.stored_mut(id).references += 1;
    }

    /// One reference less; the last one frees the message.
    pub(super) fn release(&mut self, id: MessageId) {
        let stored = self.stored_mut(id);
        stored.references -= 1;
        if stored.references == 0 {
            self.slab.remove(id);
        }
    }

    /// Whether somebody refers to it still.
    pub(super) fn contains(&self, id: MessageId) -> bool {
        self.slab.contains(id)
    }

    /// A message that somebody refers to.
    pub(super) fn get(&self, id: MessageId) -> &Stored {
        self.slab
            .get(id)
            .expect("a message lives as long as somebody refers to it")
    }

    /// A message's bytes, or the wait for them, in which `session` joins.
    pub(super) fn draw(&mut self, id: MessageId, session: SessionId) -> Draw<&Stored> {
        let stored = self.stored_mut(id);
        match &mut stored.residency {
            Residency::Resident => Draw::Ready(self.get(id)),
            Residency::Away => {
                stored.residency = Residency::Fetching(vec![session]);
                Draw::Pending(Some(id))
            }
            Residency::Fetching(waiting) | Residency::Held(waiting) => {
                if !waiting.contains(&session) {
                    waiting.push(session);
                }
                Draw::Pending(None)
            }
        }
    }

    /// Nobody draws it before [`Messages::free`]. It was kept just now.
    pub(super) fn hold(&mut self, id: MessageId) {
        self.stored_mut(id).residency = Residency::Held(Vec::new());
    }

    /// It may be drawn; gives back who waits for it. A message that is gone has nobody.
    pub(super) fn free(&mut self, id: MessageId) -> Vec<SessionId> {
        self.make_resident(id, |residency| matches!(residency, Residency::Held(_)))
    }

    /// The message's bytes are here; gives back who waits for them. A message that is gone has
    /// nobody.
    pub(super) fn fetched(&mut self, id: MessageId) -> Vec<SessionId> {
        self.make_resident(id, |residency| matches!(residency, Residency::Fetching(_)))
    }

    fn make_resident(
        &mut self,
        id: MessageId,
        is_waited_for: impl Fn(&Residency) -> bool,
    ) -> Vec<SessionId> {
        let stored = self.slab.get_mut(id);
        let Some(stored) = stored.filter(|stored| is_waited_for(&stored.residency)) else {
            return Vec::new();
        };
        match core::mem::replace(&mut stored.residency, Residency::Resident) {
            Residency::Fetching(waiting) | Residency::Held(waiting) => waiting,
            Residency::Resident | Residency::Away => Vec::new(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Every message with its count of references: for `check_invariants`.
    #[cfg(debug_assertions)]
    pub(super) fn references(&self) -> impl Iterator<Item = (MessageId, u32)> {
        self.slab.iter().map(|(id, stored)| (id, stored.references))
    }

    fn stored_mut(&mut self, id: MessageId) -> &mut Stored {
        self.slab
            .get_mut(id)
            .expect("a message lives as long as somebody refers to it")
    }
}

impl Stored {
    /// Whether its time has passed [MQTT-3.3.2-5].
    pub(super) fn is_expired(&self, now: Now) -> bool {
        self.message.is_expired(now.monotonic)
    }

    /// When that is; [`Instant::FAR_FUTURE`] if never.
    pub(super) fn expires_at(&self) -> Instant {
        self.message.expires_at().unwrap_or(Instant::FAR_FUTURE)
    }

    /// Bytes that it counts against the queues it waits in and the retained store.
    pub(super) fn cost(&self) -> usize {
        cost(self.message.topic(), self.message.payload())
    }
}

/// What a message counts, kept or still to be kept: its words, and a flat rate for everything
/// around them.
pub(super) fn cost(topic: &str, payload: &[u8]) -> usize {
    topic.len() + payload.len() + size_of::<Stored>() + REFERENCE_BYTES
}
