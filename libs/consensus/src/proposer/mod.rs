//! [`Proposer`]: the writer's half of the protocol, as a pure state machine for **one campaign and its term**.
//!
//! ```text
//! PreVoting --quorum responded--> Action::PreVoted --request_votes()--> Voting --quorum granted--> Action::Elected
//!     --approve()--> Leading --append(), acknowledgements--> Action::Committed ...        any time: Err(LostTerm)
//! ```
//!
//! The campaign stops twice for its driver: before a term is spent, and again between the votes and the first message
//! that makes an acceptor truncate its log. At both stops the driver checks that the primary continues the safekeepers'
//! log. The first check compares positions and timelines, the second compares bytes as well.
//! A proposer is never reused: when the term is lost or the primary's connection ends, the driver makes a new proposer
//! with a new id.
//!
//! The driver hands messages in ([`Proposer::receive`]) and pulls what to send ([`Proposer::poll_send`]) as fast as each
//! connection takes it. A safekeeper that lacks WAL older than the buffer is fed from a donor ([`Proposer::poll_fetch`],
//! [`Proposer::fetched`]).

mod abandon;
mod action;
mod change;
mod commit;
mod configuration_change;
mod election;
mod lost_term;
mod membership;
mod options;
mod peer;
mod status;
mod stream;

use std::collections::BTreeMap;

use wal_types::{CopyId, Lsn, NodeId, Term};

pub use self::action::{Action, DonorRange, Election, compare_from};
pub use self::configuration_change::{ChangeRefused, ConfigurationChange};
pub use self::lost_term::LostTerm;
use self::membership::Membership;
pub use self::options::ProposerOptions;
use self::peer::Peer;
pub use self::peer::{ForeignCopy, PeerState, PeerStatus};
use crate::configuration::Configuration;
use crate::lineage::ProtocolVersion;
use crate::message::{AcceptorMessage, ChecksumRequest, ProposerGreeting, ProposerMessage};
use crate::term_history::{TermHistory, TliSwitch};
use crate::wal_buffer::WalBuffer;

/// Phase of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CampaignPhase {
    /// Asking for positions.
    PreVoting,
    /// A quorum reported its position; the driver checks the primary.
    PreVoted,
    /// Asking for votes.
    Voting,
    /// A quorum granted the term; the driver checks the primary.
    Elected,
    /// Streaming.
    Leading,
}

/// One campaign and, when it is elected, its term. Does no IO and never waits.
///
/// # Example
///
/// One append round with one safekeeper, which acknowledges eight bytes:
///
/// ```
/// use bytes::Bytes;
/// use consensus::{
///     AcceptorMessage, Acceptor, AcceptorState, Action, Configuration, ConnectionId, Dialect, Effect, Lineage,
///     Member, Proposer, ProposerMessage, ProposerOptions, WalBuffer,
/// };
/// use wal_types::{
///     CopyId, Lsn, NodeId, ProposerId, ReplicaId, SegmentSize, SystemId, TenantTimelineId, Term, Tli,
/// };
///
/// let (node, connection, start) = (NodeId(1), ConnectionId(1), Lsn(0x100_0000));
/// let mut proposer = Proposer::new(ProposerOptions {
///     id: TenantTimelineId::default(),
///     proposer_id: ProposerId([1; 16]),
///     segment_size: SegmentSize::POSTGRES_DEFAULT,
///     system_id: SystemId(7),
///     pg_version: 170_000,
///     tli: Some(Tli::FIRST),
///     term_floor: Term::ZERO,
///     safekeepers: vec![node],
///     primary: None,
///     send_buffer_bytes_max: 1 << 20,
/// });
/// # let lineage = Lineage {
/// #     id: TenantTimelineId::default(),
/// #     dialect: Dialect::Holdfast,
/// #     system_id: SystemId(7),
/// #     pg_version: 170_000,
/// #     segment_size: SegmentSize::POSTGRES_DEFAULT,
/// #     start_lsn: start,
/// #     start_tli: Tli::FIRST,
/// #     birth: None,
/// #     start_history: None,
/// # };
/// # let copy = CopyId { node, replica: ReplicaId([9; 16]) };
/// # let only = Member { id: node, host: "sk1".to_owned(), port: 5454, replica: copy.replica };
/// # let configuration = Configuration { members: vec![only], ..Configuration::default() };
/// # let state = AcceptorState { configuration, ..AcceptorState::default() };
/// # let mut acceptor = Acceptor::new(copy, lineage, state, start);
/// # // Stands for the network, and for a safekeeper that writes and syncs.
/// # let mut exchange = |message: ProposerMessage| -> Vec<AcceptorMessage> {
/// #     let mut effects = acceptor.step(connection, message).expect("accepted");
/// #     effects.extend(acceptor.flushed(acceptor.write_lsn(), acceptor.write_lsn()));
/// #     let reply = |effect| if let Effect::Reply { message, .. } = effect { Some(message) } else { None };
/// #     effects.into_iter().filter_map(reply).collect()
/// # };
///
/// proposer.connected(node);
/// let mut committed = Vec::new();
/// while let Some(message) = proposer.poll_send(node) {
///     // `exchange` sends the message to the safekeeper and returns its responses.
///     for response in exchange(message) {
///         for action in proposer.receive(node, response)? {
///             match action {
///                 // A real driver compares the primary's WAL with the log here, and once more when elected.
///                 Action::PreVoted { .. } => proposer.request_votes()?,
///                 Action::Elected(election) => {
///                     proposer.approve(WalBuffer::new(election.start));
///                     assert!(proposer.append(election.start, Bytes::from_static(b"8 bytes.")));
///                 }
///                 Action::Committed(lsn) => committed.push(lsn),
///                 _ => {}
///             }
///         }
///     }
/// }
/// assert_eq!(committed, [start.advance(8)]);
/// # Ok::<(), consensus::LostTerm>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposer {
    options: ProposerOptions,
    phase: CampaignPhase,
    /// Zero until votes are requested.
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
    /// A campaign without a connection. The driver reports connections with [`Proposer::connected`].
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

    /// Reports that a connection to `node` is open. Messages of an earlier connection must no longer be handed in.
    pub fn connected(&mut self, node: NodeId) {
        let greeting = self.greeting();
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.connected(greeting);
        }
    }

    /// Reports that the connection to `node` is closed.
    pub fn disconnected(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.disconnected();
        }
    }

    /// Handles a message of a safekeeper. Messages of safekeepers that are not connected are ignored. After an error the
    /// campaign is over, and the driver drops this proposer.
    pub fn receive(&mut self, from: NodeId, message: AcceptorMessage) -> Result<Vec<Action>, LostTerm> {
        if !self.peers.get(&from).is_some_and(Peer::is_connected) {
            return Ok(Vec::new());
        }
        match message {
            AcceptorMessage::Greeting(greeting) => self.handle_greeting(from, greeting),
            AcceptorMessage::PreVote(response) => self.handle_pre_vote(from, response),
            AcceptorMessage::Vote(response) => self.handle_vote(from, response),
            AcceptorMessage::Append(response) => self.record_ack(from, &response),
            AcceptorMessage::Checksum(response) => Ok(vec![Action::Checksum { from, response }]),
            AcceptorMessage::Configure(response) => self.handle_configured(from, response),
            // Asked for by agents, over connections of their own.
            AcceptorMessage::Ticket(_) | AcceptorMessage::Watch(_) => Ok(Vec::new()),
        }
    }

    /// Chooses a term above all that were reported, and requests votes for it. Does nothing in any phase but
    /// [`CampaignPhase::PreVoted`]. Fails with [`LostTerm::Exhausted`] when there is no higher term.
    pub fn request_votes(&mut self) -> Result<(), LostTerm> {
        if self.phase != CampaignPhase::PreVoted {
            return Ok(());
        }
        let highest = self.peers.values().map(|peer| peer.term).fold(self.options.term_floor, Term::max);
        self.term = highest.next().ok_or(LostTerm::Exhausted)?;
        self.phase = CampaignPhase::Voting;
        let greeted: Vec<NodeId> = self.peers_in_state(&PeerState::Greeted);
        greeted.into_iter().for_each(|node| self.request_vote(node));
        Ok(())
    }

    /// Begins to lead. Does nothing in any phase but [`CampaignPhase::Elected`]. `wal` is the WAL that the driver read from
    /// the primary for its comparison, or an empty buffer at the election's `start`. [`Proposer::append`] continues at its
    /// end.
    pub fn approve(&mut self, wal: WalBuffer) {
        if self.phase != CampaignPhase::Elected {
            return;
        }
        self.wal = wal;
        self.phase = CampaignPhase::Leading;
        let voted = self.peers_in_state(&PeerState::Voted);
        voted.into_iter().for_each(|node| self.start_streaming(node));
    }

    /// Asks `node` for a checksum of `[from, to)` of its log: one that has voted, or, before a term is spent, one that has
    /// reported its position. The response comes as [`Action::Checksum`]. It has no checksum when the node has promised a
    /// term above the one that it reported.
    pub fn request_checksum(&mut self, node: NodeId, from: Lsn, to: Lsn) {
        let (generation, own) = (self.membership.generation(), self.term);
        if let Some(peer) = self.peers.get_mut(&node) {
            // Before there is an own term, the node's own is named: a node answers no candidate of a lower one.
            let request = ChecksumRequest { generation, term: own.max(peer.term), from, to };
            peer.outbox.push_back(ProposerMessage::Checksum(request));
        }
    }

    /// Phase of the campaign.
    pub const fn phase(&self) -> CampaignPhase {
        self.phase
    }

    /// The term; zero until votes are requested.
    pub const fn term(&self) -> Term {
        self.term
    }

    /// The result of the votes; `None` before the election.
    pub const fn election(&self) -> Option<&Election> {
        self.election.as_ref()
    }

    /// End of the WAL that was received from the primary.
    pub const fn received_lsn(&self) -> Lsn {
        self.wal.end()
    }

    fn greeting(&self) -> ProposerMessage {
        ProposerMessage::Greeting(ProposerGreeting {
            version: ProtocolVersion::Holdfast2,
            id: self.options.id,
            pg_version: self.options.pg_version,
            system_id: self.options.system_id,
            segment_bytes: self.options.segment_size.bytes(),
            tli: self.options.tli.unwrap_or_default(),
            proposer_id: self.options.proposer_id,
            configuration: Configuration::default(),
        })
    }

    /// From the vote requests on, a higher term ends the campaign.
    fn check_term(&self, by: NodeId, term: Term) -> Result<(), LostTerm> {
        let own = self.term;
        let has_term = !matches!(self.phase, CampaignPhase::PreVoting | CampaignPhase::PreVoted);
        if has_term && term > own { Err(LostTerm::Deposed { by, term, own }) } else { Ok(()) }
    }

    fn peer_in_state(&mut self, node: NodeId, state: &PeerState) -> Option<&mut Peer> {
        self.peers.get_mut(&node).filter(|peer| peer.state == *state)
    }

    fn peers_in_state(&self, state: &PeerState) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.state == *state).map(|(&id, _)| id).collect()
    }

    /// Gives a connection up: its safekeeper sent a response that fits no request.
    fn reset_connection(&mut self, node: NodeId) -> Vec<Action> {
        self.disconnected(node);
        vec![Action::Reset(node)]
    }

    fn voting_sets(&self) -> Vec<Vec<CopyId>> {
        let replica = |node| self.peers.get(&node).and_then(|peer| peer.replica).unwrap_or_default();
        let safekeepers = self.options.safekeepers.iter();
        self.membership.voting_sets(safekeepers.map(|&node| CopyId { node, replica: replica(node) }))
    }

    /// What is known of a copy: of the safekeeper, when this is the copy that it has.
    fn peer_of(&self, copy: CopyId) -> Option<&Peer> {
        self.peers.get(&copy.node).filter(|peer| peer.replica == Some(copy.replica))
    }

    /// Stops speaking with safekeepers whose copy is none of this log.
    fn dismiss_foreign_copies(&mut self) {
        for (&node, peer) in &mut self.peers {
            // Before the greeting it is not known which copy the safekeeper has.
            if matches!(peer.state, PeerState::Offline | PeerState::Greeting | PeerState::Foreign(_)) {
                continue;
            }
            if let Some(why) = self.membership.foreign(node, peer.replica.unwrap_or_default(), peer.birth) {
                peer.dismiss(why);
            }
        }
    }

    /// Greets safekeepers again whose copy belongs to the log now.
    fn welcome_copies(&mut self) -> Vec<Action> {
        let belongs = |(&node, peer): (&NodeId, &Peer)| {
            let was_foreign = matches!(peer.state, PeerState::Foreign(_));
            (was_foreign
                && self.membership.foreign(node, peer.replica.unwrap_or_default(), peer.birth).is_none())
            .then_some(node)
        };
        let welcome: Vec<NodeId> = self.peers.iter().filter_map(belongs).collect();
        welcome.into_iter().flat_map(|node| self.reset_connection(node)).collect()
    }
}
