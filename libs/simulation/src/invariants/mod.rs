//! Invariants that must hold at every step. Each is **one** function with its name; the function's comment gives its
//! number in `docs/consensus.md` (S for safety, L for liveness; some have none) and tells a failure that it excludes.
//! [`Violation::invariant`] is the name of the function.
//!
//! The oracle trusts no part of the product. It keeps every byte that was ever reported as committed, every promise and
//! acknowledgement of each node, the leader of each term and the quorums that decided. It counts majorities itself, and
//! compares.

mod durability;
mod elections;
mod liveness;
mod log;
mod membership;
mod readers;
mod removal;
mod violation;

use std::collections::{BTreeMap, BTreeSet};

use consensus::{AcceptorMessage, Configuration, Primary};
use wal_store::Snapshot;
use wal_types::{Generation, Lsn, NodeId, ProposerId, Term, Tli};

pub(crate) use self::liveness::{
    buffered_wal_is_bounded, diverged_rival_spends_no_term, diverged_rival_stays_away, full_cluster_elects,
    healed_cluster_commits_and_catches_up, persistent_fault_stops_no_commit, recovery_finishes,
    rightful_leader_leads, rival_proposers_converge,
};
pub(crate) use self::removal::{
    full_node_starts, kept_wal_is_bounded, removed_wal_is_committed, wal_of_a_member_is_kept,
};
pub use self::violation::Violation;
pub(crate) use self::violation::{ensure, list_nodes, list_sets};
use crate::primary::{START, Timeline};

/// The voting sets of a configuration: one, or two while members change.
pub(crate) type VotingSets = Vec<Vec<NodeId>>;

/// The smallest number of members that is more than half.
pub(crate) const fn majority(members: usize) -> usize {
    (members + 2) / 2
}

/// True when `nodes` has more than half of every set.
pub(crate) fn has_majorities(sets: &[Vec<NodeId>], nodes: &BTreeSet<NodeId>) -> bool {
    let more_than_half =
        |set: &Vec<NodeId>| 2 * set.iter().filter(|node| nodes.contains(node)).count() > set.len();
    !sets.is_empty() && sets.iter().all(more_than_half)
}

/// Promises of a node that later states must keep.
#[derive(Clone, Copy, Debug, Default)]
struct NodePromises {
    /// Highest term that it ever reported.
    term: Term,
    /// Flush position that it has acknowledged.
    acknowledged: Lsn,
    /// Commit position that it has shown since its start.
    commit: Lsn,
    /// Commit position that was on its disk.
    persisted_commit: Lsn,
    /// Number of its truncations at the last check.
    truncations: u64,
    /// Its disk was damaged, and the node has not held everything again since.
    damaged: bool,
}

/// Memory of a schedule: the facts that invariants compare against.
#[derive(Default)]
pub(crate) struct Oracle {
    /// Every byte that was reported as committed, from [`START`] on.
    committed: Vec<u8>,
    /// Record ends in it, ascending.
    ends: Vec<Lsn>,
    /// The leader of each term.
    leaders: BTreeMap<Term, ProposerId>,
    /// Start and commit position of each term.
    terms: BTreeMap<Term, (Lsn, Lsn)>,
    /// For each term, the campaign that each node voted for.
    votes: BTreeMap<Term, BTreeMap<NodeId, ProposerId>>,
    /// Flush position that a node has acknowledged in a term.
    acknowledged: BTreeMap<(Term, NodeId), Lsn>,
    /// Promises of each node.
    promises: BTreeMap<NodeId, NodePromises>,
    /// Position up to which the logs of two nodes were equal at the last comparison.
    equal_upto: BTreeMap<(NodeId, NodeId), Lsn>,
    /// PostgreSQL timelines under which something was committed.
    timelines: BTreeMap<Tli, Timeline>,
    /// Decided configurations.
    decided: BTreeMap<Generation, Configuration>,
    /// The primary whose WAL a term accepts; recoveries have none.
    writes: BTreeMap<Term, Primary>,
    /// Designated primary by the term that decided it: the newest generation of each term.
    designated: BTreeMap<Term, (Generation, Primary)>,
    /// Designations that leaders were told to make.
    designations: BTreeSet<(Term, Generation, Primary)>,
    /// Quorums that elected or committed under these voting sets.
    quorums: BTreeMap<VotingSets, BTreeSet<Vec<NodeId>>>,
    /// Changes of the voting sets by leaders, as (before, after).
    steps: BTreeSet<(VotingSets, VotingSets)>,
}

impl Oracle {
    /// End of the committed log.
    pub(crate) fn commit_lsn(&self) -> Lsn {
        START.advance(self.committed.len() as u64)
    }

    /// The committed log.
    pub(crate) fn committed(&self) -> &[u8] {
        &self.committed
    }

    /// The highest PostgreSQL timeline under which something was committed.
    pub(crate) fn highest_timeline(&self) -> Timeline {
        self.timelines.last_key_value().map_or(Timeline::FIRST, |(_, timeline)| *timeline)
    }

    /// Generation of the newest decided configuration.
    pub(crate) fn newest_generation(&self) -> Generation {
        self.decided.last_key_value().map_or(Generation::default(), |(generation, _)| *generation)
    }

    /// True while a node may lack WAL that it once acknowledged, because its disk was damaged.
    pub(crate) fn is_damaged(&self, node: NodeId) -> bool {
        self.promises.get(&node).is_some_and(|promised| promised.damaged)
    }

    /// Records damage of a node's disk: acknowledged WAL may be missing until the node holds everything again.
    pub(crate) fn record_damage(&mut self, node: NodeId) {
        self.promises.entry(node).or_default().damaged = true;
    }

    /// Records a node's report of lost WAL: only its promises of terms remain.
    pub(crate) fn record_loss(&mut self, node: NodeId, seen: &Snapshot) {
        let promised = self.promises.entry(node).or_default();
        promised.acknowledged = promised.acknowledged.min(seen.flush_lsn);
        promised.persisted_commit = Lsn::INVALID;
        promised.commit = Lsn::INVALID;
    }

    /// Records truncations by an elected proposer: the promise of WAL above them ends.
    pub(crate) fn record_truncation(&mut self, node: NodeId, seen: &Snapshot) {
        let promised = self.promises.entry(node).or_default();
        if seen.truncations != promised.truncations {
            promised.truncations = seen.truncations;
            promised.acknowledged = promised.acknowledged.min(seen.flush_lsn);
        }
    }

    /// Records that a lost node holds everything that it should.
    pub(crate) fn record_repair(&mut self, node: NodeId) {
        self.promises.entry(node).or_default().damaged = false;
    }

    /// Records a reply of a node, which binds the node for ever.
    pub(crate) fn record_reply(
        &mut self,
        node: NodeId,
        to: ProposerId,
        message: &AcceptorMessage,
    ) -> Result<(), Violation> {
        let promised = self.promises.entry(node).or_default();
        match message {
            AcceptorMessage::Greeting(greeting) => promised.term = promised.term.max(greeting.term),
            AcceptorMessage::PreVote(response) => promised.term = promised.term.max(response.term),
            AcceptorMessage::Vote(response) => {
                promised.term = promised.term.max(response.term);
                promised.acknowledged = promised.acknowledged.max(response.flush_lsn);
                if response.vote_given {
                    return self.vote_is_granted_once_per_term(node, response.term, to);
                }
            }
            AcceptorMessage::Append(response) => {
                promised.term = promised.term.max(response.term);
                promised.acknowledged = promised.acknowledged.max(response.flush_lsn);
                let acknowledged = self.acknowledged.entry((response.term, node)).or_default();
                *acknowledged = (*acknowledged).max(response.flush_lsn);
            }
            AcceptorMessage::Configure(response) => promised.term = promised.term.max(response.term),
            AcceptorMessage::Checksum(_) | AcceptorMessage::Ticket(_) | AcceptorMessage::Watch(_) => {}
        }
        Ok(())
    }

    /// Records that a node stopped in the middle of a batch and will start from its disk. If the batch could truncate
    /// its log, the promise of WAL above that position ends.
    pub(crate) fn record_interrupted_batch(&mut self, node: NodeId, may_have_truncated_at: Option<Lsn>) {
        let promised = self.promises.entry(node).or_default();
        if let Some(at) = may_have_truncated_at {
            promised.acknowledged = promised.acknowledged.min(at.max(promised.commit));
        }
        promised.commit = Lsn::INVALID;
    }
}
