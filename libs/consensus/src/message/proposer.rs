//! Messages of a proposer.

use bytes::Bytes;
use wal_types::{Generation, Lsn, ProposerId, ReplicaId, SystemId, TenantTimelineId, Term, Tli};

use crate::configuration::Configuration;
use crate::lineage::ProtocolVersion;
use crate::term_history::{TermHistory, TliSwitch};

/// First message of a connection: names the log, the cluster and the campaign.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProposerGreeting {
    /// Protocol version of this connection.
    pub version: ProtocolVersion,
    /// The log.
    pub id: TenantTimelineId,
    /// `PG_VERSION_NUM` of the cluster.
    pub pg_version: u32,
    /// The cluster; zero when the proposer has none.
    pub system_id: SystemId,
    /// Bytes per segment, unchecked.
    pub segment_bytes: u32,
    /// PostgreSQL timeline of the proposer (version 3 does not carry it: 1).
    pub tli: Tli,
    /// The campaign (zeros in version 3).
    pub proposer_id: ProposerId,
    /// Configuration that the proposer knows (version 3 only: in `holdfast-2` leaders write it).
    pub configuration: Configuration,
}

/// Asks for the position of an acceptor; changes nothing there (`holdfast-2` only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PreVoteRequest {
    /// Generation under which the proposer acts.
    pub generation: Generation,
}

/// Asks for the vote of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VoteRequest {
    /// Generation under which the proposer acts (version 2: zero).
    pub generation: Generation,
    /// Term to vote for.
    pub term: Term,
    /// The campaign (zeros in version 3).
    pub proposer_id: ProposerId,
    /// The copy whose vote is meant (`holdfast-2` only).
    pub replica: ReplicaId,
}

/// Tells an acceptor that the sender leads a term, and where the log of the term begins to differ from its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProposerElected {
    /// Generation under which the proposer acts.
    pub generation: Generation,
    /// Term of the proposer.
    pub term: Term,
    /// Common point of both logs: the acceptor keeps its bytes below, and gets everything from here on.
    pub start_streaming_at: Lsn,
    /// The history that the acceptor adopts; ends with this term.
    pub history: TermHistory,
    /// First byte of the log (version 2 only).
    pub timeline_start_lsn: Lsn,
    /// Changes of PostgreSQL's timeline within the log (`holdfast-2` only).
    pub tli_switches: Vec<TliSwitch>,
    /// Configuration, decided anew under this term: the acceptor adopts it together with the history (`holdfast-2`
    /// only).
    pub configuration: Configuration,
    /// The copy that is meant (`holdfast-2` only).
    pub replica: ReplicaId,
    /// The copy is to be begun anew: everything below this position is committed, and no donor has what the copy lacks
    /// below (`holdfast-2` only).
    pub rebase: Option<Lsn>,
}

/// Most WAL bytes in one append: what the public protocol allows (16 pages of 8 KiB).
pub const APPEND_WAL_BYTES_MAX: usize = 128 * 1024;

/// WAL `[begin_lsn, begin_lsn + wal.len())`, at most [`APPEND_WAL_BYTES_MAX`] bytes; empty as a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppendRequest {
    /// Generation under which the proposer acts.
    pub generation: Generation,
    /// Term of the proposer.
    pub term: Term,
    /// Start of this term's own WAL (version 2 only; newer proposers send zero).
    pub epoch_start_lsn: Lsn,
    /// Position of the first byte of `wal`.
    pub begin_lsn: Lsn,
    /// Commit LSN that the proposer knows.
    pub commit_lsn: Lsn,
    /// The removal horizon (`truncate_lsn` is the public protocol's name for it; it truncates nothing).
    pub truncate_lsn: Lsn,
    /// The campaign (version 2 only).
    pub proposer_id: ProposerId,
    /// The bytes.
    pub wal: Bytes,
}

impl AppendRequest {
    /// Position behind the last byte, saturating.
    pub fn end_lsn(&self) -> Lsn {
        self.begin_lsn.advance(self.wal.len() as u64)
    }
}

/// Asks for the CRC-32C of `[from, to)` of a voter's log (`holdfast-2` only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChecksumRequest {
    /// Generation under which the proposer acts.
    pub generation: Generation,
    /// Term of the candidate; a node that has promised a higher term responds without a checksum.
    pub term: Term,
    /// First byte.
    pub from: Lsn,
    /// Position behind the last byte; at most one segment from `from`.
    pub to: Lsn,
}

/// The leader's next configuration (`holdfast-2` only). Accepted only from the connection that leads the term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigureRequest {
    /// Term of the leader.
    pub term: Term,
    /// Configuration that counts from now on.
    pub configuration: Configuration,
}

/// Asks for support of the leader's lease (`holdfast-2` only). A ticket is answered when it is received; no disk is waited
/// for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Term of the leader.
    pub term: Term,
    /// Number of the ticket: rises by one with each. The leader remembers when it sent it.
    pub number: u64,
}
