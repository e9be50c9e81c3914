//! [`Acceptor`]: a safekeeper's half of the protocol, as a pure state machine.
//!
//! It is told what arrived and what became durable, and answers with [`Effect`]s, to be carried out **in order**. The
//! order is what makes the protocol safe: a promise stands on disk before it is told, a dead proposer's tail is gone
//! before a new history is adopted. The acceptor assumes that effects succeed; a driver that fails to carry one out
//! must throw this acceptor away and start again from the disk.
//!
//! The driver is `wal_store::Replica`; the simulation and the model checker drive the same code.

mod effect;
mod refusal;

use std::collections::{BTreeMap, BTreeSet};

use wal_types::{Generation, Lsn, NodeId, SystemId, Term};

pub use self::effect::Effect;
pub use self::refusal::Refusal;

use crate::lineage::{Dialect, Lineage, ProtocolVersion};
use crate::message::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, ChecksumRequest, ChecksumResponse,
    HotStandbyFeedback, PreVoteRequest, PreVoteResponse, ProposerElected, ProposerGreeting, ProposerMessage,
    VoteRequest, VoteResponse,
};
use crate::state::AcceptorState;
use crate::term_history::{self, TermHistory};
use crate::{APPEND_WAL_BYTES_MAX, ConnectionId};

/// The connection that leads the current term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Owner {
    connection: ConnectionId,
    /// Where its next append must begin. Below `write_lsn` after a reconnect: those bytes are already here.
    next_begin: Lsn,
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
    /// End of what was handed out to be written.
    write_lsn: Lsn,
    /// End of the last durable record.
    flush_lsn: Lsn,
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
            lineage,
            persisted_commit: state.commit_lsn,
            persisted_horizon: state.horizon_lsn,
            state,
            write_lsn: log_end,
            flush_lsn: log_end,
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
            ProposerMessage::Elected(elected) => self.elected(from, elected),
            ProposerMessage::Append(append) => self.append(from, append),
            ProposerMessage::Checksum(request) => self.checksum(from, version, request),
            ProposerMessage::Configure(_) => Err(Refusal::Malformed("not yet")),
        }
    }

    /// The log is durable up to `durable`, its last record ends at `record_end`. Moves commit, then answers each
    /// connection that appended since the last call: exactly one response, whether or not anything moved.
    pub fn flushed(&mut self, durable: Lsn, record_end: Lsn) -> Vec<Effect> {
        debug_assert!(record_end <= durable && durable <= self.write_lsn);
        self.flush_lsn = self.flush_lsn.max(record_end.min(durable).min(self.write_lsn));
        self.state.commit_lsn = self.state.commit_lsn.max(self.commit_candidate.min(self.flush_lsn));
        let mut effects = Vec::new();
        // A proposer without a primary waits until a quorum *persisted* the commit of its term's start.
        let term_start = self.state.history.last().map_or(Lsn::MAX, |entry| entry.start);
        if self.state.commit_lsn >= term_start && self.persisted_commit < term_start {
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
        self.append_response(to)
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

    /// True when `message` may cut the log: it then needs room for the segment that the cut writes.
    pub fn may_truncate(&self, message: &ProposerMessage) -> bool {
        matches!(message, ProposerMessage::Elected(elected)
            if elected.term >= self.state.term && !self.follows(elected.term) && self.write_lsn > elected.start_streaming_at)
    }

    fn greeting(&mut self, from: ConnectionId, greeting: ProposerGreeting) -> Result<Vec<Effect>, Refusal> {
        let lineage = &self.lineage;
        if greeting.version.dialect() != lineage.dialect {
            return Err(Refusal::Dialect { expected: lineage.dialect });
        }
        if greeting.id != lineage.id {
            return Err(Refusal::OtherTimeline { expected: lineage.id, got: greeting.id });
        }
        if greeting.segment_bytes != lineage.segment_size.bytes() {
            return Err(Refusal::SegmentSize {
                expected: lineage.segment_size.bytes(),
                got: greeting.segment_bytes,
            });
        }
        let mut learnt = lineage.clone();
        if greeting.system_id != SystemId(0) {
            if lineage.system_id != SystemId(0) && lineage.system_id != greeting.system_id {
                return Err(Refusal::OtherCluster { expected: lineage.system_id, got: greeting.system_id });
            }
            learnt.system_id = greeting.system_id;
        }
        if greeting.pg_version != 0 {
            let major = greeting.pg_version / 10_000;
            if lineage.pg_version != 0 && lineage.pg_major() != major {
                return Err(Refusal::MajorVersion { expected: lineage.pg_major(), got: major });
            }
            learnt.pg_version = greeting.pg_version;
        }
        let newer = greeting.configuration.generation > self.state.configuration.generation;
        let adopts = newer && lineage.dialect == Dialect::Neon;
        if adopts && !greeting.configuration.sets().iter().flatten().any(|&member| member == self.node) {
            return Err(Refusal::NotAMember(greeting.configuration.generation));
        }

        let mut effects = Vec::new();
        if learnt != self.lineage {
            self.lineage = learnt.clone();
            effects.push(Effect::PersistLineage(learnt));
        }
        if adopts {
            self.state.configuration = greeting.configuration;
            effects.push(self.persist());
        }
        self.greeted.insert(from, greeting.version);
        let message = AcceptorGreeting {
            node_id: self.node,
            term: self.state.term,
            configuration: self.state.configuration.clone(),
            configuration_term: self.state.configuration_term,
        };
        effects.push(Effect::Reply { to: from, message: AcceptorMessage::Greeting(message) });
        Ok(effects)
    }

    fn pre_vote(
        &self,
        from: ConnectionId,
        version: ProtocolVersion,
        request: PreVoteRequest,
    ) -> Result<Vec<Effect>, Refusal> {
        own_version_only(version)?;
        self.check_generation(request.generation)?;
        let message = AcceptorMessage::PreVote(PreVoteResponse {
            generation: self.state.configuration.generation,
            term: self.state.term,
            flush_lsn: self.flush_lsn,
            commit_lsn: self.state.commit_lsn,
            start_lsn: self.lineage.start_lsn,
            history: self.local_history(),
            tli_switches: self.state.tli_switches.clone(),
            configuration: self.state.configuration.clone(),
            configuration_term: self.state.configuration_term,
            lost: self.state.lost.is_some(),
        });
        Ok(vec![Effect::Reply { to: from, message }])
    }

    /// A term is promised once. The same campaign may hear of its promise again; versions 2 and 3 name no campaign, so
    /// a repetition is answered, but not granted.
    fn vote(
        &mut self,
        from: ConnectionId,
        version: ProtocolVersion,
        request: VoteRequest,
    ) -> Result<Vec<Effect>, Refusal> {
        self.check_generation(request.generation)?;
        let campaign = (version == ProtocolVersion::Own).then_some(request.proposer_id);
        let mut effects = Vec::new();
        let mut vote_given = false;
        if request.term > self.state.term {
            self.enter_term(request.term);
            self.state.voted_for = campaign;
            effects.push(self.persist());
            vote_given = true;
        } else if request.term == self.state.term && campaign.is_some() && self.state.voted_for == campaign {
            self.owner = None;
            vote_given = true;
        }
        let own = version == ProtocolVersion::Own;
        let message = AcceptorMessage::Vote(VoteResponse {
            generation: self.state.configuration.generation,
            term: self.state.term,
            vote_given,
            flush_lsn: self.flush_lsn,
            truncate_lsn: if own { self.persisted_horizon } else { self.state.horizon_lsn },
            history: self.local_history(),
            timeline_start_lsn: if own { self.lineage.start_lsn } else { Lsn::INVALID },
            tli_switches: self.state.tli_switches.clone(),
            configuration: self.state.configuration.clone(),
            configuration_term: self.state.configuration_term,
            lost: self.state.lost.is_some(),
        });
        effects.push(Effect::Reply { to: from, message });
        Ok(effects)
    }

    fn elected(&mut self, from: ConnectionId, elected: ProposerElected) -> Result<Vec<Effect>, Refusal> {
        self.check_generation(elected.generation)?;
        if elected.term < self.state.term {
            // Deposed. It learns so from the answer to its first append.
            return Ok(Vec::new());
        }
        if elected.history.last().is_none_or(|last| last.term != elected.term) {
            return Err(Refusal::Malformed("the history of an elected proposer must end with its own term"));
        }
        if self.follows(elected.term) {
            return self.elected_again(from, elected);
        }
        let start = term_history::common_point(&elected.history, &self.local_history(), self.flush_lsn)
            .ok_or(Refusal::NoCommonPoint { flush_lsn: self.flush_lsn })?;
        if start != elected.start_streaming_at {
            return Err(Refusal::StartPoint { expected: start, got: elected.start_streaming_at });
        }
        if start < self.state.commit_lsn {
            return Err(Refusal::BelowCommit { start, commit_lsn: self.state.commit_lsn });
        }

        let mut effects = Vec::new();
        if elected.term > self.state.term {
            self.enter_term(elected.term);
            self.state.voted_for = None;
            effects.push(self.persist());
        }
        // The tail goes before the history comes: the other way round a crash between the two would present a dead
        // proposer's tail as this term's log.
        if self.write_lsn > start {
            effects.push(Effect::Truncate(start));
            self.write_lsn = start;
            self.flush_lsn = start;
        }
        self.state.history = elected.history;
        self.state.tli_switches = elected.tli_switches;
        effects.push(self.persist());
        self.owner = Some(Owner { connection: from, next_begin: start });
        Ok(effects)
    }

    /// The proposer of this term came back on another connection. The log is its log already, so nothing is cut and
    /// nothing that was acknowledged is taken back; what it sends again is skipped.
    fn elected_again(
        &mut self,
        from: ConnectionId,
        elected: ProposerElected,
    ) -> Result<Vec<Effect>, Refusal> {
        if elected.history != self.state.history {
            return Err(Refusal::TwoHistories(elected.term));
        }
        let start = elected.start_streaming_at;
        if start < self.state.commit_lsn {
            return Err(Refusal::BelowCommit { start, commit_lsn: self.state.commit_lsn });
        }
        if start > self.flush_lsn {
            return Err(Refusal::StartPoint { expected: self.flush_lsn, got: start });
        }
        self.owner = Some(Owner { connection: from, next_begin: start });
        Ok(Vec::new())
    }

    fn append(&mut self, from: ConnectionId, append: AppendRequest) -> Result<Vec<Effect>, Refusal> {
        self.check_generation(append.generation)?;
        if append.wal.len() > APPEND_WAL_BYTES_MAX {
            return Err(Refusal::Malformed("an append of more than 128 KiB"));
        }
        let Some(end) = append.begin_lsn.checked_add(append.wal.len() as u64) else {
            return Err(Refusal::Malformed("an append beyond the last position"));
        };
        if append.term < self.state.term {
            return Ok(vec![self.deposed_response(from)]);
        }
        let Some(owner) =
            self.owner.as_mut().filter(|owner| owner.connection == from && append.term == self.state.term)
        else {
            return Err(Refusal::NotElected { term: append.term, own: self.state.term });
        };
        if append.begin_lsn != owner.next_begin {
            return Err(Refusal::OutOfSequence { expected: owner.next_begin, got: append.begin_lsn });
        }
        owner.next_begin = end;
        self.commit_candidate = self.commit_candidate.max(append.commit_lsn);
        self.state.horizon_lsn = self.state.horizon_lsn.max(append.truncate_lsn.min(append.commit_lsn));
        self.owed.insert(from);
        let known = self.write_lsn.bytes_since(append.begin_lsn).min(append.wal.len() as u64) as usize;
        let wal = append.wal.slice(known..);
        if wal.is_empty() {
            return Ok(Vec::new());
        }
        let at = std::mem::replace(&mut self.write_lsn, end);
        Ok(vec![Effect::Write { at, wal }])
    }

    fn checksum(
        &self,
        from: ConnectionId,
        version: ProtocolVersion,
        request: ChecksumRequest,
    ) -> Result<Vec<Effect>, Refusal> {
        own_version_only(version)?;
        self.check_generation(request.generation)?;
        let ChecksumRequest { from: begin, to, .. } = request;
        let short = begin <= to && to.bytes_since(begin) <= self.lineage.segment_size.bytes().into();
        if !short {
            return Err(Refusal::Malformed("a checksum of more than one segment"));
        }
        let held = begin >= self.lineage.start_lsn && to <= self.flush_lsn && request.term >= self.state.term;
        if held {
            return Ok(vec![Effect::Checksum { reply_to: from, from: begin, to }]);
        }
        let message = AcceptorMessage::Checksum(ChecksumResponse { from: begin, to, crc32c: None });
        Ok(vec![Effect::Reply { to: from, message }])
    }

    fn check_generation(&self, got: Generation) -> Result<(), Refusal> {
        let expected = self.state.configuration.generation;
        if got == expected { Ok(()) } else { Err(Refusal::Generation { expected, got }) }
    }

    /// True when the history of `term` was already adopted.
    fn follows(&self, term: Term) -> bool {
        self.state.term == term && self.state.history.last().is_some_and(|last| last.term == term)
    }

    fn local_history(&self) -> TermHistory {
        self.state.history.up_to(self.flush_lsn)
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
        ProtocolVersion::Own => Ok(()),
        ProtocolVersion::V2 | ProtocolVersion::V3 => {
            Err(Refusal::Malformed("a message that this protocol version does not have"))
        }
    }
}
