//! [`Acceptor`]: a safekeeper's half of the protocol, as a pure state machine.
//!
//! It is told what arrived and what became durable, and answers with [`Effect`]s, to be carried out **in order**. The
//! order is what makes the protocol safe: a promise stands on disk before it is told, a dead proposer's tail is gone
//! before a new history is adopted. The acceptor assumes that effects succeed; a driver that fails to carry one out
//! must throw this acceptor away and start again from the disk.
//!
//! The driver is `wal_store::Replica`; the simulation and the model checker drive the same code.

mod append;
mod configure;
mod effect;
mod elected;
mod greeting;
mod loss;
mod question;
mod refusal;
mod vote;

use std::collections::{BTreeMap, BTreeSet};

use wal_types::{Generation, Lsn, NodeId, Term};

pub use self::effect::Effect;
pub use self::refusal::Refusal;

use crate::ConnectionId;
use crate::lineage::{Lineage, ProtocolVersion};
use crate::message::{AcceptorMessage, AppendResponse, HotStandbyFeedback, ProposerMessage};
use crate::state::AcceptorState;
use crate::term_history::{LogExtent, TermHistory};

/// Most terms that a promise may skip.
const TERM_LEAP_MAX: u64 = 1 << 40;

/// The connection that leads the current term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Owner {
    connection: ConnectionId,
    /// Where its next append must begin. Below `write_lsn` after a reconnect: those bytes are already here.
    next_begin: Lsn,
    /// It has appended at least once, so `commit_candidate` is what it knows.
    heard: bool,
}

/// A safekeeper's consensus state for one log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acceptor {
    node: NodeId,
    lineage: Lineage,
    /// `commit_lsn` and `horizon_lsn` may be ahead of the disk, the rest never is.
    state: AcceptorState,
    persisted_commit: Lsn,
    persisted_horizon: Lsn,
    /// First byte that is still here.
    oldest_lsn: Lsn,
    /// End of what was handed out to be written.
    write_lsn: Lsn,
    /// End of the last durable record.
    flush_lsn: Lsn,
    /// What was written of a record does not fit what came for the rest of it.
    partial_record_rejected: bool,
    /// Highest commit position told by the proposer of this term; what exceeds `flush_lsn` waits here.
    commit_candidate: Lsn,
    greeted: BTreeMap<ConnectionId, ProtocolVersion>,
    owner: Option<Owner>,
    /// Connections with an append since the last `flushed`: each is owed one response.
    owed: BTreeSet<ConnectionId>,
}

impl Acceptor {
    /// An acceptor as the disk has it: `state` from the control file, the log ending with a record at `log_end`.
    pub fn new(node: NodeId, lineage: Lineage, state: AcceptorState, log_end: Lsn) -> Self {
        Self {
            node,
            oldest_lsn: lineage.start_lsn,
            lineage,
            persisted_commit: state.commit_lsn,
            persisted_horizon: state.horizon_lsn,
            state,
            write_lsn: log_end,
            flush_lsn: log_end,
            partial_record_rejected: false,
            commit_candidate: Lsn::INVALID,
            greeted: BTreeMap::new(),
            owner: None,
            owed: BTreeSet::new(),
        }
    }

    /// Decides what to do about a message. On a refusal nothing has changed.
    ///
    /// Before any message but an append the driver must have flushed what was written and called
    /// [`Acceptor::flushed`]: a vote must report everything that an older term could still have acknowledged.
    pub fn step(&mut self, from: ConnectionId, message: ProposerMessage) -> Result<Vec<Effect>, Refusal> {
        if let ProposerMessage::Greeting(greeting) = message {
            return self.greeting(from, greeting);
        }
        let version = *self.greeted.get(&from).ok_or(Refusal::NotGreeted)?;
        match message {
            ProposerMessage::Greeting(_) => Err(Refusal::Malformed("a second greeting")),
            ProposerMessage::PreVote(request) => self.pre_vote(from, version, request),
            ProposerMessage::Vote(request) => self.vote(from, version, request),
            ProposerMessage::Elected(elected) => self.elected(from, version, elected),
            ProposerMessage::Append(append) => self.append(from, version, append),
            ProposerMessage::Checksum(request) => self.checksum(from, version, request),
            ProposerMessage::Configure(request) => self.configure(from, version, request),
        }
    }

    /// The log is durable up to `durable`, its last record ends at `record_end`. Moves commit, then answers each
    /// connection that appended since the last call: exactly one response, whether or not anything moved.
    pub fn flushed(&mut self, durable: Lsn, record_end: Lsn) -> Vec<Effect> {
        self.flush_lsn = self.flush_lsn.max(record_end.min(durable).min(self.write_lsn));
        self.state.commit_lsn = self.state.commit_lsn.max(self.commit_candidate.min(self.flush_lsn));
        let mut effects = Vec::new();
        // A proposer without a primary waits until a quorum *persisted* the commit of its term's start.
        let term_start = self.state.history.last().map_or(Lsn::MAX, |entry| entry.start);
        let settled = self.state.commit_lsn >= term_start && self.persisted_commit < term_start;
        let regained = self.has_regained();
        if regained {
            self.state.lost = None;
        }
        if settled || regained {
            effects.push(self.persist());
        }
        for to in std::mem::take(&mut self.owed) {
            effects.push(self.append_response(to));
        }
        effects
    }

    /// Writes down commit and horizon when they moved. For the driver to call now and then, never inside a batch.
    pub fn checkpoint(&mut self) -> Option<Effect> {
        let moved =
            self.state.commit_lsn > self.persisted_commit || self.state.horizon_lsn > self.persisted_horizon;
        moved.then(|| self.persist())
    }

    /// The answer that a connection with an append gets while the append itself has to wait for disk space: it keeps
    /// the proposer from hanging up and promises nothing new.
    pub fn unchanged_response(&self, to: ConnectionId) -> Effect {
        // To anybody but the leader our positions would look like an acknowledgement of its log.
        if self.leads(to) { self.append_response(to) } else { self.deposed_response(to) }
    }

    /// The driver gave away everything below `oldest`, which no member needs. To be told again after a start.
    pub fn removed_below(&mut self, oldest: Lsn) {
        self.oldest_lsn = self.oldest_lsn.max(oldest.min(self.flush_lsn));
    }

    /// A record was refused of which a part is written already: one of both is damaged, perhaps at the donor that it came
    /// from. What is written was never acknowledged; it is cut when the leader comes back, or it would be kept for ever
    /// and whatever comes behind it be refused.
    pub fn reject_partial_record(&mut self) {
        self.partial_record_rejected = true;
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, connection: ConnectionId) {
        self.greeted.remove(&connection);
        self.owed.remove(&connection);
        self.owner = self.owner.filter(|owner| owner.connection != connection);
    }

    /// What the log is the log of.
    pub const fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// State, with commit and horizon as they are in memory.
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

    /// Commit position on disk.
    pub const fn persisted_commit_lsn(&self) -> Lsn {
        self.persisted_commit
    }

    /// Term of the last entry that the log reaches.
    pub fn last_log_term(&self) -> Term {
        self.state.history.last_log_term(self.flush_lsn)
    }

    /// The public versions have their configurations from elsewhere, so both sides must know the same. In our version
    /// it is the proposer who judges: it counts the votes, and what it may miss a voter tells it.
    fn check_generation(&self, version: ProtocolVersion, got: Generation) -> Result<(), Refusal> {
        let expected = self.state.configuration.generation;
        let fits = version == ProtocolVersion::Holdfast1 || got == expected;
        if fits { Ok(()) } else { Err(Refusal::Generation { expected, got }) }
    }

    /// Terms are taken one at a time. One that is far away is a mistake, and the last one would be the end of the log.
    fn check_leap(&self, got: Term) -> Result<(), Refusal> {
        let own = self.state.term;
        if got.0.saturating_sub(own.0) > TERM_LEAP_MAX { Err(Refusal::TermLeap { own, got }) } else { Ok(()) }
    }

    /// True when the history of `term` was already adopted.
    fn follows(&self, term: Term) -> bool {
        self.state.term == term && self.state.history.last().is_some_and(|last| last.term == term)
    }

    /// True when `connection` was elected in our term.
    fn leads(&self, connection: ConnectionId) -> bool {
        self.owner.is_some_and(|owner| owner.connection == connection)
    }

    fn local_history(&self) -> TermHistory {
        self.state.history.up_to(self.flush_lsn)
    }

    /// What this node can say about where its log parts from another.
    fn extent(&self) -> LogExtent {
        LogExtent {
            history: self.local_history(),
            start: self.oldest_lsn,
            end: self.flush_lsn,
            agreed: self.agreed_lsn(),
        }
    }

    /// Up to where this log is that of whoever is elected, whatever the histories say: up to the horizon; and all of it,
    /// when it is committed and yet ends before the history begins, as that of a new member does which was interrupted.
    fn agreed_lsn(&self) -> Lsn {
        let flush_lsn = self.flush_lsn;
        let is_before = self.state.history.entries().first().is_some_and(|first| first.start > flush_lsn);
        let is_committed = is_before && self.state.commit_lsn >= flush_lsn;
        if is_committed { self.persisted_horizon.max(flush_lsn) } else { self.persisted_horizon }
    }

    /// What the old term's proposer said about commits and who owned it no longer counts.
    fn enter_term(&mut self, term: Term) {
        self.state.term = term;
        self.owner = None;
        self.commit_candidate = Lsn::INVALID;
    }

    fn persist(&mut self) -> Effect {
        self.persisted_commit = self.state.commit_lsn;
        self.persisted_horizon = self.state.horizon_lsn;
        Effect::Persist(self.state.clone())
    }

    fn append_response(&self, to: ConnectionId) -> Effect {
        self.respond(to, self.flush_lsn, self.persisted_commit)
    }

    /// Tells a proposer of a lower term that it was deposed, and nothing else.
    fn deposed_response(&self, to: ConnectionId) -> Effect {
        self.respond(to, Lsn::INVALID, Lsn::INVALID)
    }

    fn respond(&self, to: ConnectionId, flush_lsn: Lsn, commit_lsn: Lsn) -> Effect {
        let message = AcceptorMessage::Append(AppendResponse {
            generation: self.state.configuration.generation,
            term: self.state.term,
            flush_lsn,
            commit_lsn,
            hot_standby: HotStandbyFeedback::default(),
            pageserver: None,
        });
        Effect::Reply { to, message }
    }
}

fn own_version_only(version: ProtocolVersion) -> Result<(), Refusal> {
    match version {
        ProtocolVersion::Holdfast1 => Ok(()),
        ProtocolVersion::V2 | ProtocolVersion::V3 => {
            Err(Refusal::Malformed("a message that this protocol version does not have"))
        }
    }
}
