//! [`CarryOver`]: hands facts from one leadership to the next, which could not learn them in time by itself.

use consensus::LostTerm;
use wal_types::{Lsn, Term};

use super::LeadershipEnd;

/// Facts that are handed from one leadership to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CarryOver {
    /// The highest term that deposed this process so far. A campaign requests votes as soon as a quorum has answered. Without
    /// this floor, a slow safekeeper that has promised a high term would answer later and end one leadership after the other.
    pub(crate) term_floor: Term,
    /// End of a log whose last segment the primary no longer has, and up to which all WAL was acknowledged to the primary.
    /// Valid for the next leadership only.
    pub(super) acknowledged_end: Option<Lsn>,
}

impl CarryOver {
    /// The facts for the next leadership, after one that ended with `end`.
    pub(crate) fn after(self, end: &LeadershipEnd) -> Self {
        let deposed_by = match *end {
            LeadershipEnd::Lost(LostTerm::Deposed { term, .. }) => term,
            _ => Term::ZERO,
        };
        let acknowledged_end = match *end {
            LeadershipEnd::AcknowledgedSegmentGone { end } => Some(end),
            _ => None,
        };
        Self { term_floor: self.term_floor.max(deposed_by), acknowledged_end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wal_types::NodeId;

    /// The floor never sinks; the end of a segment that is gone is carried over once.
    #[test]
    fn carry_over_keeps_floor_and_drops_acknowledged_end() {
        let deposed =
            |term| LeadershipEnd::Lost(LostTerm::Deposed { by: NodeId(3), term: Term(term), own: Term(1) });
        let mut carry_over = CarryOver::default();
        for (end, term_floor, acknowledged_end) in [
            (LeadershipEnd::Stuck, 0, None),
            (deposed(50), 50, None),
            (LeadershipEnd::AcknowledgedSegmentGone { end: Lsn(8) }, 50, Some(Lsn(8))),
            (LeadershipEnd::SegmentGone { from: Lsn(0), to: Lsn(8) }, 50, None),
            (deposed(7), 50, None),
        ] {
            carry_over = carry_over.after(&end);
            assert_eq!(carry_over, CarryOver { term_floor: Term(term_floor), acknowledged_end }, "{end}");
        }
    }
}
