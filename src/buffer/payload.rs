//! A message body that many takers share without copying it.

use core::fmt;
use core::ops::{Deref, Range};
use std::rc::Rc;

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
    /// Invariant: the range lies within the vector.
    InPlace(Rc<Vec<u8>>, Range<usize>),
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
        assert!(range.start <= range.end, "a range runs forwards");
        assert!(range.end <= buffer.len(), "a body lies within its buffer");
        if range.is_empty() {
            Self::EMPTY
        } else {
            Self(Repr::InPlace(Rc::new(buffer), range))
        }
    }

    /// Bytes of memory that this body keeps alive: what a message is charged for it.
    pub fn footprint(&self) -> usize {
        match &self.0 {
            Repr::Empty => 0,
            Repr::Copied(bytes) => bytes.len(),
            Repr::InPlace(buffer, _) => buffer.capacity(),
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Empty => &[],
            Repr::Copied(bytes) => bytes,
            Repr::InPlace(buffer, range) => &buffer[range.clone()],
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
    fn clones_share() {
        let one = Payload::copy_from(b"body");
        let other = one.clone();
        assert_eq!(one.as_ptr(), other.as_ptr());
    }
}
