//! Invariants of durability: commits, promises and acknowledgements survive crashes.

use std::collections::BTreeSet;

use consensus::VoteResponse;
use wal_types::{Lsn, NodeId, Term};

use super::{Oracle, Violation, ensure, has_majorities, list_nodes, list_sets};
use crate::mirror::offset;
use crate::node::Node;

impl Oracle {
    /// Flush position that a node has acknowledged in a term.
    fn acknowledged_in_term(&self, term: Term, node: NodeId) -> Lsn {
        self.acknowledged.get(&(term, node)).copied().unwrap_or_default()
    }

    /// S5, acknowledgements, excludes: a proposer commits entries of an earlier term because a majority holds them, or
    /// counts one node too few as a majority: the next leader's votes need not include a holder. The oracle counts what
    /// the nodes acknowledged in this very term.
    pub(crate) fn commit_is_acknowledged_by_a_majority(
        &self,
        term: Term,
        lsn: Lsn,
        sets: &[Vec<NodeId>],
    ) -> Result<BTreeSet<NodeId>, Violation> {
        let members = sets.iter().flatten().copied();
        let holders: BTreeSet<NodeId> =
            members.filter(|&node| self.acknowledged_in_term(term, node) >= lsn).collect();
        ensure("commit_is_acknowledged_by_a_majority", has_majorities(sets, &holders), || {
            let (holders, sets) = (list_nodes(&holders), list_sets(sets));
            format!(
                "commit {lsn} is reported in term {term}: {holders} acknowledged it, no majority of {sets}"
            )
        })?;
        Ok(holders)
    }

    /// S5 excludes: a node replies when the bytes are written but not synced; all machines lose power, and a reported
    /// COMMIT is gone. Checked at the moment of the commit: each node's disk is recovered and read as a power failure
    /// now would leave it.
    pub(crate) fn commit_is_durable_on_a_quorum<'a>(
        &self,
        nodes: impl Iterator<Item = &'a Node>,
        sets: &[Vec<NodeId>],
        term: Term,
        lsn: Lsn,
    ) -> Result<(), Violation> {
        // The node had acknowledged before its disk was damaged. The fault budget keeps such nodes a minority.
        let damaged =
            |node: &Node| self.is_damaged(node.id) && self.acknowledged_in_term(term, node.id) >= lsn;
        let missing = self.missing_after_power_loss(nodes, sets, lsn, damaged);
        ensure("commit_is_durable_on_a_quorum", missing.is_none(), || {
            let (missing, sets) = (missing.unwrap_or_default(), list_sets(sets));
            format!("commit {lsn} would not survive a power failure on a majority of {sets}: {missing}")
        })
    }

    /// S11 excludes: while members change, the new ones alone commit 100–200, and their leader dies. The next one leaves the
    /// joint configuration before a majority of the old members has 100–200, and they elect a leader without it. A leader
    /// that a higher term has overtaken decides nothing any more.
    pub(crate) fn abandoned_change_keeps_committed_bytes<'a>(
        &self,
        nodes: impl Iterator<Item = &'a Node>,
        old: Vec<NodeId>,
        term: Term,
    ) -> Result<(), Violation> {
        if self.leaders.last_key_value().is_some_and(|(&newest, _)| newest > term) {
            return Ok(());
        }
        let (sets, lsn) = (&[old], self.commit_lsn());
        let missing = self.missing_after_power_loss(nodes, sets, lsn, |node| self.is_damaged(node.id));
        ensure("abandoned_change_keeps_committed_bytes", missing.is_none(), || {
            let (missing, sets) = (missing.unwrap_or_default(), list_sets(sets));
            format!("term {term} leaves {lsn} of the committed log on no majority of {sets}: {missing}")
        })
    }

    /// What a majority of each set would lack of the committed log up to `lsn` after a power failure now; `None` when it
    /// would lack nothing. Each node's disk is recovered and read, unless `is_excused`.
    fn missing_after_power_loss<'a>(
        &self,
        nodes: impl Iterator<Item = &'a Node>,
        sets: &[Vec<NodeId>],
        lsn: Lsn,
        is_excused: impl Fn(&Node) -> bool,
    ) -> Option<String> {
        let mut holding = BTreeSet::new();
        let mut missing = Vec::new();
        for node in nodes.filter(|node| sets.iter().flatten().any(|id| *id == node.id)) {
            if has_majorities(sets, &holding) {
                break;
            }
            match node.after_power_loss(lsn) {
                _ if is_excused(node) => _ = holding.insert(node.id),
                Ok((from, bytes)) if bytes == self.committed[offset(from)..offset(lsn)] => {
                    holding.insert(node.id);
                }
                Ok(_) => missing.push(format!("node {} holds other bytes", node.id)),
                Err(why) => missing.push(format!("node {}: {why}", node.id)),
            }
        }
        (!has_majorities(sets, &holding)).then(|| missing.join("; "))
    }

    /// Excludes: a recovery reports the end of the log and a standby is promoted there, but the nodes hold that commit
    /// position only in memory. After a restart they report less as committed than the promoted standby has.
    pub(crate) fn recovered_commit_is_persisted_on_a_quorum<'a>(
        &self,
        nodes: impl Iterator<Item = &'a Node>,
        sets: &[Vec<NodeId>],
        start: Lsn,
    ) -> Result<(), Violation> {
        let mut persisted = BTreeSet::new();
        for node in nodes {
            let holds = |node: &Node| node.commit_after_power_loss().is_some_and(|commit| commit >= start);
            if !has_majorities(sets, &persisted) && (self.is_damaged(node.id) || holds(node)) {
                persisted.insert(node.id);
            }
        }
        ensure("recovered_commit_is_persisted_on_a_quorum", has_majorities(sets, &persisted), || {
            let (persisted, sets) = (list_nodes(&persisted), list_sets(sets));
            format!("commit {start} of a finished recovery: {persisted} persisted it, no majority of {sets}")
        })
    }

    /// Excludes: a node acknowledges up to 200, one sector rots or a sync is forgotten, the scan ends at 150, and the
    /// node votes with 150: a log without committed records is elected. Or the node forgets a term that it promised.
    pub(crate) fn restart_forgets_nothing(&mut self, node: &Node) -> Result<(), Violation> {
        let Some(seen) = node.snapshot() else { return Ok(()) };
        if node.is_lost() {
            self.record_loss(node.id, &seen);
        }

        let promised = self.promises.entry(node.id).or_default();
        let name = "restart_forgets_nothing";
        ensure(name, seen.term >= promised.term, || {
            format!("node {} reported term {}, now {}", node.id, promised.term, seen.term)
        })?;
        ensure(name, seen.flush_lsn >= promised.acknowledged, || {
            format!(
                "node {} acknowledged {}, its log now ends at {}",
                node.id, promised.acknowledged, seen.flush_lsn
            )
        })?;
        ensure(name, seen.commit_lsn >= promised.persisted_commit, || {
            format!(
                "node {} had persisted commit {}, now {}",
                node.id, promised.persisted_commit, seen.commit_lsn
            )
        })?;

        promised.commit = Lsn::INVALID;
        promised.truncations = seen.truncations;
        Ok(())
    }

    /// Excludes: a node that lacks WAL it had acknowledged votes all the same: its vote elects a log without records
    /// that were committed with its help.
    pub(crate) fn lost_node_does_not_vote(&self, node: &Node, vote: &VoteResponse) -> Result<(), Violation> {
        ensure("lost_node_does_not_vote", !(vote.vote_given && node.is_lost()), || {
            format!("node {} reports lost WAL, and granted term {}", node.id, vote.term)
        })
    }

    /// Excludes: a scan that is too strict takes the torn end that every crash leaves for damage, and after one power
    /// failure of the whole site no node votes any more.
    pub(crate) fn undamaged_node_starts(
        &self,
        node: NodeId,
        what: &dyn std::fmt::Display,
    ) -> Result<(), Violation> {
        ensure("undamaged_node_starts", self.is_damaged(node), || {
            format!("node {node} is undamaged and reports a loss: {what}")
        })
    }
}
