//! Messages of an acceptor: responses to those of a proposer.

use wal_types::{CopyId, Digest, Generation, InstanceId, Lsn, NodeId, ReplicaId, Term};

use crate::configuration::Configuration;
use crate::term_history::{LogExtent, TermHistory, TliSwitch};

/// Response to a greeting.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AcceptorGreeting {
    /// The safekeeper.
    pub node_id: NodeId,
    /// Its copy of the log (`holdfast-2` only).
    pub replica: ReplicaId,
    /// Birth of the log; `None` as long as no one has listed its first members (`holdfast-2` only).
    pub birth: Option<Digest>,
    /// Highest term promised.
    pub term: Term,
    /// Newest configuration that this node accepted (version 2 does not carry it).
    pub configuration: Configuration,
    /// Term of the proposer that wrote `configuration` (`holdfast-2` only).
    pub configuration_term: Term,
}

/// Response to a pre-vote: the position of an acceptor (`holdfast-2` only).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PreVoteResponse {
    /// Generation of the acceptor's configuration.
    pub generation: Generation,
    /// Highest term promised.
    pub term: Term,
    /// End of the last durable record.
    pub flush_lsn: Lsn,
    /// Commit LSN that the acceptor knows.
    pub commit_lsn: Lsn,
    /// First byte that the node still holds.
    pub start_lsn: Lsn,
    /// Terms that wrote the log, up to `flush_lsn`.
    pub history: TermHistory,
    /// Changes of PostgreSQL's timeline within the log.
    pub tli_switches: Vec<TliSwitch>,
    /// Newest configuration that it accepted.
    pub configuration: Configuration,
    /// Term of the proposer that wrote `configuration`.
    pub configuration_term: Term,
    /// The node lacks WAL that it had acknowledged: neither its position nor its vote counts.
    pub lost: bool,
    /// What it heard of a leader.
    pub heard: LeaderHeard,
}

impl PreVoteResponse {
    /// True when the position says something about the end of the log: the node has not lost WAL, and it belongs to the log.
    pub fn counts(&self) -> bool {
        let is_unconfigured = self.configuration.is_unset() && self.history.entries().is_empty();
        !self.lost && !is_unconfigured
    }
}

/// What an acceptor heard of a leader (`holdfast-2` only). It counts tickets only: a recovery that hangs sends appends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LeaderHeard {
    /// Milliseconds since the last ticket; `None` when there was none since the start of the process.
    pub ago_ms: Option<u32>,
    /// The lease that this node may still support; `None` for none.
    pub lease: Option<Lease>,
}

/// Support of a leader's lease by one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Term of the leader.
    pub term: Term,
    /// Installation of its primary.
    pub instance: InstanceId,
    /// Milliseconds for which the node still counts as a support of the lease.
    pub left_ms: u32,
}

/// Response to a vote request, granted or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VoteResponse {
    /// Generation of the acceptor's configuration.
    pub generation: Generation,
    /// Highest term promised, after this request.
    pub term: Term,
    /// True when this campaign has the vote of the term.
    pub vote_given: bool,
    /// End of the last durable record. No older term can raise it any more.
    pub flush_lsn: Lsn,
    /// The removal horizon (`truncate_lsn` is the public protocol's name for it; it truncates nothing). All members hold
    /// the WAL below it, so histories are compacted up to this position, and no further.
    pub truncate_lsn: Lsn,
    /// The commit LSN on the node's disk. Every later leader holds the WAL below it, so logs may be compared from this
    /// position on (`holdfast-2` only).
    pub commit_lsn: Lsn,
    /// Terms that wrote the log, up to `flush_lsn`.
    pub history: TermHistory,
    /// First byte that the node still holds (version 2: a public acceptor sends zero; version 3 does not carry it).
    pub timeline_start_lsn: Lsn,
    /// Changes of PostgreSQL's timeline within the log (`holdfast-2` only).
    pub tli_switches: Vec<TliSwitch>,
    /// Newest configuration that it accepted (`holdfast-2` only).
    pub configuration: Configuration,
    /// Term of the proposer that wrote `configuration` (`holdfast-2` only).
    pub configuration_term: Term,
    /// The node lacks WAL that it had acknowledged: it grants no vote, and acknowledged WAL may lie above its position
    /// (`holdfast-2` only; the public versions see a vote that is not given).
    pub lost: bool,
    /// What it heard of a leader.
    pub heard: LeaderHeard,
}

impl VoteResponse {
    /// True when the vote counts.
    pub const fn is_granted(&self) -> bool {
        self.vote_given && !self.lost
    }

    /// True when the node holds no byte of the log and never held one.
    pub fn is_of_new_log(&self) -> bool {
        let is_empty = self.flush_lsn <= self.timeline_start_lsn && self.history.entries().is_empty();
        is_empty && !self.lost
    }

    /// Shape of the acceptor's log, for finding where it parts from the leader's.
    pub fn extent(&self) -> LogExtent {
        LogExtent {
            history: self.history.clone(),
            start: self.timeline_start_lsn,
            end: self.flush_lsn,
            agreed: self.truncate_lsn.max(self.commit_lsn),
        }
    }
}

/// Response to appends: the positions that are durable on an acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppendResponse {
    /// Generation of the acceptor's configuration.
    pub generation: Generation,
    /// Highest term promised; above the request's it means that the proposer was deposed, and the LSNs are zero.
    pub term: Term,
    /// End of the last durable record.
    pub flush_lsn: Lsn,
    /// The **persisted** commit LSN.
    pub commit_lsn: Lsn,
    /// First byte that the node still holds (`holdfast-2` only).
    pub oldest_lsn: Lsn,
    /// Oldest need of all standbys that read from this acceptor.
    pub hot_standby: HotStandbyFeedback,
    /// Progress of a page server; only dialect `neon` has them.
    pub pageserver: Option<PageserverFeedback>,
}

/// Oldest transactions that standbys still need; zeros for "none" (PostgreSQL docs, "hot_standby_feedback").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HotStandbyFeedback {
    /// Microseconds since 2000-01-01 of the newest feedback.
    pub timestamp: i64,
    /// Oldest transaction id (epoch in the high 32 bits).
    pub xmin: u64,
    /// The same for catalogs.
    pub catalog_xmin: u64,
}

/// Progress of a page server, sent along with append responses in dialect `neon`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageserverFeedback {
    /// Logical size of the database in bytes.
    pub current_timeline_size: u64,
    /// Received (`ps_writelsn`).
    pub last_received_lsn: Lsn,
    /// Durable on the page server's disk (`ps_flushlsn`).
    pub disk_consistent_lsn: Lsn,
    /// Durable in remote storage (`ps_applylsn`).
    pub remote_consistent_lsn: Lsn,
    /// Microseconds since 2000-01-01.
    pub reply_time: i64,
    /// Shard number; written only when above zero.
    pub shard_number: u32,
    /// The page server found damage; written only when true.
    pub corruption_detected: bool,
}

/// Response to a checksum request (`holdfast-2` only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChecksumResponse {
    /// First byte, as requested.
    pub from: Lsn,
    /// Position behind the last byte, as requested.
    pub to: Lsn,
    /// CRC-32C (Castagnoli) of the bytes; `None` when the node does not hold all of the range.
    pub crc32c: Option<u32>,
}

/// Response to a [`ConfigureRequest`](super::ConfigureRequest): what is durable on the acceptor (`holdfast-2` only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConfigureResponse {
    /// Highest term promised; above the request's it means that the proposer was deposed.
    pub term: Term,
    /// Generation of the configuration that the acceptor holds.
    pub generation: Generation,
}

/// Response to a [`Ticket`](super::Ticket) (`holdfast-2` only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TicketResponse {
    /// Highest term promised; above the ticket's it means that the leader was deposed and has no support here.
    pub term: Term,
    /// Number of the ticket.
    pub number: u64,
}

/// Response to a watch request: what the node knows, good for watching and not for deciding (`holdfast-2` only).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WatchResponse {
    /// The copy that answers.
    pub copy: CopyId,
    /// Highest term promised.
    pub term: Term,
    /// End of the last durable record.
    pub flush_lsn: Lsn,
    /// Commit LSN that the acceptor knows.
    pub commit_lsn: Lsn,
    /// First byte that the node still holds.
    pub oldest_lsn: Lsn,
    /// Newest configuration that it accepted.
    pub configuration: Configuration,
    /// Term of the proposer that wrote `configuration`.
    pub configuration_term: Term,
    /// The node lacks WAL that it had acknowledged.
    pub lost: bool,
    /// What it heard of a leader.
    pub heard: LeaderHeard,
}
