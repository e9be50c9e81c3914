//! [`Refusal`]: what an acceptor does not accept, in words that an operator can act on.

use crate::configuration::InvalidConfiguration;
use thiserror::Error;
use wal_types::{Generation, Lsn, SystemId, TenantTimelineId, Term};

use crate::lineage::Dialect;

/// Why a message was not accepted. Nothing changed; the connection that sent it must be closed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
pub enum Refusal {
    /// A message came before the greeting.
    #[error("the first message of a connection must be a greeting")]
    NotGreeted,
    /// The timeline belongs to another family of proposers.
    #[error(
        "this timeline was created for dialect {expected:?}; create a timeline of its own for this proposer"
    )]
    Dialect {
        /// What the timeline was created for.
        expected: Dialect,
    },
    /// The greeting names another log.
    #[error("greeting is for timeline {got}, but the connection was opened for {expected}")]
    OtherTimeline {
        /// What the connection was opened for.
        expected: TenantTimelineId,
        /// What the greeting says.
        got: TenantTimelineId,
    },
    /// Another segment size.
    #[error("WAL segment size is {expected} bytes here, the proposer has {got}")]
    SegmentSize {
        /// Ours.
        expected: u32,
        /// Theirs.
        got: u32,
    },
    /// Another cluster.
    #[error("this log belongs to the cluster with system identifier {expected}, the proposer's is {got}")]
    OtherCluster {
        /// Ours.
        expected: SystemId,
        /// Theirs.
        got: SystemId,
    },
    /// Another major version.
    #[error(
        "this log was written by PostgreSQL {expected}, the proposer is {got}; a major upgrade needs a new timeline"
    )]
    MajorVersion {
        /// Ours.
        expected: u32,
        /// Theirs.
        got: u32,
    },
    /// A configuration that leaves this node out.
    #[error("configuration of generation {0} does not list this safekeeper")]
    NotAMember(Generation),
    /// The proposer acts under another configuration.
    #[error(
        "the proposer acts under generation {got}, this safekeeper knows generation {expected}; greet again to learn it"
    )]
    Generation {
        /// Ours.
        expected: Generation,
        /// Theirs.
        got: Generation,
    },
    /// No node may hold such a configuration.
    #[error(transparent)]
    Configuration(InvalidConfiguration),
    /// The leader has a newer configuration itself.
    #[error("configuration of generation {got} comes after that of generation {known} of the same term")]
    OlderConfiguration {
        /// What was accepted in this term.
        known: Generation,
        /// What came.
        got: Generation,
    },
    /// One generation of one term would mean two things.
    #[error("another configuration of generation {0} was already accepted in this term")]
    TwoConfigurations(Generation),
    /// A term that nobody can have come to.
    #[error("term {got} is too far above this safekeeper's ({own})")]
    TermLeap {
        /// Ours.
        own: Term,
        /// Theirs.
        got: Term,
    },
    /// A message that makes no sense whatever the state.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The proposer's history says nothing about the end of this log.
    #[error(
        "the proposer's history begins above this log, which ends at {flush_lsn}; seed this safekeeper anew from another"
    )]
    NoCommonPoint {
        /// End of this log.
        flush_lsn: Lsn,
    },
    /// The proposer would begin at the wrong place.
    #[error("the proposer starts at {got}, but the logs agree up to {expected}")]
    StartPoint {
        /// What this node computes.
        expected: Lsn,
        /// What the proposer asked for.
        got: Lsn,
    },
    /// Following would cut what is known to be committed.
    #[error("following this proposer would cut the log at {start}, below the commit position {commit_lsn}")]
    BelowCommit {
        /// Where the proposer starts.
        start: Lsn,
        /// What is committed.
        commit_lsn: Lsn,
    },
    /// Two different histories in one term: a proposer was elected twice.
    #[error("another history was already adopted in term {0}")]
    TwoHistories(Term),
    /// An append by a connection that does not lead.
    #[error(
        "append of term {term} from a connection that was not elected in it (this safekeeper is at term {own})"
    )]
    NotElected {
        /// The append's term.
        term: Term,
        /// Ours.
        own: Term,
    },
    /// A hole, or an overlap, in the stream.
    #[error("append begins at {got}, expected {expected}")]
    OutOfSequence {
        /// Where the stream stands.
        expected: Lsn,
        /// Where the append begins.
        got: Lsn,
    },
    /// The bytes are not WAL of this cluster. Raised by the driver, which can read records.
    #[error("not WAL of this log: {0}")]
    NotWal(String),
}
