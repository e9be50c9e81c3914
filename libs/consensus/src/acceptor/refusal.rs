//! [`Refusal`] and [`BootstrapRefused`]: why an acceptor does not accept a message or its first members, in words that an
//! operator can act on.

use crate::configuration::InvalidConfiguration;
use thiserror::Error;
use wal_types::{CopyId, Digest, Generation, Lsn, NodeId, ReplicaId, SystemId, TenantTimelineId, Term};

use crate::lineage::Dialect;

/// Why [`Acceptor::step`](super::Acceptor::step) did not accept a message. The acceptor has not changed; the driver
/// closes the connection that sent the message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
pub enum Refusal {
    /// A message came before the greeting.
    #[error("the first message of a connection must be a greeting")]
    NotGreeted,
    /// The timeline was created for the other dialect.
    #[error("timeline was created for dialect {expected:?}; create another timeline for this proposer")]
    Dialect {
        /// Dialect of the timeline.
        expected: Dialect,
    },
    /// The greeting names another log.
    #[error("greeting is for timeline {got}, but the connection was opened for {expected}")]
    OtherTimeline {
        /// Log that the connection was opened for.
        expected: TenantTimelineId,
        /// Log that the greeting names.
        got: TenantTimelineId,
    },
    /// The proposer's cluster has another segment size.
    #[error("timeline has WAL segments of {expected} bytes, the proposer has segments of {got} bytes")]
    SegmentSize {
        /// Segment size of the timeline, in bytes.
        expected: u32,
        /// Segment size of the proposer, in bytes.
        got: u32,
    },
    /// The proposer writes for another cluster.
    #[error("timeline belongs to the cluster with system identifier {expected}, the proposer's is {got}")]
    OtherCluster {
        /// Cluster of the timeline.
        expected: SystemId,
        /// Cluster of the proposer.
        got: SystemId,
    },
    /// The proposer's cluster has another major version.
    #[error(
        "timeline was written by PostgreSQL {expected}, the proposer is {got}; create a new timeline for a major upgrade"
    )]
    MajorVersion {
        /// Major version of the timeline.
        expected: u32,
        /// Major version of the proposer.
        got: u32,
    },
    /// The proposer means another copy: the safekeeper's log was created anew since it became a member.
    #[error(
        "safekeeper {own} is not copy {meant}, which is a member: its log was created anew, without the promises of the \
         member; remove the member, then add this copy as a new one"
    )]
    OtherCopy {
        /// This copy.
        own: CopyId,
        /// Copy that the message names.
        meant: ReplicaId,
    },
    /// No one has told this copy who its peers are (dialect `neon`; others get a response without a vote).
    #[error(
        "this copy of the log has no members yet and grants no vote; finish its creation with PUT .../bootstrap"
    )]
    Unconfigured,
    /// The message is one of this protocol version that this release does not carry out.
    #[error("this release does not carry out {0} yet; start a later one")]
    Unsupported(&'static str),
    /// The configuration leaves this node out.
    #[error("configuration of generation {0} does not list this safekeeper")]
    NotAMember(Generation),
    /// The proposer acts under another configuration (dialect `neon`).
    #[error(
        "proposer acts under generation {got}, this safekeeper knows generation {expected}; greet again to learn it"
    )]
    Generation {
        /// Generation of this node's configuration.
        expected: Generation,
        /// Generation of the message.
        got: Generation,
    },
    /// The configuration breaks a rule that every node relies on.
    #[error(transparent)]
    Configuration(InvalidConfiguration),
    /// A newer configuration of the same term was already accepted.
    #[error(
        "configuration of generation {got} is older than generation {known}, which this term already has"
    )]
    OlderConfiguration {
        /// Generation that was accepted in this term.
        known: Generation,
        /// Generation of the message.
        got: Generation,
    },
    /// One generation of one term would have two meanings.
    #[error("another configuration of generation {0} was already accepted in this term")]
    TwoConfigurations(Generation),
    /// The term is so far above this node's that no sequence of elections can have led to it.
    #[error("term {got} is too far above this safekeeper's term {own}")]
    TermLeap {
        /// Term of this node.
        own: Term,
        /// Term of the message.
        got: Term,
    },
    /// The message contradicts itself, whatever the state of the acceptor.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The proposer's history does not reach down to the end of this log.
    #[error(
        "proposer's history begins above the end of this log, {flush_lsn}; replace this safekeeper by one with a new number"
    )]
    NoCommonPoint {
        /// End of this log.
        flush_lsn: Lsn,
    },
    /// The proposer would begin at another position than the common point.
    #[error("proposer starts at {got}, but the logs agree up to {expected}")]
    StartPoint {
        /// Common point that this node computed.
        expected: Lsn,
        /// Position in the message.
        got: Lsn,
    },
    /// Following the proposer would truncate WAL that is known to be committed.
    #[error("following the proposer would truncate the log at {start}, below the commit LSN {commit_lsn}")]
    BelowCommit {
        /// Position at which the proposer starts.
        start: Lsn,
        /// Commit LSN of this node.
        commit_lsn: Lsn,
    },
    /// One term has two histories: two proposers were elected in it.
    #[error("another history was already adopted in term {0}")]
    TwoHistories(Term),
    /// The sender does not lead the current term on this connection.
    #[error("proposer does not lead term {term} on this connection; this safekeeper is at term {own}")]
    NotElected {
        /// Term of the message.
        term: Term,
        /// Term of this node.
        own: Term,
    },
    /// The append leaves a hole in the stream, or overlaps it.
    #[error("append begins at {got}, expected {expected}")]
    OutOfSequence {
        /// Position at which the stream stands.
        expected: Lsn,
        /// Position at which the append begins.
        got: Lsn,
    },
    /// The bytes are not WAL of this cluster. Raised by the driver, which can read records.
    #[error("append does not continue the WAL of this log: {0}")]
    NotWal(String),
}

/// Why a copy does not accept its first members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BootstrapRefused {
    /// The copy knows its members, and they are others.
    #[error("timeline {0} has members already, and not these; a leader changes them: see members set")]
    Configured(TenantTimelineId),
    /// The copy was created for another log of this name.
    #[error("this copy was created for the log with birth {own}, these members make a log with birth {got}")]
    OtherBirth {
        /// Birth that the copy was created with.
        own: Digest,
        /// Hash of the members.
        got: Digest,
    },
    /// The list leaves this copy out.
    #[error("members do not list this copy, safekeeper {0}")]
    NotListed(CopyId),
    /// A member comes without its copy.
    #[error("replica_id of member {0} is missing: the creation of its copy answers it")]
    NoCopy(NodeId),
    /// The members break a rule that every node relies on.
    #[error(transparent)]
    Invalid(#[from] InvalidConfiguration),
}
