//! Cluster: acceptors and campaigns that exchange messages at once and without loss, for tests of what they decide
//! together.

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::{
    Acceptor, AcceptorMessage, AcceptorState, Action, Configuration, ConnectionId, Dialect, Effect, Lineage,
    LostTerm, Member, PeerState, Proposer, ProposerGreeting, ProposerMessage, ProposerOptions,
    ProtocolVersion, Refusal, WalBuffer,
};
use wal_types::{
    Generation, Lsn, NodeId, PrimaryId, ProposerId, SegmentSize, SystemId, TenantTimelineId, Term, Tli,
};

pub(crate) const START: Lsn = Lsn(0x100_0000);

/// The only copy that node `id` has.
pub(crate) fn copy(id: u64) -> wal_types::CopyId {
    wal_types::CopyId { node: NodeId(id), replica: wal_types::ReplicaId([id as u8; 16]) }
}

/// State of node 1 that was told that it is the only member.
pub(crate) fn founded() -> AcceptorState {
    AcceptorState { configuration: configuration(0, &[1], &[]), ..AcceptorState::default() }
}

pub(crate) fn member(id: u64) -> Member {
    Member { id: NodeId(id), host: format!("sk{id}"), port: 1, replica: copy(id).replica }
}

pub(crate) fn members(ids: &[u64]) -> Vec<Member> {
    ids.iter().map(|&id| member(id)).collect()
}

pub(crate) fn configuration(generation: u32, ids: &[u64], new: &[u64]) -> Configuration {
    Configuration {
        generation: Generation(generation),
        members: members(ids),
        new_members: members(new),
        ..Configuration::default()
    }
}

pub(crate) fn lineage(dialect: Dialect) -> Lineage {
    Lineage {
        id: TenantTimelineId::default(),
        dialect,
        system_id: SystemId(7),
        pg_version: 150_018,
        segment_size: SegmentSize::POSTGRES_DEFAULT,
        start_lsn: START,
        start_tli: Tli::FIRST,
        birth: None,
        start_history: None,
    }
}

/// The greeting that fits [`lineage`] in `version`.
pub(crate) fn greeting(version: ProtocolVersion, configuration: Configuration) -> ProposerGreeting {
    ProposerGreeting {
        version,
        id: TenantTimelineId::default(),
        pg_version: 150_018,
        system_id: SystemId(7),
        segment_bytes: SegmentSize::POSTGRES_DEFAULT.bytes(),
        tli: Tli::FIRST,
        proposer_id: ProposerId::default(),
        configuration,
    }
}

/// Acceptors, each with the state that its disk would hold.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<u64, Acceptor>,
    connections: u64,
    /// Nodes that refused a message, and the reason.
    pub(crate) refusals: Vec<(u64, Refusal)>,
}

impl Cluster {
    pub(crate) fn new(configuration: &Configuration) -> Self {
        let mut cluster = Self { nodes: BTreeMap::new(), connections: 0, refusals: Vec::new() };
        let listed: Vec<u64> = configuration.members.iter().map(|member| member.id.0).collect();
        listed.into_iter().for_each(|id| cluster.create(id, configuration, START));
        cluster
    }

    /// An empty log that begins at `start`.
    pub(crate) fn create(&mut self, id: u64, configuration: &Configuration, start: Lsn) {
        let configuration = configuration.clone();
        let state = AcceptorState { configuration, commit_lsn: start, ..AcceptorState::default() };
        let lineage = Lineage { start_lsn: start, ..lineage(Dialect::Holdfast) };
        self.nodes.insert(id, Acceptor::new(copy(id), lineage, state, start));
    }

    pub(crate) fn state(&self, id: u64) -> &AcceptorState {
        self.nodes[&id].state()
    }

    pub(crate) fn flush(&self, id: u64) -> u64 {
        self.nodes[&id].flush_lsn().bytes_since(START)
    }

    /// Restarts a node with a changed state and a log that ends at `end`.
    pub(crate) fn restart(&mut self, id: u64, end: u64, change: impl Fn(&mut AcceptorState)) {
        let node = &self.nodes[&id];
        let mut state = node.state().clone();
        change(&mut state);
        let (lineage, end) = (node.lineage().clone(), START.advance(end));
        self.nodes.insert(id, Acceptor::new(copy(id), lineage, state, end));
    }
}

/// A proposer and its connections.
pub(crate) struct Campaign {
    pub(crate) proposer: Proposer,
    links: BTreeMap<u64, ConnectionId>,
    pub(crate) actions: Vec<Action>,
}

impl Campaign {
    /// `name` must be new for each campaign.
    pub(crate) fn new(name: u8, primary: Option<u8>, peers: &[u64]) -> Self {
        Self::with(name, primary, Tli::FIRST, peers)
    }

    /// A campaign of a primary on PostgreSQL timeline `tli`.
    pub(crate) fn on_timeline(name: u8, tli: Tli, peers: &[u64]) -> Self {
        Self::with(name, None, tli, peers)
    }

    fn with(name: u8, primary: Option<u8>, tli: Tli, peers: &[u64]) -> Self {
        let proposer = Proposer::new(ProposerOptions {
            id: TenantTimelineId::default(),
            proposer_id: ProposerId([name; 16]),
            segment_size: SegmentSize::POSTGRES_DEFAULT,
            system_id: SystemId(7),
            pg_version: 150_018,
            tli: Some(tli),
            term_floor: Term::ZERO,
            safekeepers: peers.iter().copied().map(NodeId).collect(),
            primary: primary.map(|id| consensus::Primary::named(PrimaryId([id; 16]))),
            send_buffer_bytes_max: 1 << 20,
        });
        Self { proposer, links: BTreeMap::new(), actions: Vec::new() }
    }

    /// Campaigns on `reach` until it is elected and all of `reach` follow it.
    pub(crate) fn elected(cluster: &mut Cluster, name: u8, reach: &[u64]) -> Self {
        let mut campaign = Self::new(name, None, reach);
        campaign.exchange(cluster, reach).unwrap();
        assert!(campaign.proposer.election().is_some(), "not elected: {:?}", cluster.refusals);
        campaign
    }

    /// Appends `bytes` of WAL and replicates them to `reach`.
    pub(crate) fn write(&mut self, cluster: &mut Cluster, bytes: usize, reach: &[u64]) {
        let at = self.proposer.received_lsn();
        assert!(self.proposer.append(at, Bytes::from(vec![1; bytes])));
        self.exchange(cluster, reach).unwrap();
    }

    pub(crate) fn commit(&self) -> u64 {
        self.proposer.commit_lsn().0.saturating_sub(START.0)
    }

    pub(crate) fn generation(&self) -> u32 {
        self.proposer.configuration().unwrap().generation.0
    }

    /// Generations of the configurations that were decided, in order.
    pub(crate) fn decided(&self) -> Vec<u32> {
        let generation = |action: &Action| match action {
            Action::Configured(configuration) => Some(configuration.generation.0),
            _ => None,
        };
        self.actions.iter().filter_map(generation).collect()
    }

    pub(crate) fn disconnect(&mut self, cluster: &mut Cluster, id: u64) {
        self.proposer.disconnected(NodeId(id));
        if let Some(connection) = self.links.remove(&id) {
            cluster.nodes.get_mut(&id).unwrap().disconnected(connection);
        }
    }

    /// Exchanges messages with `reach` until both sides are silent.
    pub(crate) fn exchange(&mut self, cluster: &mut Cluster, reach: &[u64]) -> Result<(), LostTerm> {
        loop {
            self.proposer.announce_commit();
            let mut quiet = true;
            for &id in reach {
                quiet &= !self.exchange_one(cluster, id)?;
            }
            if quiet {
                return Ok(());
            }
        }
    }

    /// Delivers `messages` messages to one node, and its responses.
    pub(crate) fn exchange_messages(&mut self, cluster: &mut Cluster, id: u64, messages: usize) {
        for _ in 0..messages {
            assert!(self.exchange_one(cluster, id).unwrap(), "no message is left");
        }
    }

    fn exchange_one(&mut self, cluster: &mut Cluster, id: u64) -> Result<bool, LostTerm> {
        self.links.entry(id).or_insert_with(|| {
            cluster.connections += 1;
            self.proposer.connected(NodeId(id));
            ConnectionId(cluster.connections)
        });

        if let Some(fetch) = self.proposer.poll_fetch(NodeId(id)) {
            let bytes = vec![0; fetch.until.bytes_since(fetch.from) as usize];
            assert!(self.proposer.fetched(NodeId(id), fetch.donor, fetch.from, &bytes.into()));
        }

        let Some(message) = self.proposer.poll_send(NodeId(id)) else { return Ok(false) };
        let (connection, acceptor) = (self.links[&id], cluster.nodes.get_mut(&id).unwrap());
        let is_append = matches!(message, ProposerMessage::Append(_));
        let mut effects = match acceptor.step(connection, message) {
            Ok(effects) => effects,
            Err(refusal) => {
                cluster.refusals.push((id, refusal));
                self.disconnect(cluster, id);
                // A real driver waits; a lasting refusal would never end here.
                return Ok(cluster.refusals.len() < 100);
            }
        };

        if is_append {
            let end = acceptor.write_lsn();
            effects.extend(acceptor.flushed(end, end));
        }

        for effect in effects {
            if let Effect::Reply { to, message } = effect
                && to == connection
            {
                self.deliver(id, message)?;
            }
        }

        Ok(true)
    }

    fn deliver(&mut self, id: u64, message: AcceptorMessage) -> Result<(), LostTerm> {
        let actions = self.proposer.receive(NodeId(id), message)?;
        for action in &actions {
            match action {
                Action::PreVoted { .. } => self.proposer.request_votes()?,
                Action::Elected(election) => self.proposer.approve(WalBuffer::new(election.start)),
                Action::Reset(node) => panic!("{node} was reset"),
                Action::Committed(_) | Action::Configured(_) | Action::Checksum { .. } => {}
            }
        }
        self.actions.extend(actions);
        Ok(())
    }

    pub(crate) fn peer(&self, id: u64) -> PeerState {
        let status = self.proposer.status();
        status.into_iter().find(|status| status.id == NodeId(id)).unwrap().state
    }
}
