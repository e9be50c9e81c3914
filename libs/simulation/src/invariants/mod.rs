//! What must hold at every step, each invariant **one** function that names it; its comment tells the story that it
//! excludes. [`Violation::invariant`] is the name of that function.
//!
//! The oracle believes nobody. It keeps every byte that was ever called committed, what each node ever promised and
//! acknowledged, who led which term and which quorums decided anything, counts majorities by itself, and compares.

mod durability;
mod elections;
mod liveness;
mod log;
mod membership;
mod readers;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use consensus::{AcceptorMessage, Configuration};
use wal_store::Snapshot;
use wal_types::{Generation, Lsn, NodeId, PrimaryId, ProposerId, Term, Tli};

pub(crate) use self::liveness::{
    healed_cluster_commits_and_catches_up, recovery_finishes, rival_proposers_converge,
};
use crate::primary::{START, Timeline};

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

pub(crate) fn ensure(
    invariant: &'static str,
    holds: bool,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { invariant, detail: detail() }) }
}

/// The voting sets of a configuration.
pub(crate) type VotingSets = Vec<Vec<NodeId>>;

/// More than half.
pub(crate) const fn majority(members: usize) -> usize {
    (members + 2) / 2
}

/// True when `nodes` has more than half of every set.
pub(crate) fn has_majorities(sets: &[Vec<NodeId>], nodes: &BTreeSet<NodeId>) -> bool {
    let more_than_half =
        |set: &Vec<NodeId>| 2 * set.iter().filter(|node| nodes.contains(node)).count() > set.len();
    !sets.is_empty() && sets.iter().all(more_than_half)
}

/// What a node owes.
#[derive(Clone, Copy, Debug, Default)]
struct NodePromises {
    /// Highest term that it ever told.
    term: Term,
    /// Flush position that it acknowledged last.
    acknowledged: Lsn,
    /// Commit position that it showed since it was started.
    commit: Lsn,
    /// Commit position that was on its disk.
    persisted_commit: Lsn,
    /// Truncations that it had made when last seen.
    truncations: u64,
    /// Its disk was damaged, and it has not shown since that it holds everything again.
    damaged: bool,
}

/// Memory of a schedule.
#[derive(Default)]
pub(crate) struct Oracle {
    /// Every byte that was called committed, from [`START`] on.
    committed: Vec<u8>,
    /// Where records end in it, ascending.
    ends: Vec<Lsn>,
    leaders: BTreeMap<Term, ProposerId>,
    /// Where a term begins, and how far it committed.
    terms: BTreeMap<Term, (Lsn, Lsn)>,
    /// Who granted a term to whom.
    votes: BTreeMap<Term, BTreeMap<NodeId, ProposerId>>,
    /// How far a node told that it holds the log of a term.
    acknowledged: BTreeMap<(Term, NodeId), Lsn>,
    promises: BTreeMap<NodeId, NodePromises>,
    /// Up to where the logs of two nodes were seen to be equal, as they were when they were last looked at.
    equal_upto: BTreeMap<(NodeId, NodeId), Lsn>,
    /// PostgreSQL timelines under which something was committed.
    timelines: BTreeMap<Tli, Timeline>,
    /// Decided configurations.
    decided: BTreeMap<Generation, Configuration>,
    /// The primary whose WAL a term takes; recoveries have none.
    writes: BTreeMap<Term, PrimaryId>,
    /// Who alone may write, by the term under which it was decided: the newest generation of each.
    designated: BTreeMap<Term, (Generation, PrimaryId)>,
    /// What leaders were told to designate.
    designations: BTreeSet<(Term, Generation, PrimaryId)>,
    /// Quorums that elected or committed under voting sets.
    quorums: BTreeMap<VotingSets, BTreeSet<Vec<NodeId>>>,
    /// Voting sets from which a leader went over to others.
    steps: BTreeSet<(VotingSets, VotingSets)>,
}

impl Oracle {
    /// End of what is committed.
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

    /// True while a node may lack what it once acknowledged, because its disk was damaged.
    pub(crate) fn is_damaged(&self, node: NodeId) -> bool {
        self.promises.get(&node).is_some_and(|promised| promised.damaged)
    }

    /// The disk of a node was damaged: what it acknowledged may be gone, until it holds everything again.
    pub(crate) fn record_damage(&mut self, node: NodeId) {
        self.promises.entry(node).or_default().damaged = true;
    }

    /// A node said that it lost something: it owes only its promises of terms.
    pub(crate) fn record_loss(&mut self, node: NodeId, seen: &Snapshot) {
        let promised = self.promises.entry(node).or_default();
        promised.acknowledged = promised.acknowledged.min(seen.flush_lsn);
        promised.persisted_commit = Lsn::INVALID;
        promised.commit = Lsn::INVALID;
    }

    /// An elected proposer had a node cut its log: what was above is owed no longer.
    pub(crate) fn record_truncation(&mut self, node: NodeId, seen: &Snapshot) {
        let promised = self.promises.entry(node).or_default();
        if seen.truncations != promised.truncations {
            promised.truncations = seen.truncations;
            promised.acknowledged = promised.acknowledged.min(seen.flush_lsn);
        }
    }

    /// A damaged node was seen to hold everything that it should.
    pub(crate) fn record_repair(&mut self, node: NodeId) {
        self.promises.entry(node).or_default().damaged = false;
    }

    /// Remembers what a node said, which binds it for ever.
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
                let told = self.acknowledged.entry((response.term, node)).or_default();
                *told = (*told).max(response.flush_lsn);
            }
            AcceptorMessage::Configure(response) => promised.term = promised.term.max(response.term),
            AcceptorMessage::Checksum(_) => {}
        }
        Ok(())
    }

    /// A node stopped in the middle of a batch, and will start from what its disk has. If the batch told it to cut its
    /// log, what it had acknowledged above the cut may no longer be owed.
    pub(crate) fn record_interrupted_batch(&mut self, node: NodeId, may_have_cut_at: Option<Lsn>) {
        let promised = self.promises.entry(node).or_default();
        if let Some(cut) = may_have_cut_at {
            promised.acknowledged = promised.acknowledged.min(cut.max(promised.commit));
        }
        promised.commit = Lsn::INVALID;
    }
}
