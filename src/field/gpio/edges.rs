//! What can be proven from the edges of one line: which came, and which did not.
//!
//! `line_seqno` counts a line's edges from 1 at the request. A gap means that the kernel's buffer
//! overflowed, and says by how much. Two equal edges in a row, with both edges requested, mean that
//! one between them was lost before the kernel ever counted it. Beyond that nothing can be proven.
//! (`include/uapi/linux/gpio.h`, `struct gpio_v2_line_event`; without version 2 of the interface
//! there are no numbers, and 0 stands for that.)

/// A larger gap is no overflow but another count: the number is not believed, the loss is.
const GAP_MAX: u32 = 1_000_000;

/// The edges of one line.
#[derive(Debug, Clone)]
pub(super) struct EdgeTrack {
    /// Both edges are requested, so they alternate.
    alternates: bool,
    last_seqno: u32,
    last_edge: Option<bool>,
}

/// What an edge is, beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The next one, as far as can be known.
    Next,
    /// The first after some that are lost, at least so many.
    AfterLoss { count: u32, proof: &'static str },
    /// One that was seen already.
    Again,
}

impl EdgeTrack {
    pub(super) const fn new(alternates: bool) -> Self {
        Self {
            alternates,
            last_seqno: 0,
            last_edge: None,
        }
    }

    /// The line has been requested anew, and counts from 1.
    pub(super) fn restart(&mut self) {
        self.last_seqno = 0;
        self.last_edge = None;
    }

    /// An edge has come.
    pub(super) fn see(&mut self, active: bool, seqno: u32) -> Seen {
        // After 2³² edges the count is 0 once, and that is a number too.
        if seqno != 0 || self.last_seqno == u32::MAX {
            let ahead = seqno.wrapping_sub(self.last_seqno);
            if ahead == 0 || ahead > u32::MAX / 2 {
                return Seen::Again;
            }
            self.last_seqno = seqno;
            let missing = ahead - 1;
            if missing > 0 {
                self.last_edge = Some(active);
                return Seen::AfterLoss {
                    count: if missing > GAP_MAX { 1 } else { missing },
                    proof: "a gap in the kernel's count",
                };
            }
        }
        let before = self.last_edge.replace(active);
        if self.alternates && before == Some(active) {
            return Seen::AfterLoss {
                count: 1,
                proof: "a repeated direction",
            };
        }
        Seen::Next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lost(seen: Seen) -> u32 {
        match seen {
            Seen::AfterLoss { count, .. } => count,
            _ => 0,
        }
    }

    #[test]
    fn a_gap_says_how_many_are_missing() {
        let mut track = EdgeTrack::new(true);
        assert_eq!(track.see(true, 1), Seen::Next);
        assert_eq!(track.see(false, 2), Seen::Next);
        assert_eq!(lost(track.see(false, 6)), 3);
        assert_eq!(track.see(true, 7), Seen::Next);
    }

    #[test]
    fn edges_lost_before_the_first_one_count() {
        assert_eq!(lost(EdgeTrack::new(false).see(true, 5)), 4);
    }

    #[test]
    fn two_equal_edges_prove_a_loss_only_if_both_are_wanted() {
        let mut both = EdgeTrack::new(true);
        both.see(true, 1);
        assert_eq!(lost(both.see(true, 2)), 1);
        let mut rising = EdgeTrack::new(false);
        rising.see(true, 1);
        assert_eq!(rising.see(true, 2), Seen::Next);
    }

    #[test]
    fn an_edge_that_comes_twice_is_one_edge() {
        let mut track = EdgeTrack::new(true);
        track.see(true, 1);
        assert_eq!(track.see(true, 1), Seen::Again);
        assert_eq!(track.see(false, 2), Seen::Next);
        assert_eq!(track.see(true, 1), Seen::Again);
    }

    #[test]
    fn the_count_may_wrap_or_be_absent() {
        let mut track = EdgeTrack::new(false);
        track.last_seqno = u32::MAX - 1;
        for seqno in [u32::MAX, 0, 1] {
            assert_eq!(track.see(true, seqno), Seen::Next);
        }
        let mut unnumbered = EdgeTrack::new(true);
        assert_eq!(unnumbered.see(true, 0), Seen::Next);
        assert_eq!(unnumbered.see(false, 0), Seen::Next);
        assert_eq!(lost(unnumbered.see(false, 0)), 1);
    }

    proptest! {
        #[test]
        fn what_came_and_what_is_missing_make_the_whole(
            delivered in proptest::collection::vec(any::<bool>(), 1..200)
        ) {
            let mut track = EdgeTrack::new(true);
            let (mut came, mut missing) = (0, 0);
            for (index, arrives) in delivered.iter().enumerate() {
                if *arrives {
                    came += 1;
                    missing += lost(track.see(index % 2 == 0, index as u32 + 1));
                }
            }
            let last = delivered.iter().rposition(|arrives| *arrives);
            prop_assert_eq!(came + missing, last.map_or(0, |last| last as u32 + 1));
        }
    }
}
