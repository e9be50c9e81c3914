//! [`AcceptorState`]: what an acceptor must never forget.

use wal_types::{Lsn, ProposerId, Term, Tli};

use crate::configuration::Configuration;
use crate::lineage::Lineage;
use crate::term_history::{TermHistory, TliSwitch};

/// The part of an acceptor that is written to the control file, as a whole, each time it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AcceptorState {
    /// Highest term promised or adopted.
    pub term: Term,
    /// Campaign that has the vote of `term`; `None` when the term was adopted without a vote, and in dialect `neon`.
    pub voted_for: Option<ProposerId>,
    /// Terms that wrote the log. Adopted whole from an elected proposer, so it may reach beyond the local log.
    pub history: TermHistory,
    /// Changes of PostgreSQL's timeline, oldest first.
    pub tli_switches: Vec<TliSwitch>,
    /// Commit LSN: everything below is known to be committed. The value on disk may be older than this one: the next
    /// leader reports the position again.
    pub commit_lsn: Lsn,
    /// Removal horizon: every member has everything below it, so no member needs that from another one. The leader
    /// computes it: the lowest of the commit LSN and the flush LSNs of all members.
    pub horizon_lsn: Lsn,
    /// Members that vote.
    pub configuration: Configuration,
    /// Term of the proposer that wrote `configuration`; zero for the configuration that the log was created with.
    /// Configurations are ordered by this term first and by generation second: two proposers may have given out the same
    /// generation.
    pub configuration_term: Term,
    /// Set while this node lacks WAL that it had acknowledged: it follows, but must not vote.
    pub lost: Option<Loss>,
}

impl AcceptorState {
    /// The highest PostgreSQL timeline that WAL of the log can be of: a new timeline stands in the history of its first
    /// proposer before any of its WAL arrives.
    pub fn highest_tli(&self, lineage: &Lineage) -> Tli {
        let of_terms = self.history.entries().iter().map(|entry| entry.tli);
        let switched_to = self.tli_switches.iter().map(|switch| switch.tli);
        of_terms.chain(switched_to).fold(lineage.start_tli.max(Tli::FIRST), Tli::max)
    }
}

/// Record of a loss: how far the log of a *lost node* must reach before the node may vote again. A lost node no longer has
/// WAL that it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loss {
    /// Term of the node when it found the loss. A proposer of a higher term has counted no acknowledgement of the lost
    /// bytes.
    pub term: Term,
    /// Acknowledged position that the disk still records. The node may have acknowledged a little more.
    pub acked_upto: Lsn,
}
