//! [`AcceptorState`]: what an acceptor must never forget.

use wal_types::{Lsn, ProposerId, Term, Tli};

use crate::configuration::Configuration;
use crate::lineage::Lineage;
use crate::term_history::{TermHistory, TliSwitch};

/// The part of an acceptor that goes to the control file, whole, each time it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AcceptorState {
    /// Highest term promised or adopted.
    pub term: Term,
    /// The campaign that got the vote of `term`; none when the term was adopted without a vote, and in dialect `neon`.
    pub voted_for: Option<ProposerId>,
    /// Who wrote what. Adopted whole from an elected proposer, so it may reach beyond the local log.
    pub history: TermHistory,
    /// Where PostgreSQL's timeline changed.
    pub tli_switches: Vec<TliSwitch>,
    /// Known to be committed. On disk it may lag behind memory: it can be learnt again.
    pub commit_lsn: Lsn,
    /// Below it no member needs anything from another: min(flush of all members, commit).
    pub horizon_lsn: Lsn,
    /// Who votes.
    pub configuration: Configuration,
    /// Term of the proposer that wrote `configuration`; zero while it is the one that the log was created with. Orders
    /// configurations before their generation does: two proposers may have given out the same generation.
    pub configuration_term: Term,
    /// Set while this node misses WAL that it had acknowledged: it follows, but must not vote.
    pub lost: Option<Loss>,
}

impl AcceptorState {
    /// The highest PostgreSQL timeline that WAL of the log can be of: a new one is in the history of its first proposer
    /// before any of its WAL comes.
    pub fn highest_tli(&self, lineage: &Lineage) -> Tli {
        let of_terms = self.history.entries().iter().map(|entry| entry.tli);
        let switched_to = self.tli_switches.iter().map(|switch| switch.tli);
        of_terms.chain(switched_to).fold(lineage.start_tli.max(Tli::FIRST), Tli::max)
    }
}

/// What a node had promised before its disk lost a part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loss {
    /// Its term when the loss was found: no proposer above it counted an acknowledgement of what is lost.
    pub term: Term,
    /// So far the disk remembers to have acknowledged; perhaps it was a little more.
    pub acked_upto: Lsn,
}
