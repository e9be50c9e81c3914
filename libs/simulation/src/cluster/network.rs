//! Network of the simulation: queues between writers and nodes. Messages of one connection keep their order, as on TCP;
//! between connections there is no order. A message waits as long as the schedule decides, and each end notices
//! separately that the other end is gone.

use consensus::{AcceptorMessage, ConnectionId, ProposerMessage};
use rand::RngExt;
use wal_store::{Input, Output};
use wal_types::NodeId;

use super::Cluster;
use super::half_open::HalfOpen;
use crate::invariants::Violation;
use crate::writer::{Link, Writer};

/// Half-open connections that are kept. The oldest ends first.
const HALF_OPEN_MAX: usize = 12;

impl Cluster {
    /// Connects the writer in `slot` to a node that is up and that it knows.
    pub(crate) fn connect(&mut self, slot: usize, node: NodeId) {
        if !self.nodes.iter().any(|one| one.id == node && one.is_up()) {
            return;
        }
        let id = self.next_connection();
        let Some(writer) = self.writers[slot].as_mut().filter(|writer| !writer.links.contains_key(&node))
        else {
            return;
        };
        if !writer.peers.contains(&node) {
            return;
        }
        writer.connect(node, id);
        self.campaigns.insert(id, writer.campaign);
    }

    fn next_connection(&mut self) -> ConnectionId {
        ConnectionId(self.campaigns.last_key_value().map_or(0, |(id, _)| id.0) + 1)
    }

    /// A connection breaks: both ends see it at once, or one end sees it much later.
    pub(crate) fn cut_connection(&mut self, slot: usize, node: NodeId) {
        let Some(writer) = &mut self.writers[slot] else { return };
        let Some(link) = writer.links.get_mut(&node) else { return };
        if !self.is_healing && !link.closed_by_node && self.rng.random_range(0..3) == 0 {
            self.trace.line(format_args!("node {node} closes the connection of writer {slot}"));
            link.closed_by_node = true;
            link.to_node.clear();
            let id = link.id;
            self.node(node).deliver(id, Input::Disconnected);
            return;
        }
        self.trace.line(format_args!("connection of writer {slot} and node {node} breaks"));
        let link = writer.disconnect(node);
        let is_over = writer.is_over;
        if let Some(link) = link {
            self.abandon(node, link);
        }
        if is_over {
            self.end_writer(slot);
        }
    }

    /// Handles a connection whose writer's end is closed.
    pub(super) fn abandon(&mut self, node: NodeId, link: Link) {
        if link.closed_by_node {
            return;
        }
        let lingers = !self.is_healing && self.rng.random_range(0..2) == 0;
        if lingers && !link.to_node.is_empty() {
            self.add_half_open(HalfOpen { node, id: link.id, messages: link.to_node });
        } else {
            self.node(node).deliver(link.id, Input::Disconnected);
        }
    }

    fn add_half_open(&mut self, half_open: HalfOpen) {
        if self.half_open.len() >= HALF_OPEN_MAX {
            let oldest = self.half_open.remove(0);
            self.node(oldest.node).deliver(oldest.id, Input::Disconnected);
        }
        self.half_open.push(half_open);
    }

    /// Closes all half-open connections.
    pub(crate) fn close_half_open(&mut self) {
        for half_open in std::mem::take(&mut self.half_open) {
            self.node(half_open.node).deliver(half_open.id, Input::Disconnected);
        }
    }

    /// Delivers messages of a half-open connection, after its writer is gone.
    pub(crate) fn deliver_late(&mut self) {
        if self.half_open.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.half_open.len());
        let count = self.rng.random_range(1..8);
        let half_open = &mut self.half_open[index];
        let (node, id) = (half_open.node, half_open.id);

        let messages: Vec<_> = half_open.messages.drain(..count.min(half_open.messages.len())).collect();
        let is_over = half_open.messages.is_empty();
        self.stats.late_messages += messages.len() as u64;
        let target = self.node(node);
        messages.into_iter().for_each(|message| target.deliver(id, Input::Message(message)));
        if is_over {
            target.deliver(id, Input::Disconnected);
            self.half_open.remove(index);
        }
    }

    /// Sends the messages of one connection once more, over another connection of the same campaign.
    pub(crate) fn repeat(&mut self, slot: usize, node: NodeId) {
        let Some(writer) = &self.writers[slot] else { return };
        let Some(link) = writer.links.get(&node).filter(|link| link.remembered.len() > 1) else { return };
        let (campaign, messages) = (writer.campaign, link.remembered.iter().cloned().collect());
        self.trace.line(format_args!("messages of writer {slot} to node {node} are sent once more"));
        self.stats.repeated_connections += 1;
        let id = self.next_connection();
        self.campaigns.insert(id, campaign);
        self.add_half_open(HalfOpen { node, id, messages });
    }

    /// Ends the connections of a node that went down. Each writer notices now or later.
    pub(super) fn lose_connections(&mut self, node: NodeId) {
        self.half_open.retain(|half_open| half_open.node != node);
        for writer in self.writers.iter_mut().flatten() {
            if self.is_healing || self.rng.random_range(0..2) == 0 {
                writer.disconnect(node);
            } else if let Some(link) = writer.links.get_mut(&node) {
                link.closed_by_node = true;
                link.to_node.clear();
            }
        }
        for slot in 0..self.writers.len() {
            if self.writers[slot].as_ref().is_some_and(|writer| writer.is_over) {
                self.end_writer(slot);
            }
        }
    }

    /// Moves messages from a writer into its connection.
    pub(crate) fn send(&mut self, slot: usize, node: NodeId, count: usize) -> Result<(), Violation> {
        self.fetch(slot, node)?;
        if let Some(writer) = &mut self.writers[slot] {
            writer.send(node, count);
        }
        Ok(())
    }

    /// Moves up to `count` messages of a connection to the node.
    pub(crate) fn deliver(&mut self, slot: usize, node: NodeId, count: usize) {
        let link = self.writers[slot].as_mut().and_then(|writer| writer.links.get_mut(&node));
        let Some(link) = link.filter(|link| !link.closed_by_node) else {
            return;
        };
        let id = link.id;
        let count = count.min(link.to_node.len());
        let messages: Vec<ProposerMessage> = link.to_node.drain(..count).collect();
        let target = self.node(node);
        messages.into_iter().for_each(|message| target.deliver(id, Input::Message(message)));
    }

    /// Puts the replies of a node into their connections, and closes refused connections.
    pub(super) fn route_replies(&mut self, node: NodeId, output: Output) -> Result<(), Violation> {
        for (to, message) in output.replies {
            let campaign = self.campaigns.get(&to).copied().unwrap_or_default();
            // What a copy says that is no member binds no one, and no quorum may count it.
            let counts = self.nodes[self.index(node)].anew == 0;
            if counts {
                self.oracle.record_reply(node, campaign, &message)?;
            }
            if let Some(seen) = self.nodes[self.index(node)].snapshot() {
                self.oracle.node_offers_only_wal_it_has(&seen, node, &message)?;
            }
            if let AcceptorMessage::Vote(vote) = &message
                && counts
            {
                self.stats.refused_votes += u64::from(!vote.vote_given);
                let index = self.index(node);
                self.oracle.lost_node_does_not_vote(&self.nodes[index], vote)?;
            }
            let writers = self.writers.iter_mut().flatten();
            if let Some(link) =
                writers.filter_map(|writer| writer.links.get_mut(&node)).find(|link| link.id == to)
            {
                link.to_writer.push_back(message);
            }
        }

        for (connection, refusal) in output.refused {
            self.trace.line(format_args!("node {node} refuses: {refusal}"));
            self.half_open.retain(|half_open| half_open.id != connection);
            let with = |writer: &Option<Writer>| {
                writer
                    .as_ref()
                    .is_some_and(|writer| writer.links.get(&node).is_some_and(|link| link.id == connection))
            };
            if let Some(slot) = self.writers.iter().position(with)
                && let Some(link) = self.writers[slot].as_mut().and_then(|writer| writer.links.get_mut(&node))
            {
                // The writer still receives the earlier replies.
                link.closed_by_node = true;
                link.to_node.clear();
            }
        }
        Ok(())
    }
}
