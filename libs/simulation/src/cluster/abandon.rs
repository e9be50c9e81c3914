//! Changes of members in vain: the new members do not come, and a leader leaves the joint configuration again.

use consensus::{ConfigurationChange, Proposer};
use rand::RngExt;
use rand::seq::SliceRandom;
use wal_types::NodeId;

use super::Cluster;
use crate::invariants::Violation;

/// Most members of the next set that are no members yet.
const STRANGERS_MAX: usize = 3;

impl Cluster {
    /// Tells a leader to change to members of which most are new. Returns the new ones; none when nothing has begun.
    pub(crate) fn change_to_strangers(&mut self, slot: usize) -> Vec<NodeId> {
        let Some(current) = self.leader_configuration(slot) else { return Vec::new() };
        let old: Vec<NodeId> = current.members.iter().map(|member| member.id).collect();
        let mut strangers: Vec<NodeId> = self.node_ids();
        strangers.retain(|id| !old.contains(id) && self.can_vote(slot, *id, false));
        strangers.shuffle(&mut self.rng);
        strangers.truncate(self.rng.random_range(1..=STRANGERS_MAX));

        let stays = |id: &&NodeId| self.can_vote(slot, **id, true);
        let staying = old.iter().filter(stays).take(strangers.len() - usize::from(!strangers.is_empty()));
        let mut next: Vec<NodeId> = strangers.iter().chain(staying).copied().collect();
        next.sort_unstable();
        if strangers.is_empty() || !self.begin_change(slot, next) { Vec::new() } else { strangers }
    }

    /// The members that vote under the leader in `slot`, without those of a change under way.
    pub(crate) fn members(&self, slot: usize) -> Vec<NodeId> {
        let members = self.leader_configuration(slot).map(|current| current.members).unwrap_or_default();
        members.iter().map(|member| member.id).collect()
    }

    /// True while the writer in `slot` leads under a joint configuration.
    pub(crate) fn is_joint(&self, slot: usize) -> bool {
        self.leader_configuration(slot).is_some_and(|current| !current.new_members.is_empty())
    }

    /// Tells a leader to leave the joint configuration that it acts under, if it acts under one.
    pub(crate) fn abandon_change(&mut self, slot: usize) -> Result<(), Violation> {
        let Some(joint) = self.leader_configuration(slot).filter(|one| !one.new_members.is_empty()) else {
            return Ok(());
        };
        let Some(writer) = self.writers[slot].as_mut() else { return Ok(()) };
        let Some(proposer) = writer.engine.holdfast_mut() else { return Ok(()) };
        if let Err(refused) = proposer.begin_change(ConfigurationChange::Abandon) {
            self.trace.line(format_args!("writer {slot} keeps the joint configuration: {refused}"));
            self.stats.kept_changes += 1;
            return Ok(());
        }
        writer.learn_members();
        self.proposed.extend(writer.engine.holdfast().and_then(Proposer::configuration).cloned());
        self.trace.line(format_args!("writer {slot} leaves the joint configuration {}", joint.generation));
        self.stats.abandoned_changes += 1;

        let old = joint.members.iter().map(|member| member.id).collect();
        let term = writer.engine.term();
        self.oracle.abandoned_change_keeps_committed_bytes(self.nodes.iter(), old, term)
    }
}
