//! [`Oracle`]: what must hold at every step, each invariant a function that names it.
//!
//! It believes nobody: it keeps every byte that was ever called committed, what each node ever promised and
//! acknowledged, and who led which term, and compares.

use std::collections::BTreeMap;
use std::fmt;

use consensus::AcceptorMessage;
use wal_store::Health;
use wal_types::{Lsn, NodeId, ProposerId, Term};

use crate::node::Node;
use crate::primary::{Primary, START};

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

fn ensure(invariant: &'static str, holds: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { invariant, detail: detail() }) }
}

/// What a node owes after a restart.
#[derive(Clone, Copy, Debug, Default)]
struct Debt {
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
}

/// Memory of a schedule.
#[derive(Default)]
pub(crate) struct Oracle {
    committed: Vec<u8>,
    leaders: BTreeMap<Term, ProposerId>,
    debts: BTreeMap<NodeId, Debt>,
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

    /// S1: two proposers never lead one term.
    pub(crate) fn one_leader_per_term(&mut self, term: Term, leader: ProposerId) -> Result<(), Violation> {
        let first = *self.leaders.entry(term).or_insert(leader);
        ensure("one_leader_per_term", first == leader, || {
            format!("{first} and {leader} both lead term {term}")
        })
    }

    /// S3: what was committed once stays as it is; a later commit only goes on from there.
    pub(crate) fn committed_bytes_never_change(&mut self, log: &[u8]) -> Result<(), Violation> {
        let common = log.len().min(self.committed.len());
        let differs = (0..common).find(|&index| log[index] != self.committed[index]);
        ensure("committed_bytes_never_change", differs.is_none(), || {
            format!("committed byte at {} was overwritten", START.advance(differs.unwrap_or_default() as u64))
        })?;
        if log.len() > common {
            self.committed.extend_from_slice(&log[common..]);
        }
        Ok(())
    }

    /// S4: positions that are called committed are ends of records.
    pub(crate) fn a_commit_is_a_record_end(&self, primary: &Primary, lsn: Lsn) -> Result<(), Violation> {
        ensure("a_commit_is_a_record_end", primary.is_record_end(lsn), || {
            format!("{lsn} lies inside a record")
        })
    }

    /// S5: at the moment when a commit is told, it survives the loss of power on all nodes at once.
    pub(crate) fn a_commit_is_durable_on_a_quorum<'a>(
        &self,
        nodes: impl ExactSizeIterator<Item = &'a Node>,
        lsn: Lsn,
    ) -> Result<(), Violation> {
        let quorum = consensus::quorum::majority(nodes.len());
        let expected = &self.committed[..lsn.bytes_since(START) as usize];
        let mut missing = Vec::new();
        let count = nodes.len();
        for node in nodes {
            match node.after_power_loss(lsn) {
                Ok(bytes) if bytes == expected => {}
                Ok(_) => missing.push(format!("node {} holds other bytes", node.id)),
                Err(why) => missing.push(format!("node {}: {why}", node.id)),
            }
        }
        ensure("a_commit_is_durable_on_a_quorum", count - missing.len() >= quorum, || {
            format!("{lsn}: {missing:?}")
        })
    }

    /// S4, S8: within one life of a node commit only grows and never exceeds flush, and the bytes below are the ones
    /// that were committed.
    pub(crate) fn a_node_keeps_what_it_knows_committed(&mut self, node: &Node) -> Result<(), Violation> {
        let Some(seen) = node.snapshot() else { return Ok(()) };
        let debt = self.debts.entry(node.id).or_default();
        if seen.health == Health::Poisoned {
            // What it still shows is what it knew; it will start from what its disk has.
            debt.commit = Lsn::INVALID;
            return Ok(());
        }
        let name = "a_node_keeps_what_it_knows_committed";
        let (commit, flush, known) = (seen.commit_lsn, seen.flush_lsn, debt.commit);
        ensure(name, commit >= known, || format!("node {} went back from {known} to {commit}", node.id))?;
        ensure(name, commit <= flush.max(START), || {
            format!("node {} commits {commit}, flushed {flush}", node.id)
        })?;
        let claimed = commit.bytes_since(START) as usize;
        ensure(name, claimed <= self.committed.len(), || {
            format!("node {} commits {commit}, which nobody decided", node.id)
        })?;
        let from = known.max(START);
        if commit > from {
            let expected = &self.committed[from.bytes_since(START) as usize..claimed];
            let held = node.read(from, commit);
            ensure(name, held == expected, || {
                let same = held.iter().zip(expected).take_while(|(one, other)| one == other).count() as u64;
                format!(
                    "node {} holds {} bytes of [{from}, {commit}), equal up to {}",
                    node.id,
                    held.len(),
                    from.advance(same)
                )
            })?;
        }
        debt.commit = commit;
        debt.persisted_commit = seen.persisted_commit_lsn;
        if seen.truncations != debt.truncations {
            debt.truncations = seen.truncations;
            debt.acknowledged = debt.acknowledged.min(flush);
        }
        Ok(())
    }

    /// Remembers what a node said, which binds it for ever.
    pub(crate) fn hear(&mut self, node: NodeId, message: &AcceptorMessage) {
        let debt = self.debts.entry(node).or_default();
        match message {
            AcceptorMessage::Greeting(greeting) => debt.term = debt.term.max(greeting.term),
            AcceptorMessage::PreVote(response) => debt.term = debt.term.max(response.term),
            AcceptorMessage::Vote(response) => {
                debt.term = debt.term.max(response.term);
                debt.acknowledged = debt.acknowledged.max(response.flush_lsn);
            }
            AcceptorMessage::Append(response) => {
                debt.term = debt.term.max(response.term);
                debt.acknowledged = debt.acknowledged.max(response.flush_lsn);
            }
            AcceptorMessage::Checksum(_) => {}
            AcceptorMessage::Configure(response) => debt.term = debt.term.max(response.term),
        }
    }

    /// A node stopped in the middle of a batch, and will start from what its disk has. If it may have been cutting its
    /// log, what it had acknowledged above the cut is no longer owed.
    pub(crate) fn begins_anew(&mut self, node: NodeId, may_have_cut: bool) {
        let debt = self.debts.entry(node).or_default();
        if may_have_cut {
            debt.acknowledged = debt.acknowledged.min(debt.commit);
        }
        debt.commit = Lsn::INVALID;
    }

    /// I1, I2: a node that comes back still has what it acknowledged and still knows what it promised.
    pub(crate) fn a_restart_forgets_nothing(&mut self, node: &Node) -> Result<(), Violation> {
        let Some(seen) = node.snapshot() else { return Ok(()) };
        let debt = self.debts.entry(node.id).or_default();
        let name = "a_restart_forgets_nothing";
        ensure(name, seen.term >= debt.term, || {
            format!("node {} told term {}, now {}", node.id, debt.term, seen.term)
        })?;
        ensure(name, seen.flush_lsn >= debt.acknowledged, || {
            format!(
                "node {} acknowledged {}, its log now ends at {}",
                node.id, debt.acknowledged, seen.flush_lsn
            )
        })?;
        ensure(name, seen.commit_lsn >= debt.persisted_commit, || {
            format!(
                "node {} had persisted commit {}, now {}",
                node.id, debt.persisted_commit, seen.commit_lsn
            )
        })?;
        debt.commit = Lsn::INVALID;
        debt.truncations = seen.truncations;
        Ok(())
    }

    /// S2: where the histories of two nodes agree, so do the bytes.
    pub(crate) fn logs_match_where_histories_do(&self, one: &Node, other: &Node) -> Result<(), Violation> {
        let (Some(a), Some(b)) = (one.snapshot(), other.snapshot()) else { return Ok(()) };
        let history = a.history.up_to(a.flush_lsn);
        let Some(common) =
            consensus::term_history::common_point(&history, &b.history.up_to(b.flush_lsn), b.flush_lsn)
        else {
            return Ok(());
        };
        let common = common.min(a.flush_lsn);
        // A node whose disk has just stopped can read nothing: what it holds is seen after its next start.
        let (these, those) = (one.read(START, common), other.read(START, common));
        let equal = these.iter().zip(&those).all(|(byte, twin)| byte == twin);
        ensure("logs_match_where_histories_do", equal, || {
            format!("nodes {} and {} differ below {common}", one.id, other.id)
        })
    }
}
