//! [`Proposer`]: the writer's half of the protocol, as a pure state machine for **one campaign and its term**.
//!
//! ```text
//! Surveying --quorum answered--> Action::Surveyed --campaign()--> Campaigning --quorum granted--> Action::Elected
//!     --approve()--> Leading --append(), acknowledgements--> Action::Committed ...        any time: Err(LostTerm)
//! ```
//!
//! The two stops are for the driver: before a term is spent, and again between the votes and the first message that
//! makes anybody cut a log, it compares the safekeepers' logs with the primary's. A proposer is never reused: when the
//! term is lost or the primary's connection ends, the driver makes a new one with a new id.
//!
//! The driver hands messages in ([`Proposer::receive`]) and pulls what to send ([`Proposer::poll_send`]) as fast as each
//! connection takes it. A safekeeper that misses WAL older than the buffer is fed from another one
//! ([`Proposer::poll_fetch`], [`Proposer::fetched`]).

mod election;
mod peer;
mod types;

use std::collections::BTreeMap;

use bytes::Bytes;
use wal_types::{Generation, Lsn, NodeId, Term};

use self::peer::Peer;
pub use self::peer::PeerState;
pub use self::types::{
    Action, Change, ChangeRefused, Election, Fetch, LostTerm, PeerStatus, Phase, ProposerOptions,
};
use crate::configuration::Configuration;
use crate::lineage::ProtocolVersion;
use crate::message::{
    AcceptorMessage, AppendRequest, AppendResponse, ChecksumRequest, ProposerElected, ProposerGreeting,
    ProposerMessage, VoteResponse,
};
use crate::term_history::{self, TermHistory, TliSwitch};
use crate::wal_buffer::WalBuffer;
use crate::{APPEND_WAL_BYTES_MAX, quorum};

/// One campaign.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposer {
    options: ProposerOptions,
    phase: Phase,
    /// Zero until the campaign begins.
    term: Term,
    peers: BTreeMap<NodeId, Peer>,
    /// The newest configuration that a safekeeper told; none before the first greeting.
    configuration: Option<Configuration>,
    election: Option<Election>,
    history: TermHistory,
    tli_switches: Vec<TliSwitch>,
    wal: WalBuffer,
    commit_lsn: Lsn,
}

impl Proposer {
    /// A campaign that has not talked to anybody yet.
    pub fn new(options: ProposerOptions) -> Self {
        let peers = options.safekeepers.iter().map(|&id| (id, Peer::default())).collect();
        Self {
            options,
            phase: Phase::Surveying,
            term: Term::ZERO,
            peers,
            configuration: None,
            election: None,
            history: TermHistory::default(),
            tli_switches: Vec::new(),
            wal: WalBuffer::new(Lsn::INVALID),
            commit_lsn: Lsn::INVALID,
        }
    }

    /// A connection to `node` is open. Messages of an earlier connection must no longer be handed in.
    pub fn connected(&mut self, node: NodeId) {
        let greeting = self.greeting();
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.connected(greeting);
        }
    }

    /// The connection to `node` is gone.
    pub fn disconnected(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.disconnected();
        }
    }

    /// Takes a message in.
    pub fn receive(&mut self, from: NodeId, message: AcceptorMessage) -> Result<Vec<Action>, LostTerm> {
        if !self.peers.get(&from).is_some_and(Peer::is_connected) {
            return Ok(Vec::new());
        }
        match message {
            AcceptorMessage::Greeting(greeting) => self.greeted(from, greeting),
            AcceptorMessage::PreVote(response) => self.surveyed(from, response),
            AcceptorMessage::Vote(response) => self.voted(from, response),
            AcceptorMessage::Append(response) => self.acknowledged(from, &response),
            AcceptorMessage::Checksum(response) => Ok(vec![Action::Checksum { from, response }]),
            AcceptorMessage::Configure(_) => Ok(Vec::new()),
        }
    }

    /// Asks for votes. Only after [`Action::Surveyed`].
    pub fn campaign(&mut self) -> Result<(), LostTerm> {
        if self.phase != Phase::Surveyed {
            return Ok(());
        }
        let highest = self.peers.values().map(|peer| peer.term).fold(self.options.term_floor, Term::max);
        self.term = highest.next().ok_or(LostTerm::Exhausted)?;
        self.phase = Phase::Campaigning;
        let greeted: Vec<NodeId> = self.in_state(&PeerState::Greeted);
        greeted.into_iter().for_each(|node| self.request_vote(node));
        Ok(())
    }

    /// Begins to lead. Only after [`Action::Elected`], with the WAL below its `start` that the driver read from the
    /// primary (or an empty buffer at `start`); the next byte to [`Proposer::append`] is the one at its end.
    pub fn approve(&mut self, wal: WalBuffer) {
        if self.phase != Phase::Elected {
            return;
        }
        self.wal = wal;
        self.phase = Phase::Leading;
        let voted = self.in_state(&PeerState::Voted);
        voted.into_iter().for_each(|node| self.lead(node));
    }

    /// Asks `node`, which has voted, for a checksum of a part of its log. The answer comes as [`Action::Checksum`].
    pub fn ask_checksum(&mut self, node: NodeId, from: Lsn, to: Lsn) {
        let request = ChecksumRequest { generation: self.generation(), term: self.term, from, to };
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.outbox.push_back(ProposerMessage::Checksum(request));
        }
    }

    /// WAL from the primary. False when it does not continue the buffer.
    #[must_use]
    pub fn append(&mut self, at: Lsn, wal: Bytes) -> bool {
        let taken = self.wal.push(at, wal);
        self.trim();
        taken
    }

    /// True while the primary may be read further. What no safekeeper has flushed is never dropped, so a full buffer
    /// stops the reading; but one record may be larger than the buffer, and is acknowledged only as a whole.
    pub fn wants_wal(&self) -> bool {
        let end = self.wal.end();
        self.phase == Phase::Leading
            && (self.wal.len() < self.options.send_buffer_bytes_max
                || self.peers.values().any(|peer| peer.sent() == Some(end)))
    }

    /// The next message for `node`. The driver asks as often as the connection takes one.
    pub fn poll_send(&mut self, node: NodeId) -> Option<ProposerMessage> {
        let peer = self.peers.get_mut(&node)?;
        if let Some(message) = peer.outbox.pop_front() {
            return Some(message);
        }
        let sent = peer.sent()?;
        let wal = self.wal.read(sent, APPEND_WAL_BYTES_MAX);
        if wal.is_empty() && !peer.heartbeat {
            return None;
        }
        Some(self.append_message(node, sent, wal))
    }

    /// What `node` needs from another safekeeper before the buffer can serve it.
    pub fn poll_fetch(&self, node: NodeId) -> Option<Fetch> {
        let from = self.peers.get(&node)?.sent()?;
        if from >= self.wal.start() {
            return None;
        }
        let holds = |(id, peer): (&NodeId, &Peer)| {
            let donated = self.election.as_ref().filter(|e| e.donor == *id).map_or(Lsn::INVALID, |e| e.start);
            (peer.acked.max(donated), *id, matches!(peer.state, PeerState::Streaming { .. }))
        };
        let donors = self.peers.iter().map(holds);
        let (until, donor, _) = donors.filter(|&(end, id, live)| live && id != node && end > from).max()?;
        Some(Fetch { donor, from, until: until.min(self.wal.start()) })
    }

    /// Bytes that were fetched for `node`. False when they do not continue its stream.
    #[must_use]
    pub fn fetched(&mut self, node: NodeId, at: Lsn, wal: &Bytes) -> bool {
        if self.peers.get(&node).and_then(Peer::sent) != Some(at) {
            return false;
        }
        let mut sent = at;
        let mut rest = wal.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(APPEND_WAL_BYTES_MAX));
            let end = sent.advance(piece.len() as u64);
            let message = self.append_message(node, sent, piece);
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.outbox.push_back(message);
            }
            sent = end;
        }
        true
    }

    /// Makes an append, empty if need be, due for every follower: it proves that the proposer lives.
    pub fn heartbeat(&mut self) {
        self.peers.values_mut().filter(|peer| peer.sent().is_some()).for_each(|peer| peer.heartbeat = true);
    }

    /// Makes an append due for each follower that was not told the newest commit position.
    pub fn tell_commit(&mut self) {
        let commit = self.commit_lsn;
        let behind =
            self.peers.values_mut().filter(|peer| peer.sent().is_some() && peer.told_commit < commit);
        behind.for_each(|peer| peer.heartbeat = true);
    }

    /// Where the campaign stands.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The term; zero before the campaign.
    pub const fn term(&self) -> Term {
        self.term
    }

    /// The result of the votes, once there is one.
    pub const fn election(&self) -> Option<&Election> {
        self.election.as_ref()
    }

    /// Durable on a quorum under this term; zero until that includes everything below the term's start.
    pub const fn commit_lsn(&self) -> Lsn {
        self.commit_lsn
    }

    /// End of the WAL that was received.
    pub const fn received_lsn(&self) -> Lsn {
        self.wal.end()
    }

    /// True when a quorum has *persisted* that everything below this term's start is committed: the log can be read as
    /// committed even if this proposer vanishes now.
    pub fn start_is_settled(&self) -> bool {
        let start = self.election.as_ref().map_or(Lsn::MAX, |election| election.start);
        quorum::reached(&self.sets(), |node| {
            self.peers.get(&node).is_some_and(|peer| peer.persisted_commit >= start)
        })
    }

    /// True when a quorum follows, yet so many of them lack WAL that nobody connected has that nothing can ever be
    /// committed again. The primary still has it: the driver must begin a new term.
    pub fn is_stuck(&self) -> bool {
        let sets = self.sets();
        let streaming = |node: NodeId| self.peers.get(&node).and_then(Peer::sent);
        let served = |node: NodeId| {
            streaming(node).is_some_and(|sent| sent >= self.wal.start() || self.poll_fetch(node).is_some())
        };
        self.phase == Phase::Leading
            && quorum::reached(&sets, |node| streaming(node).is_some())
            && !quorum::reached(&sets, served)
    }

    /// True when `has` holds for a quorum of the voting sets.
    pub fn quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        quorum::reached(&self.sets(), has)
    }

    /// All safekeepers, by id.
    pub fn status(&self) -> Vec<PeerStatus> {
        let one = |(&id, peer): (&NodeId, &Peer)| {
            let told = peer
                .vote
                .as_ref()
                .map(|vote| vote.flush_lsn)
                .or(peer.surveyed.as_ref().map(|at| at.flush_lsn));
            PeerStatus {
                id,
                state: peer.state.clone(),
                flush_lsn: if peer.acked.is_valid() { peer.acked } else { told.unwrap_or_default() },
                commit_lsn: peer.persisted_commit,
                catching_up: peer.sent().is_some_and(|sent| sent < self.wal.start()),
            }
        };
        self.peers.iter().map(one).collect()
    }

    fn greeting(&self) -> ProposerMessage {
        ProposerMessage::Greeting(ProposerGreeting {
            version: ProtocolVersion::Own,
            id: self.options.id,
            pg_version: self.options.pg_version,
            system_id: self.options.system_id,
            segment_bytes: self.options.segment_size.bytes(),
            tli: self.options.tli.unwrap_or_default(),
            proposer_id: self.options.proposer_id,
            configuration: Configuration::default(),
        })
    }

    /// Tells a voter where the logs part, and streams to it from there.
    fn lead(&mut self, node: NodeId) {
        let generation = self.generation();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(vote) = peer.vote.as_ref() else { return };
        let Some(start) = term_history::common_point(&self.history, &vote.history, vote.flush_lsn) else {
            peer.state = PeerState::Unseeded;
            return;
        };
        peer.outbox.push_back(ProposerMessage::Elected(ProposerElected {
            generation,
            term: self.term,
            start_streaming_at: start,
            history: self.history.clone(),
            timeline_start_lsn: vote.timeline_start_lsn,
            tli_switches: self.tli_switches.clone(),
            configuration: self.configuration.clone().unwrap_or_default(),
        }));
        peer.state = PeerState::Streaming { sent: start };
        // Its first answer tells what it holds under this term.
        peer.heartbeat = true;
    }

    fn acknowledged(&mut self, from: NodeId, response: &AppendResponse) -> Result<Vec<Action>, LostTerm> {
        self.check_term(from, response.term)?;
        let start = self.election.as_ref().map_or(Lsn::MAX, |election| election.start);
        // Nobody can hold more of this term than exists of it.
        let possible = response.term == self.term && response.flush_lsn <= self.wal.end().max(start);
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| possible && peer.sent().is_some()) else {
            return Ok(self.reset(from));
        };
        peer.acked = peer.acked.max(response.flush_lsn);
        peer.persisted_commit = peer.persisted_commit.max(response.commit_lsn);
        self.trim();
        let acked = |node: NodeId| self.peers.get(&node).map_or(Lsn::INVALID, |peer| peer.acked);
        let commit = quorum::committed(&self.sets(), start, acked);
        if commit <= self.commit_lsn {
            return Ok(Vec::new());
        }
        self.commit_lsn = commit;
        Ok(vec![Action::Committed(commit)])
    }

    /// An append for `node`, which counts as sent.
    fn append_message(&mut self, node: NodeId, begin_lsn: Lsn, wal: Bytes) -> ProposerMessage {
        let truncate_lsn = self.agreed_lsn();
        let append = AppendRequest {
            generation: self.generation(),
            term: self.term,
            epoch_start_lsn: Lsn::INVALID,
            begin_lsn,
            commit_lsn: self.commit_lsn,
            truncate_lsn,
            proposer_id: self.options.proposer_id,
            wal,
        };
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.state = PeerState::Streaming { sent: append.end_lsn() };
            peer.told_commit = self.commit_lsn;
            peer.heartbeat = false;
        }
        ProposerMessage::Append(append)
    }

    /// Everything below is on all members and committed.
    fn agreed_lsn(&self) -> Lsn {
        let acked = |node: NodeId| self.peers.get(&node).map_or(Lsn::INVALID, |peer| peer.acked);
        let lowest = self.sets().into_iter().flatten().map(acked).min().unwrap_or_default();
        lowest.min(self.commit_lsn)
    }

    /// Drops from the buffer what every member has, and beyond its size what at least one safekeeper has.
    fn trim(&mut self) {
        let acked = || self.peers.values().map(|peer| peer.acked);
        let everyone = acked().min().unwrap_or_default();
        let anyone = acked().max().unwrap_or_default();
        let oldest_wanted = Lsn(self.wal.end().0.saturating_sub(self.options.send_buffer_bytes_max));
        self.wal.drop_below(everyone.max(oldest_wanted.min(anyone)));
    }

    fn check_term(&self, by: NodeId, term: Term) -> Result<(), LostTerm> {
        let own = self.term;
        let campaigning = !matches!(self.phase, Phase::Surveying | Phase::Surveyed);
        if campaigning && term > own { Err(LostTerm::Deposed { by, term, own }) } else { Ok(()) }
    }

    fn expect(&mut self, node: NodeId, state: &PeerState) -> Option<&mut Peer> {
        self.peers.get_mut(&node).filter(|peer| peer.state == *state)
    }

    fn reset(&mut self, node: NodeId) -> Vec<Action> {
        self.disconnected(node);
        vec![Action::Reset(node)]
    }

    fn in_state(&self, state: &PeerState) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.state == *state).map(|(&id, _)| id).collect()
    }

    fn vote_of(&self, node: NodeId) -> Option<&VoteResponse> {
        self.peers.get(&node).and_then(|peer| peer.vote.as_ref())
    }

    /// The generation that this proposer acts under.
    fn generation(&self) -> Generation {
        self.configuration.as_ref().map_or(Generation::default(), |configuration| configuration.generation)
    }

    /// The voting sets: the configuration's, or simply everybody where nothing is managed.
    fn sets(&self) -> Vec<Vec<NodeId>> {
        let sets = self.configuration.as_ref().map(Configuration::sets).unwrap_or_default();
        if sets.is_empty() { vec![self.options.safekeepers.clone()] } else { sets }
    }
}
