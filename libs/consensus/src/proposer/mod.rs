//! [`Proposer`]: the writer's half of the protocol, as a pure state machine for **one campaign and its term**.
//!
//! ```text
//! PreVoting --quorum answered--> Action::PreVoted --request_votes()--> Campaigning --quorum granted--> Action::Elected
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

mod change;
mod election;
mod membership;
mod peer;
mod status;
mod stream;
mod types;

use std::collections::BTreeMap;

use wal_types::{Lsn, NodeId, Term};

use self::membership::Membership;
use self::peer::Peer;
pub use self::peer::PeerState;
pub use self::types::{
    Action, CampaignPhase, ChangeRefused, ConfigurationChange, DonorRange, Election, LostTerm, PeerStatus,
    ProposerOptions,
};
use crate::configuration::Configuration;
use crate::lineage::ProtocolVersion;
use crate::message::{
    AcceptorMessage, AppendResponse, ChecksumRequest, ProposerGreeting, ProposerMessage, VoteResponse,
};
use crate::term_history::{TermHistory, TliSwitch};
use crate::wal_buffer::WalBuffer;

/// One campaign.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposer {
    options: ProposerOptions,
    phase: CampaignPhase,
    /// Zero until the campaign begins.
    term: Term,
    peers: BTreeMap<NodeId, Peer>,
    membership: Membership,
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
            phase: CampaignPhase::PreVoting,
            term: Term::ZERO,
            peers,
            membership: Membership::default(),
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
            AcceptorMessage::Configure(response) => self.configured(from, response),
        }
    }

    /// Asks for votes. Only after [`Action::PreVoted`].
    pub fn request_votes(&mut self) -> Result<(), LostTerm> {
        if self.phase != CampaignPhase::PreVoted {
            return Ok(());
        }
        let highest = self.peers.values().map(|peer| peer.term).fold(self.options.term_floor, Term::max);
        self.term = highest.next().ok_or(LostTerm::Exhausted)?;
        self.phase = CampaignPhase::Voting;
        let greeted: Vec<NodeId> = self.in_state(&PeerState::Greeted);
        greeted.into_iter().for_each(|node| self.request_vote(node));
        Ok(())
    }

    /// Begins to lead. Only after [`Action::Elected`], with the WAL below its `start` that the driver read from the
    /// primary (or an empty buffer at `start`); the next byte to [`Proposer::append`] is the one at its end.
    pub fn approve(&mut self, wal: WalBuffer) {
        if self.phase != CampaignPhase::Elected {
            return;
        }
        self.wal = wal;
        self.phase = CampaignPhase::Leading;
        let voted = self.in_state(&PeerState::Voted);
        voted.into_iter().for_each(|node| self.lead(node));
    }

    /// Asks `node`, which has voted, for a checksum of a part of its log. The answer comes as [`Action::Checksum`].
    pub fn request_checksum(&mut self, node: NodeId, from: Lsn, to: Lsn) {
        let request = ChecksumRequest { generation: self.membership.generation(), term: self.term, from, to };
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.outbox.push_back(ProposerMessage::Checksum(request));
        }
    }

    /// Where the campaign stands.
    pub const fn phase(&self) -> CampaignPhase {
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

    fn greeting(&self) -> ProposerMessage {
        ProposerMessage::Greeting(ProposerGreeting {
            version: ProtocolVersion::Holdfast1,
            id: self.options.id,
            pg_version: self.options.pg_version,
            system_id: self.options.system_id,
            segment_bytes: self.options.segment_size.bytes(),
            tli: self.options.tli.unwrap_or_default(),
            proposer_id: self.options.proposer_id,
            configuration: Configuration::default(),
        })
    }

    fn acknowledged(&mut self, from: NodeId, response: &AppendResponse) -> Result<Vec<Action>, LostTerm> {
        self.check_term(from, response.term)?;
        // Nobody can hold more of this term than exists of it.
        let possible =
            response.term == self.term && response.flush_lsn <= self.wal.end().max(self.term_start());
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| possible && peer.sent().is_some()) else {
            return Ok(self.reset(from));
        };
        peer.acked = peer.acked.max(response.flush_lsn);
        peer.persisted_commit = peer.persisted_commit.max(response.commit_lsn);
        // A position comes only from a node that adopted our history, and our configuration with it.
        if response.flush_lsn.is_valid() {
            peer.configured = peer.configured.max(Some(response.generation));
        }
        self.trim();
        Ok(self.advance())
    }

    fn check_term(&self, by: NodeId, term: Term) -> Result<(), LostTerm> {
        let own = self.term;
        let campaigning = !matches!(self.phase, CampaignPhase::PreVoting | CampaignPhase::PreVoted);
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

    fn sets(&self) -> Vec<Vec<NodeId>> {
        self.membership.sets(&self.options.safekeepers)
    }
}
