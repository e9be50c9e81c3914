//! [`CarryOver`]: what a turn learned that the next one could not find out in time.

use consensus::LostTerm;
use wal_types::{Lsn, Term};

use super::LeadershipEnd;

/// Handed from turn to turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CarryOver {
    /// The highest term that deposed us. A safekeeper that is slower than a quorum of the others is not asked before
    /// votes are, and its higher term would end one leadership after the other.
    pub(crate) term_floor: Term,
    /// Only from one turn to the next: the end of a log whose last segment the primary no longer has, and up to which it
    /// was told that all is stored.
    pub(super) acknowledged_end: Option<Lsn>,
}

impl CarryOver {
    /// Takes what the end of a turn tells.
    pub(crate) fn after(self, end: &LeadershipEnd) -> Self {
        let deposed_by = match *end {
            LeadershipEnd::Lost(LostTerm::Deposed { term, .. }) => term,
            _ => Term::ZERO,
        };
        let acknowledged_end = match *end {
            LeadershipEnd::SegmentAcknowledged { end } => Some(end),
            _ => None,
        };
        Self { term_floor: self.term_floor.max(deposed_by), acknowledged_end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wal_types::NodeId;

    #[test]
    fn the_floor_never_sinks_and_the_end_of_a_lost_segment_is_for_one_turn() {
        let deposed =
            |term| LeadershipEnd::Lost(LostTerm::Deposed { by: NodeId(3), term: Term(term), own: Term(1) });
        let mut carry_over = CarryOver::default();
        for (end, term_floor, acknowledged_end) in [
            (LeadershipEnd::Stuck, 0, None),
            (deposed(50), 50, None),
            (LeadershipEnd::SegmentAcknowledged { end: Lsn(8) }, 50, Some(Lsn(8))),
            (LeadershipEnd::SegmentGone { from: Lsn(0), to: Lsn(8) }, 50, None),
            (deposed(7), 50, None),
        ] {
            carry_over = carry_over.after(&end);
            assert_eq!(carry_over, CarryOver { term_floor: Term(term_floor), acknowledged_end }, "{end}");
        }
    }
}
