//! Invariants of the log: bytes are equal where histories are equal, and committed bytes never change.

use consensus::TermHistory;
use wal_types::{Lsn, NodeId, Term};

use super::{Oracle, Violation, ensure};
use crate::mirror::{first_difference, offset};
use crate::node::Node;
use crate::primary::{Primary, START};

impl Oracle {
    /// S2 excludes: a node adopts a new history, crashes before the truncation, and comes back with a dead proposer's
    /// tail under the new term's name: it is elected as the newest log.
    pub(crate) fn logs_match_where_histories_match(
        &mut self,
        one: &Node,
        other: &Node,
    ) -> Result<(), Violation> {
        let (Some(a), Some(b)) = (one.snapshot(), other.snapshot()) else { return Ok(()) };
        let can_be_compared = |node: &Node| node.is_mirrored() && !self.is_damaged(node.id);
        if !can_be_compared(one) || !can_be_compared(other) {
            return Ok(());
        }

        let equal = self.equal_upto.entry((one.id, other.id)).or_insert(START);
        let shorter = one.mirror.end().min(other.mirror.end()).min(a.flush_lsn).min(b.flush_lsn);
        if *equal >= shorter {
            return Ok(());
        }

        let common = common_end(&a.history, &b.history, shorter);
        let from = (*equal).max(one.mirror.base()).max(other.mirror.base());
        if from >= common {
            return Ok(());
        }

        let (these, those) = (one.mirror.slice(from, common), other.mirror.slice(from, common));
        let same = first_difference(these, those);
        ensure("logs_match_where_histories_match", these == those, || {
            let at = from.advance(same as u64);
            format!("nodes {} and {} differ at {at}, their histories agree up to {common}", one.id, other.id)
        })?;

        *equal = common;
        Ok(())
    }

    /// Forgets comparisons of a node's log above `at`.
    pub(crate) fn forget_comparison(&mut self, node: NodeId, at: Lsn) {
        let pairs = self.equal_upto.iter_mut().filter(|((one, other), _)| *one == node || *other == node);
        pairs.for_each(|(_, equal)| *equal = (*equal).min(at));
    }

    /// S3 excludes: term 2 commits a range on nodes 1 and 2. Node 3, whose log is longer and older, leads term 3
    /// because length was compared before term, and overwrites the range.
    pub(crate) fn committed_bytes_never_change(&mut self, log: &[u8]) -> Result<(), Violation> {
        let common = log.len().min(self.committed.len());
        let same = first_difference(&log[..common], &self.committed[..common]);
        ensure("committed_bytes_never_change", same == common, || {
            format!("committed byte at {} was overwritten", START.advance(same as u64))
        })?;
        self.committed.extend_from_slice(&log[common..]);
        Ok(())
    }

    /// S3, for a recovery, which has no WAL of its own, excludes: the recovery commits the parts of two logs, one
    /// behind the other, or bytes that a disk made up: no primary ever wrote the committed log.
    pub(crate) fn committed_bytes_were_written_by_a_primary(
        &self,
        is_written: bool,
        lsn: Lsn,
    ) -> Result<(), Violation> {
        ensure("committed_bytes_were_written_by_a_primary", is_written, || {
            format!("no primary has the log up to {lsn} that a recovery commits")
        })
    }

    /// S4 excludes: a proposer counts bytes instead of records: the commit position lies inside a record. A standby
    /// that is promoted there ends its log below and writes other bytes over committed ones.
    pub(crate) fn commit_is_a_record_end(&mut self, primary: &Primary, lsn: Lsn) -> Result<(), Violation> {
        ensure("commit_is_a_record_end", primary.is_record_end(lsn), || {
            format!("{lsn} lies inside a record: {}", primary.describe(lsn))
        })?;
        let known = self.ends.last().copied().unwrap_or_default();
        self.ends.extend(primary.record_ends(known, lsn));
        Ok(())
    }

    /// S4 excludes: a node applies a commit candidate of an old term to the new term's shorter log: its commit position
    /// is beyond its flush position, or at a position that no quorum decided. Or the commit position goes back while
    /// the node lives, and a reader sees less than before.
    pub(crate) fn node_commit_position_is_valid(&mut self, node: &Node) -> Result<(), Violation> {
        let Some(seen) = node.serving() else { return Ok(()) };
        let (known, decided) = (self.promises.entry(node.id).or_default().commit, self.commit_lsn());
        let (commit, flush) = (seen.commit_lsn, seen.flush_lsn);
        let name = "node_commit_position_is_valid";
        ensure(name, commit >= known, || format!("node {} went back from {known} to {commit}", node.id))?;
        ensure(name, commit <= flush.max(node.mirror.base()), || {
            format!("node {} commits {commit}, flushed {flush}", node.id)
        })?;
        ensure(name, commit <= decided.max(node.mirror.base()), || {
            format!("node {} commits {commit}, decided is {decided}", node.id)
        })?;
        let begins = node.mirror.base().max(seen.oldest_lsn);
        let inside = commit > known && commit > begins && self.ends.binary_search(&commit).is_err();
        ensure(name, !inside, || format!("node {} commits {commit}, inside a record", node.id))
    }

    /// S8 excludes: a proposer with an outdated idea of the log tells a node to begin below its commit position, and
    /// the node truncates bytes that it had reported as committed. (Bytes that others committed meanwhile may be
    /// truncated on it.)
    ///
    /// `changed_from` is the lowest position at which the log has changed since the last check.
    pub(crate) fn node_keeps_committed_bytes(
        &mut self,
        node: &Node,
        changed_from: Lsn,
    ) -> Result<(), Violation> {
        let Some(seen) = node.serving() else {
            // A failed node shows what it knew; it will start from its disk.
            self.promises.entry(node.id).or_default().commit = Lsn::INVALID;
            return Ok(());
        };

        let damaged = self.is_damaged(node.id);
        let promised = self.promises.entry(node.id).or_default();
        let (known, commit) = (promised.commit, seen.commit_lsn);
        promised.commit = commit;
        promised.persisted_commit = seen.persisted_commit_lsn;
        if damaged {
            return Ok(());
        }

        let from = known.min(changed_from).max(node.mirror.base());
        if commit <= from {
            return Ok(());
        }

        let held = node.mirror.slice(from, commit);
        let expected = &self.committed[offset(from)..offset(commit)];
        ensure("node_keeps_committed_bytes", held == expected, || {
            let same = from.advance(first_difference(held, expected) as u64);
            let (id, bytes) = (node.id, held.len());
            format!("node {id} holds {bytes} bytes of [{from}, {commit}), equal up to {same}")
        })
    }
}

/// Position up to which two logs must be equal: as long as both histories name the same term. Below the first entry of
/// either history all members agree, which is why older entries could be dropped. Nothing is known about two histories
/// that differ where both lists begin, or of which one begins behind the end of the other: one of the nodes left the
/// members before the others agreed.
fn common_end(one: &TermHistory, other: &TermHistory, shorter: Lsn) -> Lsn {
    let term = |history: &TermHistory, at: Lsn| -> Option<Term> {
        history.entries().iter().rev().find(|entry| entry.start <= at).map(|entry| entry.term)
    };
    let first = |history: &TermHistory| history.entries().first().map_or(START, |entry| entry.start);
    let base = first(one).max(first(other));
    let starts =
        one.entries().iter().chain(other.entries()).map(|entry| entry.start).filter(|at| *at >= base);
    let parting = starts.chain([base]).filter(|at| *at < shorter && term(one, *at) != term(other, *at)).min();
    match parting {
        _ if base >= shorter => START,
        None => shorter,
        Some(at) if at == base => START,
        Some(at) => at,
    }
}
