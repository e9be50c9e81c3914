//! [`Node`]: an acceptor with its disk. It carries out effects in order, as the WAL store does.
//!
//! A write and its flush are one step, because no message is sent between them. A crash may come after any effect; then
//! the node restarts from its disk. Faults of the disk are not modelled here; the simulation has them.

use consensus::{
    Acceptor, AcceptorMessage, AcceptorState, ConnectionId, Dialect, Effect, Lineage, ProposerMessage,
    TermHistory,
};
use wal_types::{CopyId, Lsn, NodeId, ReplicaId, Term, Tli};

use crate::coverage::{Coverage, Event};
use crate::invariant::Invariant;
use crate::names::{LOG, PG_VERSION, SYSTEM_ID};
use crate::record::{Record, SEGMENT_SIZE, START, from_wal, lsn, records_below};
use crate::shared::Fingerprinted;
use crate::symmetry::Fingerprint;

/// A safekeeper.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    id: NodeId,
    pub(crate) acceptor: Acceptor,
    /// Content of the control file.
    disk: AcceptorState,
    /// The durable log.
    log: Vec<Record>,
    /// The term that is being explored, where one term follows the other.
    pub(crate) current_term: u64,
    /// The node may crash or be connected to again, so it matters what of its state is on its disk: a vote reports the
    /// persisted removal horizon.
    disk_matters: bool,
}

/// Result of delivering a message to a node.
pub(crate) enum Delivery {
    /// The acceptor handled it; these are the replies.
    Replies(Vec<(ConnectionId, AcceptorMessage)>),
    /// The acceptor refused it: its connection must be closed.
    Refused,
    /// The node crashed and restarted: all its connections are gone.
    Crashed,
}

impl Node {
    /// A node with an empty log and this control file.
    pub(crate) fn new(id: NodeId, disk: AcceptorState, disk_matters: bool) -> Self {
        Self { id, acceptor: acceptor(id, &disk, 0), disk, log: Vec::new(), current_term: 0, disk_matters }
    }

    /// The durable log.
    pub(crate) fn log(&self) -> &[Record] {
        &self.log
    }

    /// True when the durable log begins with `records`.
    pub(crate) fn holds(&self, records: &[Record]) -> bool {
        self.log.starts_with(records)
    }

    /// The node's state as other checks can compare it: without its promises, and with its records named by `name`.
    pub(crate) fn held(&self, name: impl Fn(usize, Record) -> Option<u64>) -> impl std::hash::Hash {
        let state = self.acceptor.state().clone();
        let log: Vec<Option<u64>> =
            self.log.iter().enumerate().map(|(index, record)| name(index, *record)).collect();
        (AcceptorState { term: Term::ZERO, voted_for: None, ..state }, log)
    }

    /// Handles a message and carries out its effects, or crashes after `effects_max` effects.
    pub(crate) fn receive(
        &mut self,
        from: ConnectionId,
        message: ProposerMessage,
        effects_max: usize,
        coverage: &Coverage,
    ) -> Result<Delivery, Invariant> {
        let is_append = matches!(message, ProposerMessage::Append(_));
        let known_commit = self.acceptor.state().commit_lsn;
        let mut effects = match self.acceptor.step(from, message) {
            Ok(effects) => effects,
            Err(_) => {
                coverage.count(Event::Refused);
                return Ok(Delivery::Refused);
            }
        };

        let mut budget = effects_max;
        let mut replies = Vec::new();
        let mut done = self.carry_out(&effects, known_commit, &mut budget, &mut replies, coverage)?;
        if done && is_append {
            let end = lsn(self.log.len());
            effects = self.acceptor.flushed(end, end);
            done = self.carry_out(&effects, known_commit, &mut budget, &mut replies, coverage)?;
        }

        if self.acceptor.state().commit_lsn < known_commit {
            return Err(Invariant::NodeKeepsCommittedBytes);
        }
        if done {
            return Ok(Delivery::Replies(replies));
        }

        self.restart();
        coverage.count(Event::CrashedWithin);
        Ok(Delivery::Crashed)
    }

    /// Carries out effects in order; false when the node crashes first.
    fn carry_out(
        &mut self,
        effects: &[Effect],
        known_commit: Lsn,
        budget: &mut usize,
        replies: &mut Vec<(ConnectionId, AcceptorMessage)>,
        coverage: &Coverage,
    ) -> Result<bool, Invariant> {
        for effect in effects {
            let Some(left) = budget.checked_sub(1) else { return Ok(false) };
            *budget = left;
            match effect {
                Effect::Persist(state) => self.disk = state.clone(),
                Effect::Truncate(at) => {
                    if *at < known_commit {
                        return Err(Invariant::NodeKeepsCommittedBytes);
                    }
                    coverage.count(Event::Truncated);
                    self.log.truncate(records_below(*at));
                }
                Effect::Write { at, wal } => {
                    if *at != lsn(self.log.len()) {
                        return Err(Invariant::LogHasNoHoles);
                    }
                    self.log.extend(from_wal(wal));
                }
                Effect::Reply { to, message } => {
                    if !self.is_durable(message) {
                        return Err(Invariant::PromiseIsDurable);
                    }
                    replies.push((*to, message.clone()));
                }
                // The writer compares the bytes itself, and a log of dialect `holdfast` knows its cluster from the
                // start.
                Effect::Checksum { .. } | Effect::PersistLineage(_) => {}
            }
        }
        Ok(true)
    }

    /// True when the disk has everything that `message` promises.
    fn is_durable(&self, message: &AcceptorMessage) -> bool {
        let held = lsn(self.log.len());
        match message {
            AcceptorMessage::Vote(vote) => {
                let promised = self.disk.term == vote.term
                    && (!vote.vote_given || self.disk.voted_for == self.acceptor.state().voted_for);
                promised && vote.flush_lsn <= held
            }
            AcceptorMessage::Append(response) => {
                self.disk.term == response.term
                    && response.flush_lsn <= held
                    && response.commit_lsn <= self.disk.commit_lsn
            }
            AcceptorMessage::Configure(_) => {
                let known = self.acceptor.state();
                self.disk.configuration == known.configuration
                    && self.disk.configuration_term == known.configuration_term
            }
            _ => true,
        }
    }

    /// Undoes the promise of a term for which the node has done nothing else. The promise had persisted the complete
    /// state.
    pub(crate) fn undo_promise(&mut self) {
        let state = self.acceptor.state().clone();
        self.disk = AcceptorState { term: Term(state.term.0 - 1), voted_for: None, ..state };
        self.restart();
    }

    /// Restarts from the disk.
    pub(crate) fn restart(&mut self) {
        self.acceptor = acceptor(self.id, &self.disk, self.log.len());
    }

    /// True when a restart would change the acceptor's state.
    pub(crate) fn has_unpersisted_state(&self) -> bool {
        *self.acceptor.state() != self.disk
    }

    /// Persists state that may be persisted late.
    pub(crate) fn checkpoint(&mut self) {
        if let Some(Effect::Persist(state)) = self.acceptor.checkpoint() {
            self.disk = state;
        }
    }
}

impl Fingerprinted for Node {
    /// For a node that is finished with its term only facts that a later term can learn count. Its term is not one of
    /// them, because each later term is higher. The first request of a later term makes it persist all its state.
    fn fingerprint(&self) -> Fingerprint {
        let state = self.acceptor.state();
        if state.term.0 >= self.current_term && self.disk_matters {
            return Fingerprint::of_node(self);
        }
        if state.term.0 >= self.current_term {
            // For a node that never restarts and votes once a term, the time of persisting does not matter, so everything
            // counts as persisted.
            let mut written = self.acceptor.clone();
            let _ = written.checkpoint();
            return Fingerprint::of_node(&(written, &self.log));
        }
        let on_disk = (self.disk.commit_lsn, self.disk.horizon_lsn, self.disk.term);
        let on_disk = self.disk_matters.then_some(on_disk);
        let left = AcceptorState { term: Term::ZERO, voted_for: None, ..state.clone() };
        Fingerprint::of_node(&(left, on_disk, &self.log))
    }
}

fn acceptor(id: NodeId, disk: &AcceptorState, records: usize) -> Acceptor {
    let lineage = Lineage {
        birth: None,
        start_history: None,
        id: LOG,
        dialect: Dialect::Holdfast,
        system_id: SYSTEM_ID,
        pg_version: PG_VERSION,
        segment_size: SEGMENT_SIZE,
        start_lsn: START,
        start_tli: Tli::FIRST,
    };
    Acceptor::new(CopyId { node: id, replica: ReplicaId::default() }, lineage, disk.clone(), lsn(records))
}

/// The term that wrote a record, as far as the history still tells.
pub(crate) fn term_of(history: &TermHistory, record: usize) -> Option<u64> {
    history.entries().iter().rev().find(|entry| entry.start <= lsn(record)).map(|entry| entry.term.0)
}
