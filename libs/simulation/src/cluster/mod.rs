//! [`Cluster`]: the nodes, primaries, writers and standbys of a schedule. Each public method is one event.

mod abandon;
mod damage;
mod half_open;
mod membership;
mod network;
mod nodes;
mod readers;
mod writers;

use std::collections::BTreeMap;

use candidacy::EndKind;
use consensus::{Configuration, ConnectionId, Dialect};
use rand::RngExt;
use rand::rngs::SmallRng;
use wal_store::Retention;
use wal_types::{NodeId, ProposerId, Term};

use self::half_open::HalfOpen;
use crate::invariants::Oracle;
use crate::node::{Node, member};
use crate::primary::{Layout, Primary, SEGMENT_SIZE, START};
use crate::standby::Standby;
use crate::stats::Stats;
use crate::trace::Trace;
use crate::writer::Writer;

/// Writers that may exist at once.
pub(crate) const WRITERS_MAX: usize = 3;
/// Standbys that read.
const STANDBYS: u64 = 2;

/// Everything that a schedule acts on.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// The first members.
    founders: Vec<NodeId>,
    pub(crate) primaries: Vec<Primary>,
    pub(crate) writers: Vec<Option<Writer>>,
    pub(crate) standbys: Vec<Standby>,
    /// Configurations that leaders were told to change to.
    proposed: Vec<Configuration>,
    /// Connections whose writer's end is closed, with the messages that are still on their way.
    half_open: Vec<HalfOpen>,
    /// The campaign of each connection.
    campaigns: BTreeMap<ConnectionId, ProposerId>,
    pub(crate) dialect: Dialect,
    layout: Layout,
    /// The product's limits of old WAL, in small numbers of segments. Without them nothing is removed.
    retention: Option<Retention>,
    /// Members are given up also while a disk is damaged: together they may be one failure more than a set of members
    /// survives.
    pub(crate) gives_up_beside_damage: bool,
    /// Members were given up beside damage, and a set of members kept no whole majority.
    pub(crate) is_beyond_budget: bool,
    /// Healing has begun: no more faults.
    pub(crate) is_healing: bool,
    pub(crate) rng: SmallRng,
    pub(crate) oracle: Oracle,
    pub(crate) stats: Stats,
    pub(crate) trace: Trace,
    next_campaign: u128,
    /// Why the last campaign of each writer ended.
    pub(crate) end_kinds: Vec<EndKind>,
    /// The highest term that earlier campaigns of each writer have met.
    term_floors: Vec<Term>,
    /// Commits so far, to check durability at every n-th.
    commits: u64,
}

impl Cluster {
    pub(crate) fn new(nodes: u64, dialect: Dialect, layout: Layout, mut rng: SmallRng, trace: Trace) -> Self {
        let retention = retention(&mut rng);
        let members: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let configuration = Configuration {
            members: members.iter().copied().map(member).collect(),
            ..Configuration::default()
        };

        let create = |&id: &NodeId| Node::create(id, dialect, START, configuration.clone());
        Self {
            nodes: members.iter().map(create).collect(),
            founders: members,
            primaries: vec![Primary::new(layout)],
            writers: (0..WRITERS_MAX).map(|_| None).collect(),
            standbys: (1..=STANDBYS).map(|id| Standby::new(NodeId(id))).collect(),
            proposed: Vec::new(),
            half_open: Vec::new(),
            campaigns: BTreeMap::new(),
            dialect,
            layout,
            retention,
            gives_up_beside_damage: false,
            is_beyond_budget: false,
            is_healing: false,
            rng,
            oracle: Oracle::default(),
            stats: Stats { schedules: 1, ..Stats::default() },
            trace,
            next_campaign: 0,
            end_kinds: vec![EndKind::Other; WRITERS_MAX],
            term_floors: vec![Term::ZERO; WRITERS_MAX],
            commits: 0,
        }
    }

    pub(crate) fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// The voting sets of a writer's configuration.
    pub(crate) fn sets(&self, slot: usize) -> Vec<Vec<NodeId>> {
        let proposer = self.writers[slot].as_ref().and_then(|writer| writer.engine.holdfast());
        let sets = proposer.and_then(|proposer| Some(proposer.configuration()?.sets()));
        sets.unwrap_or_else(|| vec![self.founders.clone()])
    }

    pub(crate) fn index(&self, node: NodeId) -> usize {
        node.0 as usize - 1
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        let index = self.index(node);
        &mut self.nodes[index]
    }
}

/// Limits that a schedule reaches: a member that is away for a while is given up in some schedules, and never in others.
fn retention(rng: &mut SmallRng) -> Option<Retention> {
    let bytes = |segments: u64| segments * u64::from(SEGMENT_SIZE.bytes());
    let wal_keep = [None, Some(0), Some(1), Some(2)][rng.random_range(0..4)];
    let member_keep = [None, Some(0), Some(1), Some(2)][rng.random_range(0..4)];
    Some(Retention {
        wal_keep_bytes: bytes(wal_keep?),
        reader_keep_bytes_max: 0,
        member_keep_bytes_max: member_keep.map_or(u64::MAX, bytes),
        slot_keep_bytes_max: 0,
    })
}
