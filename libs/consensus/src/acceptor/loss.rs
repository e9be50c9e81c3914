//! When a node that lost what it had acknowledged may vote again.

use super::Acceptor;
use crate::lineage::Dialect;
use crate::state::Loss;

impl Acceptor {
    /// True when this node misses nothing any more that a quorum could have counted on.
    ///
    /// *Under a later term than the loss:* its leader was elected without this node's vote, hence by a quorum that has
    /// a member in common with every quorum that this node was part of. Whatever was committed with our help lies below
    /// the start of that term, so a log that reaches this start has all of it. Less is not enough: how far we had
    /// acknowledged is what the disk remembered of it, which may be a moment old.
    ///
    /// *Under the term of the loss:* its leader may have been elected on what this node's vote said, so all below the
    /// start of the term is needed as well; it may have counted us at any position that we acknowledged, and it goes on
    /// from there. We need all of that, and all that it told us to be committed since: what it counted with us and we
    /// don't remember is in there, because it learnt of the loss before it led us again. A public proposer never learns
    /// of it, and goes on counting; so in its dialect only a later term ends a loss.
    pub(super) fn has_regained(&self) -> bool {
        let Some(Loss { term, acked_upto }) = self.state.lost else { return false };
        let Some(last) = self.state.history.last().filter(|last| last.term == self.state.term) else {
            return false;
        };
        if !self.owner.is_some_and(|owner| owner.heard) {
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
