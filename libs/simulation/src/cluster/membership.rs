//! Membership: new nodes, changes of the configuration, designated primaries, nodes that never come back.
//!
//! The **fault budget** is here, too: a fault that destroys data must leave every voting set a majority of nodes with
//! undamaged disks. Without that majority no log could keep what the oracle demands.

use std::collections::BTreeSet;
use std::sync::Arc;

use consensus::{Configuration, ConfigurationChange, Dialect, Member, PeerState, Primary, Proposer};
use rand::RngExt;
use rand::seq::SliceRandom;
use wal_store::Snapshot;
use wal_types::{Lsn, NodeId};

use super::Cluster;
use crate::invariants::{Violation, has_majorities, list_nodes, list_sets, majority};
use crate::mirror::{first_difference, offset};
use crate::node::{Death, Node, member};
use crate::primary::START;
use crate::writer::primary_id;

/// Nodes that may exist before healing.
const NODES_MAX: usize = 9;
/// Nodes that may be added while the cluster heals: members whose WAL was given up are replaced.
const HEALING_NODES_MAX: usize = 5;

/// One in this many configurations that were decided again is looked up on the disks.
const REDECIDED_CHECKED_EVERY: u64 = 3;

impl Cluster {
    /// Adds a node with an empty log that is not a member yet.
    pub(crate) fn add_node(&mut self) -> Option<NodeId> {
        let old = self.nodes.iter().filter_map(Node::serving).filter(|at| !at.history.entries().is_empty());
        let oldest = old.map(|at| at.oldest_lsn).max()?;
        if self.nodes.len() >= self.nodes_max() || self.dialect == Dialect::Neon {
            return None;
        }

        let id = NodeId(self.nodes.len() as u64 + 1);
        self.trace.line(format_args!("node {id} is new, its log begins at {oldest}"));
        self.stats.new_nodes += 1;
        // No one tells it who the members are: a leader feeds it.
        self.nodes.push(Node::create(id, self.dialect, oldest, Configuration::default()));

        for slot in 0..self.writers.len() {
            if let Some(writer) = &mut self.writers[slot] {
                writer.add_peer(id);
            }
            self.connect(slot, id);
        }
        Some(id)
    }

    const fn nodes_max(&self) -> usize {
        if self.is_healing { NODES_MAX + HEALING_NODES_MAX } else { NODES_MAX }
    }

    /// Tells a leader to change the members.
    pub(crate) fn change_members(&mut self, slot: usize) {
        let Some(current) = self.leader_configuration(slot) else { return };
        let current: Vec<NodeId> = current.members.iter().map(|member| member.id).collect();
        let mut usable: Vec<NodeId> = self
            .nodes
            .iter()
            .map(|node| node.id)
            .filter(|&id| self.can_vote(slot, id, current.contains(&id)))
            .collect();
        usable.shuffle(&mut self.rng);

        let size = match self.rng.random_range(0..10) {
            0 => 1,
            1 => 2,
            2 => 4,
            3..5 => 5,
            _ => 3,
        };

        usable.truncate(size);
        usable.sort_unstable();
        self.begin_change(slot, usable);
    }

    /// Cuts a leader off from most members, and tells it to continue with nodes that it still reaches. Returns the
    /// members that it lost; none when it cannot change anything.
    pub(crate) fn lose_majority(&mut self, slot: usize) -> Vec<NodeId> {
        let Some(current) = self.leader_configuration(slot) else { return Vec::new() };
        let mut lost: Vec<NodeId> = current.members.iter().map(|member| member.id).collect();
        lost.shuffle(&mut self.rng);
        let left = lost.split_off(majority(lost.len()).min(lost.len()));
        let stays = |id: &NodeId| !lost.contains(id) && self.can_vote(slot, *id, left.contains(id));
        let next: Vec<NodeId> = self.node_ids().into_iter().filter(stays).collect();
        if next.is_empty() || !self.begin_change(slot, next) {
            return Vec::new();
        }
        self.stats.partitioned_changes += 1;
        lost.iter().for_each(|&node| self.cut_connection(slot, node));
        lost
    }

    /// Tells the leader in `slot` to change to these members; false when it refuses.
    pub(super) fn begin_change(&mut self, slot: usize, members: Vec<NodeId>) -> bool {
        let Some(writer) = self.writers[slot].as_mut() else { return false };
        let Some(proposer) = writer.engine.holdfast_mut() else { return false };
        let listed: Vec<Member> = members.iter().copied().map(member).collect();
        let accepted = proposer.begin_change(ConfigurationChange::Members(listed)).is_ok();
        if accepted {
            writer.learn_members();
            let joint = writer.engine.holdfast().and_then(Proposer::configuration).cloned();
            self.proposed.extend(joint);
        }
        if accepted {
            self.trace.line(format_args!("writer {slot} changes the members to {}", list_nodes(&members)));
            self.stats.member_changes += 1;
        }
        accepted
    }

    /// Tells a leader that only `primary` may write from now on.
    pub(crate) fn designate(&mut self, slot: usize, primary: usize) {
        let Some(writer) = &mut self.writers[slot] else { return };
        let Some(proposer) = writer.engine.holdfast_mut() else { return };
        if let Ok(generation) = proposer.begin_change(ConfigurationChange::Primary(primary_id(primary))) {
            writer.designates = Some(primary);
            self.oracle.record_designation(writer.engine.term(), generation, primary_id(primary));
            writer.learn_members();
            self.trace.line(format_args!("writer {slot} designates primary {primary}"));
            self.stats.designations += 1;
        }
    }

    /// Handles a leader's report that a configuration is decided.
    pub(super) fn configured(&mut self, slot: usize, configuration: &Configuration) -> Result<(), Violation> {
        self.trace.line(format_args!(
            "writer {slot}: generation {} is decided: members {}, primary {:?}",
            configuration.generation,
            list_sets(&configuration.sets()),
            configuration.primary
        ));
        self.stats.decided_configurations += 1;

        let Some(writer) = &mut self.writers[slot] else { return Ok(()) };
        if let Some(primary) = writer.designates
            && configuration.primary == Some(primary_id(primary))
        {
            writer.has_designated = true;
        }
        let term = writer.engine.term();
        self.oracle.record_decided_primary(term, configuration);
        self.oracle.only_the_designated_primary_writes()?;

        let position = (term, configuration.generation);
        // Later leaders may have replaced it by a newer one, from which they know that nothing is left to finish.
        let holds = |node: &Node| match node.configuration_after_power_loss().filter(|_| node.anew == 0) {
            Some(newest) => newest >= position,
            // A node that does not start has lost even its promises.
            None => self.oracle.is_damaged(node.id),
        };

        let sets = configuration.sets();
        // Every leader decides again what it found, and recovering disks is expensive.
        let is_checked = !self.oracle.has_decided(configuration.generation)
            || self.stats.decided_configurations.is_multiple_of(REDECIDED_CHECKED_EVERY);

        let mut holders: BTreeSet<NodeId> =
            if is_checked { BTreeSet::new() } else { sets.iter().flatten().copied().collect() };
        for node in &self.nodes {
            if !has_majorities(&sets, &holders) && holds(node) {
                holders.insert(node.id);
            }
        }
        self.oracle.one_configuration_per_generation(configuration, &holders)
    }

    /// True while a proposer that can change members leads.
    pub(crate) fn can_change_members(&self, slot: usize) -> bool {
        self.leader_configuration(slot).is_some()
    }

    /// The configuration under which the writer in `slot` leads.
    pub(super) fn leader_configuration(&self, slot: usize) -> Option<Configuration> {
        let writer = self.writers[slot].as_ref().filter(|writer| writer.engine.leads())?;
        writer.engine.holdfast()?.configuration().cloned()
    }

    /// Replaces members that are gone, or that lack WAL which no node has any more. True when there are none.
    pub(crate) fn replace_dead_members(&mut self, slot: usize) -> bool {
        let Some(current) = self.leader_configuration(slot) else { return false };
        let members: Vec<NodeId> = current.members.iter().map(|member| member.id).collect();
        let (dead, mut next): (Vec<NodeId>, Vec<NodeId>) =
            members.iter().partition(|&&id| self.is_beyond_repair(slot, id));
        if !current.new_members.is_empty() || dead.is_empty() {
            return current.new_members.is_empty();
        }

        let others: Vec<NodeId> = self.node_ids().into_iter().filter(|id| !members.contains(id)).collect();
        let fit: Vec<NodeId> = others.iter().copied().filter(|&id| self.can_vote(slot, id, false)).collect();
        if fit.len() < dead.len() && self.nodes.len() < self.nodes_max() {
            let is_coming = |id| {
                let is_whole = !self.is_beyond_repair(slot, id) && !self.oracle.is_damaged(id);
                is_whole && !self.peer_is_in(slot, id, &PeerState::Voted)
            };
            let coming = others.iter().filter(|&&id| is_coming(id)).count();
            if coming < dead.len() {
                self.add_node();
            }
            return false;
        }

        next.extend(fit.into_iter().take(dead.len()));
        self.begin_change(slot, next);
        false
    }

    /// True when no leader can feed the node, or this leader reports so.
    fn is_beyond_repair(&self, slot: usize, id: NodeId) -> bool {
        let proposer = self.writers[slot].as_ref().and_then(|writer| writer.engine.holdfast());
        let peers = proposer.map(Proposer::status).unwrap_or_default();
        peers.iter().any(|peer| peer.id == id && peer.needs_reseed) || self.is_lost_for_good(id)
    }

    /// True when a proposer has this state for a node. A leader that gets no further than the vote waits for a member
    /// that may never come back: it must not begin a new log where that member's log may have ended.
    fn peer_is_in(&self, slot: usize, id: NodeId, state: &PeerState) -> bool {
        let proposer = self.writers[slot].as_ref().and_then(|writer| writer.engine.holdfast());
        let peers = proposer.map(Proposer::status).unwrap_or_default();
        peers.iter().any(|peer| peer.id == id && peer.state == *state)
    }

    /// True when a node may become a voter. A new node must follow the leader and hold everything that is committed,
    /// because the others may remove older WAL at any moment.
    pub(super) fn can_vote(&self, slot: usize, id: NodeId, votes_already: bool) -> bool {
        if self.is_lost_for_good(id) || self.may_be_given_up(id) || self.oracle.is_damaged(id) {
            return false;
        }
        let Some(writer) = &self.writers[slot] else { return false };
        let Some(start) = writer.engine.election().map(|election| election.start) else { return false };
        let kept =
            self.nodes.iter().filter_map(Node::serving).map(|at| at.horizon_lsn.max(at.oldest_lsn)).max();
        let needed = kept.unwrap_or_default().max(writer.engine.commit_lsn()).max(start);
        let follows = |at: &Snapshot| {
            at.history.last().is_some_and(|last| last.term == writer.engine.term()) && at.flush_lsn >= needed
        };
        votes_already || self.nodes[self.index(id)].serving().is_some_and(|at| follows(&at))
    }

    /// True when a node's disk is gone, when no other node has the WAL that it lacks, or when no other node knows any
    /// more where its log agrees with theirs.
    pub(crate) fn is_lost_for_good(&self, id: NodeId) -> bool {
        let node = &self.nodes[self.index(id)];
        let others = self.nodes.iter().filter(|other| other.id != id).filter_map(Node::serving);
        let (mut oldest, mut known_from) = (Lsn::INVALID, Lsn::INVALID);
        for at in others {
            oldest = oldest.max(at.oldest_lsn);
            known_from =
                known_from.max(at.history.entries().first().map_or(Lsn::INVALID, |entry| entry.start));
        }
        let is_known = |at: &Snapshot| {
            at.flush_lsn <= at.lineage.start_lsn.max(at.horizon_lsn) || at.flush_lsn > known_from
        };
        let held = self.committed_prefix(node);
        node.is_gone
            || held < oldest.min(self.oracle.commit_lsn())
            || node.serving().is_some_and(|at| at.flush_lsn < oldest || !is_known(&at))
    }

    /// True when the other nodes may remove WAL that the node lacks, by the rule of retention: nobody could feed it then.
    /// Everything that a node has flushed may be committed already, also by a node that is gone: its acknowledgement may
    /// still be on its way.
    fn may_be_given_up(&self, id: NodeId) -> bool {
        let Some(retention) = self.retention.filter(|_| self.dialect == Dialect::Holdfast) else {
            return false;
        };
        let kept = retention.wal_keep_bytes.max(retention.member_keep_bytes_max);
        let log = &self.nodes[self.index(id)].mirror;
        let has_needed = |other: &Node| {
            let removable = Lsn(other.mirror.end().0.saturating_sub(kept));
            let from = log.base().max(other.mirror.base());
            let has_same =
                removable <= from || log.slice(from, removable) == other.mirror.slice(from, removable);
            log.end() >= removable && has_same
        };
        if self.is_healing {
            // All connections were closed: nothing is on its way any more, and longer logs are dead tails.
            let removable = Lsn(self.oracle.commit_lsn().0.saturating_sub(kept));
            return self.committed_prefix(&self.nodes[self.index(id)]) < removable;
        }
        !self.nodes.iter().all(has_needed)
    }

    /// Position up to which a node's log, as it was seen last, is the committed log.
    fn committed_prefix(&self, node: &Node) -> Lsn {
        let base = node.mirror.base();
        let commit = self.oracle.commit_lsn();
        if commit <= base {
            return base;
        }
        let (held, committed) = (node.mirror.slice(base, commit), &self.oracle.committed()[offset(base)..]);
        base.advance(first_difference(held, committed) as u64)
    }

    /// True when every known voting set keeps a majority of undamaged disks without this node.
    pub(crate) fn budget_allows_loss(&self, node: NodeId) -> bool {
        self.known_sets()
            .iter()
            .filter(|set| set.contains(&node))
            .all(|set| self.has_whole_majority(set, Some(node)))
    }

    /// True when every known voting set has a majority of undamaged disks that can be fed.
    pub(super) fn every_set_has_whole_majority(&self) -> bool {
        self.known_sets().iter().all(|set| self.has_whole_majority(set, None))
    }

    fn has_whole_majority(&self, set: &[NodeId], without: Option<NodeId>) -> bool {
        let whole = |id: &&NodeId| {
            let is_fed = !self.is_lost_for_good(**id) && !self.may_be_given_up(**id);
            Some(**id) != without && is_fed && !self.oracle.is_damaged(**id)
        };
        set.iter().filter(whole).count() >= majority(set.len())
    }

    fn known_sets(&self) -> Vec<Vec<NodeId>> {
        self.configurations().iter().flat_map(|configuration| configuration.sets()).collect()
    }

    fn configurations(&self) -> Vec<Arc<Configuration>> {
        let nodes = self.nodes.iter().map(|node| node.configuration.clone());
        let writers =
            self.writers.iter().flatten().filter_map(|writer| writer.engine.holdfast()?.configuration());
        let newest_decided = self.oracle.newest_generation();
        // A proposed configuration may still be on its way.
        let proposed = self.proposed.iter().filter(|one| one.generation >= newest_decided);
        nodes.chain(writers.chain(proposed).cloned().map(Arc::new)).collect()
    }

    /// The designated primary, as the writer in `slot` knows it.
    pub(crate) fn designated(&self, slot: usize) -> Option<Primary> {
        let writer = self.writers[slot].as_ref()?;
        writer.engine.holdfast()?.configuration()?.primary
    }

    /// Loses a disk with all the promises of its node, which never comes back under its name.
    pub(crate) fn lose_disk(&mut self, node: NodeId) -> Result<(), Violation> {
        if !self.budget_allows_loss(node) || self.dialect == Dialect::Neon {
            return Ok(());
        }
        self.stats.lost_disks += 1;
        self.retire_node(node)?;
        // The number comes back with an empty copy of the log, which is no member.
        if self.rng.random() {
            self.trace.line(format_args!("the log of node {node} is created anew"));
            let (dialect, index) = (self.dialect, self.index(node));
            self.nodes[index].create_anew(dialect, START);
        }
        Ok(())
    }

    /// Removes a node for good.
    pub(crate) fn retire_node(&mut self, node: NodeId) -> Result<(), Violation> {
        self.trace.line(format_args!("node {node} is lost for good"));
        self.crash(node, Death::Power)?;
        let index = self.index(node);
        self.nodes[index].is_gone = true;
        self.oracle.record_damage(node);
        self.nodes[index].disk.wipe();
        Ok(())
    }
}
