//! A message body that many takers share without copying it.

use core::fmt;
use core::ops::{Deref, Range};
use std::rc::Rc;

use super::Charge;

/// Counted, immutable bytes; a clone costs an increment. Not atomic and not `Send`: one thread owns
/// all of it.
///
/// Small bodies are one allocation of their own size. A large one that was read straight into place
/// keeps the buffer that it was read into, with the packet's head in front of it.
#[derive(Clone, Default)]
pub struct Payload(Repr);

#[derive(Clone, Default)]
enum Repr {
    #[default]
    Empty,
    Copied(Rc<[u8]>),
    /// Invariant: the range lies within the buffer.
    InPlace(Rc<Buffer>, Range<usize>),
}

struct Buffer {
    bytes: Vec<u8>,
    /// Given back when the last sharer is gone.
    charge: Option<Charge>,
}

impl Payload {
    /// No bytes, no allocation.
    pub const EMPTY: Self = Self(Repr::Empty);

    /// Copies `bytes` into an allocation of their size.
    pub fn copy_from(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            Self::EMPTY
        } else {
            Self(Repr::Copied(bytes.into()))
        }
    }

    /// Takes over a buffer, of which `range` is the body.
    ///
    /// # Panics
    /// If the range does not lie within the buffer.
    pub fn from_vec(buffer: Vec<u8>, range: Range<usize>) -> Self {
        Self::in_place(buffer, range, None)
    }

    /// As [`Payload::from_vec`], with the buffer's charge, which lives as long as the last sharer:
    /// for large bodies, which send queues share also when no message is kept.
    pub fn from_vec_charged(buffer: Vec<u8>, range: Range<usize>, charge: Charge) -> Self {
        Self::in_place(buffer, range, Some(charge))
    }

    fn in_place(bytes: Vec<u8>, range: Range<usize>, charge: Option<Charge>) -> Self {
        assert!(range.start <= range.end, "a range runs forwards");
        assert!(range.end <= bytes.len(), "a body lies within its buffer");
        if range.is_empty() {
            Self::EMPTY
        } else {
            Self(Repr::InPlace(Rc::new(Buffer { bytes, charge }), range))
        }
    }

    /// A part of this body: shared if it was taken over with its buffer, otherwise copied.
    ///
    /// # Panics
    /// If the range does not lie within the body.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end, "a range runs forwards");
        assert!(range.end <= self.len(), "a part lies within its body");
        match &self.0 {
            Repr::InPlace(buffer, whole) if !range.is_empty() => {
                let start = whole.start + range.start;
                Self(Repr::InPlace(buffer.clone(), start..start + range.len()))
            }
            _ => Self::copy_from(&self[range]),
        }
    }

    /// Bytes of memory that this body keeps alive and that are not charged yet: what a message is
    /// charged for it.
    pub fn footprint(&self) -> usize {
        match &self.0 {
            Repr::Empty => 0,
            Repr::Copied(bytes) => bytes.len(),
            Repr::InPlace(buffer, _) if buffer.charge.is_some() => 0,
            Repr::InPlace(buffer, _) => buffer.bytes.capacity(),
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Empty => &[],
            Repr::Copied(bytes) => bytes,
            Repr::InPlace(buffer, range) => &buffer.bytes[range.clone()],
        }
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        Self::copy_from(bytes)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self::from_vec(bytes, range)
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Payload {}

/// The length only: payloads are never logged.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_ways_to_hold_the_same_bytes() {
        let copied = Payload::copy_from(b"21.4");
        let in_place = Payload::from_vec(b"\x30\x0621.4tail".to_vec(), 2..6);
        assert_eq!(copied, in_place);
        assert_eq!(&*in_place, b"21.4");
        assert!(in_place.footprint() >= 10);
        assert_eq!(Payload::from(Vec::new()), Payload::EMPTY);
        assert_eq!(format!("{copied:?}"), "Payload(4 bytes)");
    }

    #[test]
    fn a_part_shares_the_buffer_and_its_charge() {
        let memory = crate::buffer::Memory::new(100);
        let charge = memory.charge(8);
        let whole = Payload::from_vec_charged(b"headbody".to_vec(), 0..8, charge);
        let part = whole.slice(4..8);
        assert_eq!(part.as_ptr(), whole[4..].as_ptr());
        assert_eq!(part.footprint(), 0);
        drop(whole);
        assert_eq!((&*part, memory.used()), (&b"body"[..], 8));
        assert_eq!(part.slice(1..1), Payload::EMPTY);
        drop(part);
        assert_eq!(memory.used(), 0);
        assert_eq!(&*Payload::copy_from(b"copied").slice(0..4), b"copi");
    }

    #[test]
    fn clones_share() {
        let one = Payload::copy_from(b"body");
        let other = one.clone();
        assert_eq!(one.as_ptr(), other.as_ptr());
    }
}
