//! What proposers and acceptors say to each other, the same values for all protocol versions.
//!
//! A field that a version does not carry is filled with its "none" value by that version's codec and ignored by the
//! acceptor for connections of that version.

use bytes::Bytes;
use wal_types::{Generation, Lsn, NodeId, ProposerId, SystemId, TenantTimelineId, Term, Tli};

use crate::configuration::Configuration;
use crate::lineage::ProtocolVersion;
use crate::term_history::{LogExtent, TermHistory, TliSwitch};

/// From a proposer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProposerMessage {
    /// First message of a connection.
    Greeting(ProposerGreeting),
    /// "Where do you stand?" Changes nothing. Own version only.
    PreVote(PreVoteRequest),
    /// "Promise me this term."
    Vote(VoteRequest),
    /// "I lead this term; cut your log and follow."
    Elected(ProposerElected),
    /// WAL, or nothing but the newest commit position.
    Append(AppendRequest),
    /// "What is the checksum of this part of your log?" Own version only.
    Checksum(ChecksumRequest),
    /// "From now on these vote." Own version only.
    Configure(ConfigureRequest),
}

/// From an acceptor. Each is an answer; an acceptor never speaks first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AcceptorMessage {
    /// To a greeting.
    Greeting(AcceptorGreeting),
    /// To a pre-vote.
    PreVote(PreVoteResponse),
    /// To a vote request.
    Vote(VoteResponse),
    /// To appends.
    Append(AppendResponse),
    /// To a checksum request.
    Checksum(ChecksumResponse),
    /// To a configuration.
    Configure(ConfigureResponse),
}

/// Who wants to write, and which log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProposerGreeting {
    /// What this connection speaks.
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
    /// Zeros in version 3.
    pub proposer_id: ProposerId,
    /// What the proposer believes about membership (version 2 does not carry it).
    pub configuration: Configuration,
}

/// Answer to a greeting.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AcceptorGreeting {
    /// Who answers.
    pub node_id: NodeId,
    /// Highest term promised.
    pub term: Term,
    /// What this node knows about membership (version 2 does not carry it).
    pub configuration: Configuration,
    /// Term of the proposer that wrote `configuration`. Own version only.
    pub configuration_term: Term,
}

/// Asks for the position of an acceptor without a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PreVoteRequest {
    /// Generation under which the proposer acts.
    pub generation: Generation,
}

/// Where an acceptor stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PreVoteResponse {
    /// Generation of the acceptor's configuration.
    pub generation: Generation,
    /// Highest term promised.
    pub term: Term,
    /// End of the last durable record.
    pub flush_lsn: Lsn,
    /// Known to be committed.
    pub commit_lsn: Lsn,
    /// First byte of the log.
    pub start_lsn: Lsn,
    /// Who wrote what, up to `flush_lsn`.
    pub history: TermHistory,
    /// PostgreSQL timelines of the log.
    pub tli_switches: Vec<TliSwitch>,
    /// The newest configuration that it accepted.
    pub configuration: Configuration,
    /// Term of the proposer that wrote `configuration`.
    pub configuration_term: Term,
    /// It misses WAL that it had acknowledged: neither its position nor its vote counts.
    pub lost: bool,
}

/// Asks for the promise of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VoteRequest {
    /// Generation under which the proposer acts (version 2: zero).
    pub generation: Generation,
    /// The term.
    pub term: Term,
    /// The campaign (zeros in version 3).
    pub proposer_id: ProposerId,
}

/// Answer to a vote request, granted or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VoteResponse {
    /// Generation of the acceptor's configuration.
    pub generation: Generation,
    /// Highest term promised, after this request.
    pub term: Term,
    /// True when the promise is this campaign's.
    pub vote_given: bool,
    /// End of the last durable record. No older term can raise it any more.
    pub flush_lsn: Lsn,
    /// Below it no member needs anything from another.
    pub truncate_lsn: Lsn,
    /// Who wrote what, up to `flush_lsn`.
    pub history: TermHistory,
    /// First byte of the log (version 2: the public acceptor sends zero; version 3 does not carry it).
    pub timeline_start_lsn: Lsn,
    /// PostgreSQL timelines of the log. Own version only.
    pub tli_switches: Vec<TliSwitch>,
    /// The newest configuration that it accepted. Own version only.
    pub configuration: Configuration,
    /// Term of the proposer that wrote `configuration`. Own version only.
    pub configuration_term: Term,
    /// It misses WAL that it had acknowledged, so it grants nothing and its position is no bound. Own version only;
    /// the public versions see a vote that is not given.
    pub lost: bool,
}

impl VoteResponse {
    /// True when the vote counts.
    pub const fn is_granted(&self) -> bool {
        self.vote_given && !self.lost
    }

    /// True when the node has no byte of the log and never had one.
    pub fn is_of_new_log(&self) -> bool {
        let is_empty = self.flush_lsn <= self.timeline_start_lsn && self.history.entries().is_empty();
        is_empty && !self.lost
    }

    /// What the answer tells about where this log parts from the leader's.
    pub fn extent(&self) -> LogExtent {
        LogExtent {
            history: self.history.clone(),
            start: self.timeline_start_lsn,
            end: self.flush_lsn,
            agreed: self.truncate_lsn,
        }
    }
}

/// The winner of a term tells an acceptor where to begin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProposerElected {
    /// Generation under which the proposer acts.
    pub generation: Generation,
    /// Its term.
    pub term: Term,
    /// The acceptor keeps what is below and takes what comes from here on.
    pub start_streaming_at: Lsn,
    /// The history that the acceptor adopts; ends with this term.
    pub history: TermHistory,
    /// First byte of the log (version 2 only).
    pub timeline_start_lsn: Lsn,
    /// PostgreSQL timelines of the log. Own version only.
    pub tli_switches: Vec<TliSwitch>,
    /// Who votes, decided anew under this term: the acceptor takes it together with the history. Own version only.
    pub configuration: Configuration,
}

/// WAL `[begin_lsn, begin_lsn + wal.len())`, at most [`crate::APPEND_WAL_BYTES_MAX`] bytes; empty as a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppendRequest {
    /// Generation under which the proposer acts.
    pub generation: Generation,
    /// Its term.
    pub term: Term,
    /// Start of this term's own WAL (version 2 only; newer proposers send zero).
    pub epoch_start_lsn: Lsn,
    /// Position of the first byte of `wal`.
    pub begin_lsn: Lsn,
    /// Committed, as far as the proposer knows.
    pub commit_lsn: Lsn,
    /// Below it no member needs anything from another.
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

/// What is durable on an acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppendResponse {
    /// Generation of the acceptor's configuration.
    pub generation: Generation,
    /// Highest term promised; above the request's it means that the proposer was deposed, and the LSNs are zero.
    pub term: Term,
    /// End of the last durable record.
    pub flush_lsn: Lsn,
    /// The **persisted** commit position.
    pub commit_lsn: Lsn,
    /// Aggregate of the standbys that read here.
    pub hot_standby: HotStandbyFeedback,
    /// Progress of a page server; only dialect `neon` has them.
    pub pageserver: Option<PageserverFeedback>,
}

/// Oldest transactions that standbys still need; zeros for "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HotStandbyFeedback {
    /// Microseconds since 2000-01-01 of the newest feedback.
    pub timestamp: i64,
    /// Oldest transaction (epoch in the high 32 bits).
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
    /// Which shard; written only when above zero.
    pub shard_number: u32,
    /// The page server found damage; written only when true.
    pub corruption_detected: bool,
}

/// Asks for the CRC-32C of `[from, to)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChecksumRequest {
    /// Generation under which the proposer acts.
    pub generation: Generation,
    /// The term whose vote the asker holds; a node that promised a higher one answers nothing useful.
    pub term: Term,
    /// First byte.
    pub from: Lsn,
    /// Behind the last byte; at most one segment from `from`.
    pub to: Lsn,
}

/// The checksum, or `None` when the node does not hold all of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChecksumResponse {
    /// As asked.
    pub from: Lsn,
    /// As asked.
    pub to: Lsn,
    /// CRC-32C (Castagnoli) of the bytes.
    pub crc32c: Option<u32>,
}

/// The leader's next configuration. Accepted only from the connection that leads the term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigureRequest {
    /// The leader's term.
    pub term: Term,
    /// Who votes from now on.
    pub configuration: Configuration,
}

/// What is durable on an acceptor after a [`ConfigureRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConfigureResponse {
    /// Highest term promised; above the request's it means that the proposer was deposed.
    pub term: Term,
    /// Generation of the configuration that it holds.
    pub generation: Generation,
}
