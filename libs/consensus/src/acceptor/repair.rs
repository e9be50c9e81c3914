//! Repair of a lost node: decides when a node that lost acknowledged WAL may vote again.

use super::Acceptor;
use crate::lineage::Dialect;
use crate::state::Loss;

impl Acceptor {
    /// True when this node no longer lacks anything that a quorum could have counted on.
    ///
    /// *Under a later term than the loss:* the leader of that term was elected without this node's vote, hence by a
    /// quorum that has a member in common with every quorum that this node was part of. Whatever was committed with the
    /// help of this node lies below the start of that term, so a log that reaches this start has all of it. Less is not
    /// enough: `acked_upto` is what the disk remembered of the acknowledged position, and may be a moment old.
    ///
    /// *Under the term of the loss:* three positions must be reached. The start of the term, because the leader may have
    /// been elected on the position that this node's vote reported. `acked_upto`, because the leader may have counted this
    /// node up to there. The leader's commit LSN, because the leader may have counted this node above `acked_upto` too,
    /// where the disk no longer records it. The commit LSN covers all that the leader had committed with those
    /// acknowledgements, and the leader counts them no longer: it learnt of the loss from this node's vote, before it led
    /// this node again. A proposer of dialect `neon` never learns of a loss and goes on counting, so in that dialect only
    /// a later term ends a loss.
    pub(super) fn is_repaired(&self) -> bool {
        let Some(Loss { term, acked_upto }) = self.state.lost else { return false };
        let Some(last) = self.state.history.last().filter(|last| last.term == self.state.term) else {
            return false;
        };
        if !self.leader.is_some_and(|leader| leader.has_appended) {
            return false;
        }
        let needed = match self.lineage.dialect {
            _ if last.term > term => last.start,
            Dialect::Holdfast => last.start.max(acked_upto).max(self.commit_candidate),
            Dialect::Neon => return false,
        };
        self.flush_lsn >= needed
    }
}
