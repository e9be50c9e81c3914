//! [`Acceptor`]: a safekeeper's half of the protocol, as a pure state machine.
//!
//! The driver reports which messages arrived and what became durable. The acceptor answers with [`Effect`]s, which the
//! driver carries out **in order**. The order makes the protocol safe: a vote is durable before it is reported, and a
//! dead proposer's tail is truncated before a new history is adopted. The acceptor assumes that effects succeed; a
//! driver that fails to carry one out must drop this acceptor and recover from the disk.
//!
//! The driver is `wal_store::Replica`; the simulation and the model checker drive the same code.

mod append;
mod append_response;
mod bootstrap;
mod checksum;
mod configure;
mod effect;
mod elected;
mod greeting;
mod pre_vote;
mod refusal;
mod repair;
mod vote;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use wal_types::{CopyId, Generation, Lsn, ReplicaId, Term};

pub use self::effect::Effect;
pub use self::refusal::{BootstrapRefused, Refusal};

use crate::ConnectionId;
use crate::lineage::{Lineage, ProtocolVersion};
use crate::message::ProposerMessage;
use crate::state::AcceptorState;
use crate::term_history::{LogExtent, TermHistory};

/// Most terms that one vote request or election may skip.
const TERM_LEAP_MAX: u64 = 1 << 40;

/// The connection that leads the current term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LeaderConnection {
    connection: ConnectionId,
    /// Where its next append must begin. Below `write_lsn` after a reconnect: the log already holds those bytes.
    next_begin: Lsn,
    /// The leader has appended at least once, so `commit_candidate` is its commit LSN.
    has_appended: bool,
}

/// Consensus state of one safekeeper for one log. Does no IO and never waits.
///
/// # Example
///
/// A vote is persisted before the reply is sent:
///
/// ```
/// use consensus::{
///     Acceptor, AcceptorState, Configuration, ConnectionId, Dialect, Effect, Lineage, Member,
///     ProposerGreeting, ProposerMessage, ProtocolVersion, VoteRequest,
/// };
/// use wal_types::{
///     CopyId, Generation, Lsn, NodeId, ProposerId, ReplicaId, SegmentSize, SystemId, TenantTimelineId, Term, Tli,
/// };
///
/// let start = Lsn(0x100_0000);
/// let lineage = Lineage {
///     id: TenantTimelineId::default(),
///     dialect: Dialect::Holdfast,
///     system_id: SystemId(7),
///     pg_version: 170_000,
///     segment_size: SegmentSize::POSTGRES_DEFAULT,
///     start_lsn: start,
///     start_tli: Tli::FIRST,
///     birth: None,
///     start_history: None,
/// };
/// let copy = CopyId { node: NodeId(1), replica: ReplicaId([9; 16]) };
/// let only = Member { id: copy.node, host: "sk1".to_owned(), port: 5454, replica: copy.replica };
/// let configuration = Configuration { members: vec![only], ..Configuration::default() };
/// let state = AcceptorState { configuration, ..AcceptorState::default() };
/// let mut acceptor = Acceptor::new(copy, lineage, state, start);
/// let (connection, proposer_id) = (ConnectionId(1), ProposerId([1; 16]));
///
/// let greeting = ProposerGreeting {
///     version: ProtocolVersion::Holdfast2,
///     id: TenantTimelineId::default(),
///     pg_version: 170_000,
///     system_id: SystemId(7),
///     segment_bytes: SegmentSize::POSTGRES_DEFAULT.bytes(),
///     tli: Tli::FIRST,
///     proposer_id,
///     configuration: Configuration::default(),
/// };
/// acceptor.step(connection, ProposerMessage::Greeting(greeting))?;
///
/// let vote =
///     VoteRequest { generation: Generation(0), term: Term(1), proposer_id, replica: copy.replica };
/// let effects = acceptor.step(connection, ProposerMessage::Vote(vote))?;
/// assert!(matches!(effects.as_slice(), [Effect::Persist(_), Effect::Reply { .. }]));
/// # Ok::<(), consensus::Refusal>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acceptor {
    copy: CopyId,
    lineage: Lineage,
    /// `commit_lsn` and `horizon_lsn` may be ahead of the disk, the rest never is.
    state: AcceptorState,
    persisted_commit: Lsn,
    persisted_horizon: Lsn,
    /// First byte that this node still holds.
    oldest_lsn: Lsn,
    /// End of what was handed out to be written.
    write_lsn: Lsn,
    /// End of the last durable record.
    flush_lsn: Lsn,
    /// The written part of a record does not fit the bytes that came for the rest of it.
    partial_record_rejected: bool,
    /// Highest commit LSN that the leader of this term reported. This node's own commit LSN follows it as far as
    /// `flush_lsn`.
    commit_candidate: Lsn,
    /// Protocol version of each connection that has greeted.
    versions: BTreeMap<ConnectionId, ProtocolVersion>,
    leader: Option<LeaderConnection>,
    /// Connections with an append since the last call of `flushed`: each gets one response.
    unanswered: BTreeSet<ConnectionId>,
}

impl Acceptor {
    /// Restores an acceptor from the disk: `state` is that of the control file, `log_end` the end of the log's last
    /// record.
    pub fn new(copy: CopyId, lineage: Lineage, state: AcceptorState, log_end: Lsn) -> Self {
        Self {
            copy,
            oldest_lsn: lineage.start_lsn,
            lineage,
            persisted_commit: state.commit_lsn,
            persisted_horizon: state.horizon_lsn,
            state,
            write_lsn: log_end,
            flush_lsn: log_end,
            partial_record_rejected: false,
            commit_candidate: Lsn::INVALID,
            versions: BTreeMap::new(),
            leader: None,
            unanswered: BTreeSet::new(),
        }
    }

    /// Decides about a message. After a refusal the acceptor is unchanged.
    ///
    /// Before any message but an append or a watch request the driver must have flushed what was written and called
    /// [`Acceptor::flushed`]: a vote must report everything that an older term could still have acknowledged.
    pub fn step(&mut self, from: ConnectionId, message: ProposerMessage) -> Result<Vec<Effect>, Refusal> {
        if let ProposerMessage::Greeting(greeting) = message {
            return self.handle_greeting(from, greeting);
        }
        let version = *self.versions.get(&from).ok_or(Refusal::NotGreeted)?;
        match message {
            ProposerMessage::Greeting(_) => Err(Refusal::Malformed("a second greeting")),
            ProposerMessage::PreVote(_) => self.handle_pre_vote(from, version),
            ProposerMessage::Vote(request) => self.handle_vote(from, version, request),
            ProposerMessage::Elected(elected) => self.handle_elected(from, version, elected),
            ProposerMessage::Append(append) => self.handle_append(from, version, append),
            ProposerMessage::Checksum(request) => self.handle_checksum(from, version, request),
            ProposerMessage::Configure(request) => self.handle_configure(from, version, request),
            ProposerMessage::Ticket(_) => Err(Refusal::Unsupported("support of leases")),
            ProposerMessage::Watch => self.handle_watch(from, version),
        }
    }

    /// Reports that the log is durable up to `durable` and that its last record ends at `record_end`. Moves the commit
    /// LSN, then responds to each connection that appended since the last call: exactly one response, whether or not a
    /// position moved.
    pub fn flushed(&mut self, durable: Lsn, record_end: Lsn) -> Vec<Effect> {
        self.flush_lsn = self.flush_lsn.max(record_end.min(durable).min(self.write_lsn));
        self.state.commit_lsn = self.state.commit_lsn.max(self.commit_candidate.min(self.flush_lsn));

        let mut effects = Vec::new();
        // A proposer without a primary waits until a quorum *persisted* the commit of its term's start.
        let term_start = self.state.history.last().map_or(Lsn::MAX, |entry| entry.start);
        let commits_term_start = self.state.commit_lsn >= term_start && self.persisted_commit < term_start;
        let repaired = self.is_repaired();
        if repaired {
            self.state.lost = None;
        }
        if commits_term_start || repaired {
            effects.push(self.persist());
        }

        for to in std::mem::take(&mut self.unanswered) {
            effects.push(self.append_response(to));
        }
        effects
    }

    /// Persists the commit LSN and the removal horizon if they moved. The driver calls it now and then, never inside a
    /// batch.
    pub fn checkpoint(&mut self) -> Option<Effect> {
        self.needs_checkpoint().then(|| self.persist())
    }

    /// True when the next [`Acceptor::checkpoint`] has something to persist.
    pub fn needs_checkpoint(&self) -> bool {
        self.state.commit_lsn > self.persisted_commit || self.state.horizon_lsn > self.persisted_horizon
    }

    /// Reports that the driver removed everything below `oldest`. All of it must be committed, and that must be persisted.
    /// Must be repeated after a restart.
    pub fn removed_below(&mut self, oldest: Lsn) {
        self.oldest_lsn = self.oldest_lsn.max(oldest.min(self.flush_lsn));
    }

    /// Reports that the bytes for the rest of a record were refused, while its first part is already written. Either part
    /// may be damaged, perhaps at the donor that it came from. The written part was never acknowledged. It is truncated
    /// when the leader reconnects; otherwise it would stay for ever, and everything behind it would be refused.
    pub fn reject_partial_record(&mut self) {
        self.partial_record_rejected = true;
    }

    /// Reports that the connection is closed.
    pub fn disconnected(&mut self, connection: ConnectionId) {
        self.versions.remove(&connection);
        self.unanswered.remove(&connection);
        self.leader = self.leader.filter(|leader| leader.connection != connection);
    }

    /// Identity of the log.
    pub const fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The state, with the commit LSN and the horizon as they are in memory.
    pub const fn state(&self) -> &AcceptorState {
        &self.state
    }

    /// End of what was handed out to be written.
    pub const fn write_lsn(&self) -> Lsn {
        self.write_lsn
    }

    /// End of the last durable record.
    pub const fn flush_lsn(&self) -> Lsn {
        self.flush_lsn
    }

    /// Commit LSN on the disk.
    pub const fn persisted_commit_lsn(&self) -> Lsn {
        self.persisted_commit
    }

    /// Term of the last history entry that the log reaches.
    pub fn last_log_term(&self) -> Term {
        self.state.history.last_log_term(self.flush_lsn)
    }

    /// In versions 2 and 3 configurations are decided outside of the protocol, so both sides must know the same generation.
    /// In `holdfast-2` the proposer checks the generation itself: the responses carry the acceptor's configuration.
    fn check_generation(&self, version: ProtocolVersion, got: Generation) -> Result<(), Refusal> {
        let expected = self.state.configuration.generation;
        let fits = version == ProtocolVersion::Holdfast2 || got == expected;
        if fits { Ok(()) } else { Err(Refusal::Generation { expected, got }) }
    }

    /// Terms rise one at a time, so a term far above is a mistake. Adopting it could use up the numbers: no election
    /// could follow the highest term.
    fn check_term_leap(&self, got: Term) -> Result<(), Refusal> {
        let own = self.state.term;
        if got.0.saturating_sub(own.0) > TERM_LEAP_MAX { Err(Refusal::TermLeap { own, got }) } else { Ok(()) }
    }

    /// True when this node has adopted the history of `term`.
    fn follows(&self, term: Term) -> bool {
        self.state.term == term && self.state.history.last().is_some_and(|last| last.term == term)
    }

    /// True when `connection` leads the current term.
    fn leads(&self, connection: ConnectionId) -> bool {
        self.leader.is_some_and(|leader| leader.connection == connection)
    }

    /// True when no one has told this copy who its peers are, and no leader has led it.
    pub fn is_unconfigured(&self) -> bool {
        self.state.configuration.is_unset() && self.state.history.entries().is_empty()
    }

    /// Refuses a message that means another copy than this one. The public versions name no copy.
    fn check_copy(&self, version: ProtocolVersion, meant: ReplicaId) -> Result<(), Refusal> {
        match version {
            ProtocolVersion::Holdfast2 if meant != self.copy.replica => {
                Err(Refusal::OtherCopy { own: self.copy, meant })
            }
            _ => Ok(()),
        }
    }

    fn local_history(&self) -> TermHistory {
        self.state.history.up_to(self.flush_lsn)
    }

    /// Shape of this log, for finding where it parts from another.
    fn log_extent(&self) -> LogExtent {
        LogExtent {
            history: self.local_history(),
            start: self.oldest_lsn,
            end: self.flush_lsn,
            agreed: self.agreed_lsn(),
        }
    }

    /// Position up to which this log equals the log of every proposer that can be elected; no history is needed to know
    /// that. No leader lacks what is committed, so it is the commit LSN, or the removal horizon. Both count as they are on
    /// the disk, because a restart between vote and election must not change the common point.
    fn agreed_lsn(&self) -> Lsn {
        self.persisted_horizon.max(self.known_commit())
    }

    /// The commit LSN on the disk, with one exception: a new member whose catch-up was interrupted may have a log that is
    /// committed and ends below the first entry of its history. Then it is the end of the log.
    fn known_commit(&self) -> Lsn {
        let flush_lsn = self.flush_lsn;
        let is_before = self.state.history.entries().first().is_some_and(|first| first.start > flush_lsn);
        let is_committed = is_before && self.state.commit_lsn >= flush_lsn;
        if is_committed { self.persisted_commit.max(flush_lsn) } else { self.persisted_commit }
    }

    /// Adopts the term, and drops the old term's leader and the commit LSN that this leader reported.
    fn enter_term(&mut self, term: Term) {
        self.state.term = term;
        self.leader = None;
        self.commit_candidate = Lsn::INVALID;
    }

    fn persist(&mut self) -> Effect {
        self.persisted_commit = self.state.commit_lsn;
        self.persisted_horizon = self.state.horizon_lsn;
        Effect::Persist(self.state.clone())
    }
}

/// Refuses messages that only version `holdfast-2` has.
fn require_holdfast2(version: ProtocolVersion) -> Result<(), Refusal> {
    match version {
        ProtocolVersion::Holdfast2 => Ok(()),
        ProtocolVersion::V2 | ProtocolVersion::V3 => {
            Err(Refusal::Malformed("protocol version has no such message"))
        }
    }
}
