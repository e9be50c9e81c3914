//! [`Writer`]: a proposer with its connections, and the product's checks against the primary (crate `candidacy`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use candidacy::{ComparedRange, Comparison, Verdict};
use consensus::{
    AcceptorMessage, Action, Configuration, ConnectionId, Election, LostTerm, Proposer, ProposerMessage,
    ProposerOptions, ProtocolVersion, WalBuffer,
};
use wal_types::{Generation, Lsn, NodeId, PrimaryId, ProposerId, TenantTimelineId, Term};

use crate::engine::Engine;
use crate::neon::NeonProposer;
use crate::primary::{CONTEXT, Primary, SEGMENT_SIZE};

/// WAL that a simulated proposer keeps in memory, in bytes: little, so that donors have to feed lagging safekeepers.
pub(crate) const SEND_BUFFER_BYTES_MAX: u64 = 8 * 1024;
/// Messages of a connection that are kept to be sent once more over another one.
const REMEMBERED_MESSAGES_MAX: usize = 64;

/// A connection of a writer to a node, with the messages on their way.
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    pub(crate) to_node: VecDeque<ProposerMessage>,
    pub(crate) to_writer: VecDeque<AcceptorMessage>,
    /// The node has closed its end: its earlier replies still arrive, and then the end of the connection.
    pub(crate) closed_by_node: bool,
    /// The first messages that were sent.
    pub(crate) remembered: Vec<ProposerMessage>,
}

/// Events of a writer that the cluster and the oracle act on.
pub(crate) enum WriterEvent {
    /// The writer begins to lead.
    Leads(Election),
    /// The writer reported to its primary that everything below this position is safe.
    Committed(Lsn),
    /// The proposer reports that a configuration is decided.
    Configured(Configuration),
    /// The proposer closes the connection to this node.
    Disconnect(NodeId),
    /// The campaign ended: deposed, or `None` when the log and the primary disagree.
    Ended(Option<LostTerm>),
    /// The primary has other WAL than the log.
    Diverged,
}

/// Parameters of a new campaign.
pub(crate) struct Campaign {
    pub(crate) id: ProposerId,
    pub(crate) version: ProtocolVersion,
    /// Index of the primary whose WAL it pushes; none for a recovery.
    pub(crate) primary: Option<usize>,
    pub(crate) term_floor: Term,
}

/// One campaign and, if it wins, its term.
pub(crate) struct Writer {
    pub(crate) primary: Option<usize>,
    pub(crate) campaign: ProposerId,
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) links: BTreeMap<NodeId, Link>,
    /// The comparison for which the donor's checksum is awaited; with the election, once there is one.
    comparison: Option<(Option<Election>, Comparison)>,
    /// Nodes that it knows.
    pub(crate) peers: BTreeSet<NodeId>,
    /// The voting sets that it acts under.
    sets: Vec<Vec<NodeId>>,
    /// Changes of the voting sets while it led, as (before, after), that the oracle has not seen yet.
    pub(crate) steps: Vec<(Vec<Vec<NodeId>>, Vec<Vec<NodeId>>)>,
    /// Generation of the configuration that it acted under at the last check.
    generation: Option<Generation>,
    /// Index of the primary that it was told to designate.
    pub(crate) designates: Option<usize>,
    /// The designation is decided.
    pub(crate) has_designated: bool,
    /// The finished recovery was reported to the oracle.
    pub(crate) has_reported_recovery: bool,
    /// It cannot be elected any more.
    pub(crate) is_over: bool,
}

/// The id of a primary in designations.
pub(crate) fn primary_id(primary: usize) -> consensus::Primary {
    consensus::Primary::named(PrimaryId((primary as u128 + 1).to_be_bytes()))
}

impl Writer {
    pub(crate) fn new(campaign: &Campaign, primary: Option<&Primary>, safekeepers: Vec<NodeId>) -> Self {
        let peers = safekeepers.iter().copied().collect();
        let engine: Box<dyn Engine> = match campaign.version {
            ProtocolVersion::Holdfast2 => Box::new(holdfast_proposer(campaign, primary, safekeepers)),
            version => Box::new(NeonProposer::new(version, campaign.id, primary.is_some(), &safekeepers)),
        };

        Self {
            primary: campaign.primary,
            campaign: campaign.id,
            engine,
            links: BTreeMap::new(),
            comparison: None,
            peers,
            sets: Vec::new(),
            steps: Vec::new(),
            generation: None,
            designates: None,
            has_designated: false,
            has_reported_recovery: false,
            is_over: false,
        }
    }

    /// Adds a node to talk to.
    pub(crate) fn add_peer(&mut self, node: NodeId) {
        if let Some(proposer) = self.engine.holdfast_mut() {
            proposer.add_peer(node);
            self.peers.insert(node);
        }
    }

    /// Adds the members that the proposer has learned of.
    pub(crate) fn learn_members(&mut self) {
        let proposer = self.engine.holdfast();
        let configuration = proposer.and_then(Proposer::configuration);
        let generation = configuration.map(|configuration| configuration.generation);
        let sets = configuration.map(Configuration::sets).unwrap_or_default();
        // A configuration that an older term wrote and no quorum decided may have the same generation.
        if generation != self.generation || sets != self.sets {
            self.generation = generation;
            let before = std::mem::replace(&mut self.sets, sets.clone());
            if self.engine.leads() {
                self.steps.push((before, sets));
            }
            let proposer = self.engine.holdfast();
            let unknown = proposer.map(Proposer::unknown_members).unwrap_or_default();
            unknown.into_iter().for_each(|member| self.add_peer(member.id));
        }
    }

    /// True when a recovery is finished: the log's start is committed and the commit position is on a quorum's disks.
    pub(crate) fn is_recovery_done(&self) -> bool {
        let election = self.engine.election();
        election.is_some_and(|election| self.engine.commit_lsn() >= election.start)
            && self.engine.start_commit_is_persisted()
    }

    /// Opens a connection to `node`.
    pub(crate) fn connect(&mut self, node: NodeId, id: ConnectionId) {
        let link = Link {
            id,
            to_node: VecDeque::new(),
            to_writer: VecDeque::new(),
            closed_by_node: false,
            remembered: Vec::new(),
        };
        self.links.insert(node, link);
        self.engine.connected(node);
    }

    /// Handles the end of the connection to `node`. The candidacy is over when a checksum of `node` was awaited.
    pub(crate) fn disconnect(&mut self, node: NodeId) -> Option<Link> {
        self.engine.disconnected(node);
        self.is_over |=
            self.comparison.as_ref().is_some_and(|(_, comparison)| comparison.range().donor == node);
        self.links.remove(&node)
    }

    /// Moves up to `count` messages from the proposer into the connection.
    pub(crate) fn send(&mut self, node: NodeId, count: usize) {
        let Some(link) = self.links.get_mut(&node) else { return };
        for _ in 0..count {
            let Some(message) = self.engine.poll_send(node) else { break };
            if link.remembered.len() < REMEMBERED_MESSAGES_MAX {
                link.remembered.push(message.clone());
            }
            link.to_node.push_back(message);
        }
    }

    /// Handles the next message of `node`, or the end of its connection.
    pub(crate) fn receive(&mut self, node: NodeId, primary: Option<&Primary>) -> Vec<WriterEvent> {
        let Some(link) = self.links.get_mut(&node) else { return Vec::new() };
        let Some(message) = link.to_writer.pop_front() else {
            return if link.closed_by_node { vec![WriterEvent::Disconnect(node)] } else { Vec::new() };
        };
        let received = self.engine.receive(node, message);
        self.learn_members();
        match received {
            Ok(actions) => {
                actions.into_iter().flat_map(|action| self.handle_action(action, primary)).collect()
            }
            Err(lost) => vec![WriterEvent::Ended(Some(lost))],
        }
    }

    /// Gives the next `bytes` of the primary's WAL to the proposer.
    pub(crate) fn stream(&mut self, primary: &Primary, bytes: u64) {
        let from = self.engine.received_lsn();
        let to = from.advance(bytes).min(primary.flush_lsn());
        if self.engine.wants_wal() && from < to {
            assert!(self.engine.append(from, primary.read(from, to)), "the stream has no holes");
        }
    }

    fn handle_action(&mut self, action: Action, primary: Option<&Primary>) -> Vec<WriterEvent> {
        match action {
            Action::PreVoted { flush_lsn: end, commit_lsn, donor, start_lsn, tli } => {
                let Some(primary) = primary.filter(|_| self.engine.holdfast().is_some()) else {
                    return self.request_votes();
                };
                if !primary.continues(end, tli) {
                    return vec![WriterEvent::Ended(None)];
                }
                match ComparedRange::of_survey(donor, end, commit_lsn, start_lsn, SEGMENT_SIZE) {
                    Some(range) => self.compare(None, range, primary),
                    None => self.request_votes(),
                }
            }
            Action::Elected(election) => self.compare_with_primary(election, primary),
            Action::Checksum { from, response } => {
                if let Some((_, comparison)) = &mut self.comparison {
                    comparison.answered(from, &response);
                }
                self.finish_comparison()
            }
            Action::Committed(lsn) => vec![WriterEvent::Committed(lsn)],
            Action::Configured(configuration) => vec![WriterEvent::Configured(configuration)],
            Action::Reset(node) => vec![WriterEvent::Disconnect(node)],
        }
    }

    /// Spends a term. The proposer of dialect `neon` does so by itself.
    fn request_votes(&mut self) -> Vec<WriterEvent> {
        let requested = self.engine.holdfast_mut().map_or(Ok(()), Proposer::request_votes);
        requested.err().map(|lost| WriterEvent::Ended(Some(lost))).into_iter().collect()
    }

    /// Compares the primary's WAL with the chosen log, between the votes and the first message that truncates a log.
    fn compare_with_primary(&mut self, election: Election, primary: Option<&Primary>) -> Vec<WriterEvent> {
        let Some(primary) = primary else {
            let wal = WalBuffer::new(election.start);
            return self.lead(election, wal);
        };
        if self.engine.holdfast().is_none() {
            return self.compare_with_base(election, primary);
        }
        if !primary.continues(election.start, election.tli) {
            return vec![WriterEvent::Ended(None)];
        }
        let range = ComparedRange::of_election(&election, SEGMENT_SIZE);
        self.compare(Some(election), range, primary)
    }

    /// Reads the primary's part of a comparison, and requests the donor's.
    fn compare(
        &mut self,
        election: Option<Election>,
        range: ComparedRange,
        primary: &Primary,
    ) -> Vec<WriterEvent> {
        let ComparedRange { donor, from, to } = range;
        let mut comparison = Comparison::new(range, false);
        comparison.push(from, primary.read(from, to)).expect("the stream has no holes");
        if comparison.needs_answer()
            && let Some(proposer) = self.engine.holdfast_mut()
        {
            proposer.request_checksum(donor, from, to);
        }
        self.comparison = Some((election, comparison));
        self.finish_comparison()
    }

    /// Acts on a comparison that has its result. Without an answer in the survey, the votes decide.
    fn finish_comparison(&mut self) -> Vec<WriterEvent> {
        let Some(verdict) = self.comparison.as_ref().and_then(|(_, comparison)| comparison.verdict()) else {
            return Vec::new();
        };
        match (self.comparison.take(), verdict) {
            (_, Verdict::OtherBytes) => vec![WriterEvent::Diverged],
            (Some((Some(election), comparison)), Verdict::SameBytes) => {
                self.lead(election, comparison.into_wal())
            }
            (Some((Some(_), _)), Verdict::NotHeld) => vec![WriterEvent::Ended(None)],
            (Some((None, _)) | None, _) => self.request_votes(),
        }
    }

    /// Accepts an election in dialect `neon` when the server was started from the exact end of the log, or continues a
    /// log whose last term was its own. The public proposer panics in every other case.
    fn compare_with_base(&mut self, election: Election, primary: &Primary) -> Vec<WriterEvent> {
        let continued = primary.led.is_some() && primary.led == self.engine.last_term_of_donor();
        if election.start == primary.base || (continued && election.start <= primary.flush_lsn()) {
            let from = election.compare_from(SEGMENT_SIZE);
            let mut wal = WalBuffer::new(from);
            assert!(wal.push(from, primary.read(from, election.start)), "an empty buffer takes everything");
            self.lead(election, wal)
        } else {
            vec![WriterEvent::Ended(None)]
        }
    }

    fn lead(&mut self, election: Election, wal: WalBuffer) -> Vec<WriterEvent> {
        self.engine.approve(wal);
        vec![WriterEvent::Leads(election)]
    }
}

fn holdfast_proposer(campaign: &Campaign, primary: Option<&Primary>, safekeepers: Vec<NodeId>) -> Proposer {
    Proposer::new(ProposerOptions {
        id: TenantTimelineId::default(),
        proposer_id: campaign.id,
        segment_size: SEGMENT_SIZE,
        system_id: primary.map_or(Default::default(), |_| CONTEXT.system_id),
        pg_version: primary.map_or(0, |_| 150_000),
        tli: primary.map(|primary| primary.timeline.tli),
        primary: campaign.primary.map(primary_id),
        term_floor: campaign.term_floor,
        safekeepers,
        send_buffer_bytes_max: SEND_BUFFER_BYTES_MAX,
    })
}
