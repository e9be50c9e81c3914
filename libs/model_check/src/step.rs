//! [`Step`]: carries out one action on a copy of a state. Each action returns the next state, or `None` when it is not
//! possible.
//!
//! The other parts of [`Step`] are in files of their own: `pre_vote` starts campaigns, `deliver` moves messages, `observe`
//! records and checks what is decided, `reduce` drops what makes no difference.

use consensus::ProposerMessage;

use crate::bounds::Bounds;
use crate::coverage::{Coverage, Event};
use crate::link::split_append;
use crate::names::{connection, id, initial_configuration};
use crate::node::Delivery;
use crate::state::ClusterState;
use crate::writer::Writer;

/// A state while an action changes it. The acting writer is taken out of it.
pub(crate) struct Step<'a> {
    pub(crate) bounds: &'a Bounds,
    pub(crate) coverage: &'a Coverage,
    pub(crate) state: ClusterState,
}

impl<'a> Step<'a> {
    pub(crate) fn new(bounds: &'a Bounds, coverage: &'a Coverage, state: &ClusterState) -> Self {
        Self { bounds, coverage, state: state.clone() }
    }

    /// Exchanges the next message and its replies. Without a connection, a new connection and its greeting come first.
    /// The node crashes after `effects_max` effects, unless that is `usize::MAX`.
    pub(crate) fn exchange(mut self, writer: usize, node: usize, effects_max: usize) -> Option<ClusterState> {
        let mut acting = Writer::clone(&self.state.writers[writer]);
        if !self.link(writer, node).is_open {
            if acting.is_leading() {
                self.coverage.count(Event::Reconnected);
            }
            self.connect(&mut acting, writer, node);
            let greeting = acting.campaign.as_mut()?.poll_send(id(node))?;
            self.deliver(&mut acting, writer, node, greeting, usize::MAX);
            self.handle_replies(&mut acting, writer, node);
            if acting.campaign.is_none() || self.bounds.messages_wait() {
                return (effects_max == usize::MAX).then_some(()).and_then(|()| self.finish(writer, acting));
            }
        }
        let message = self.poll_piece(&mut acting, writer, node)?;

        let is_elected = is_elected(&message);
        let is_leaders = is_elected || matches!(message, ProposerMessage::Append(_));

        let before = self.state.nodes[node].clone();
        let crashed = self.deliver(&mut acting, writer, node, message, effects_max);
        if self.is_idle(&acting, writer, node, &before) {
            return None;
        }
        if is_elected && effects_max == usize::MAX && self.link(writer, node).is_open {
            // The first append follows on the same connection, and only it gets a reply.
            if let Some(append) = self.poll_piece(&mut acting, writer, node) {
                self.deliver(&mut acting, writer, node, append, usize::MAX);
            }
        }

        if effects_max != usize::MAX {
            if !crashed {
                return None;
            }
            self.state.crashes_left -= 1;
        }

        if !self.bounds.replies_wait() || !is_leaders {
            self.handle_replies(&mut acting, writer, node);
        }
        self.drop_uninformative_reply(&acting, writer, node);
        self.finish(writer, acting)
    }

    /// The leader begins a change of the configuration.
    pub(crate) fn change(self, writer: usize, choice: usize) -> Option<ClusterState> {
        let mut acting = Writer::clone(&self.state.writers[writer]);
        let change = self.bounds.change(choice)?;
        let proposer = acting.campaign.as_mut()?;
        if proposer.configuration()?.generation != initial_configuration().generation {
            return None;
        }
        proposer.begin_change(change).ok()?;
        self.coverage.count(Event::Changing);
        self.finish(writer, acting)
    }

    /// A node restarts from its disk.
    pub(crate) fn crash(mut self, node: usize) -> Option<ClusterState> {
        self.state.crashes_left -= 1;
        self.state.nodes[node].change(|node| node.restart());
        for writer in 0..self.state.writers.len() {
            self.disconnect(writer, node);
        }
        self.coverage.count(Event::Crashed);
        Some(self.state)
    }

    /// A node persists its commit position.
    pub(crate) fn checkpoint(mut self, node: usize) -> Option<ClusterState> {
        self.state.nodes[node].change(|node| node.checkpoint());
        Some(self.state)
    }

    /// The proposer's next message goes on its way.
    pub(crate) fn send(mut self, writer: usize, node: usize) -> Option<ClusterState> {
        let mut acting = Writer::clone(&self.state.writers[writer]);
        let mut message = self.poll(&mut acting, node);
        if message.is_none() && self.write(&mut acting) {
            message = self.poll(&mut acting, node);
        }
        let message = message?;
        let first_append = if is_elected(&message) { self.poll(&mut acting, node) } else { None };
        let sent = [message].into_iter().chain(first_append).flat_map(split_append);
        self.link_mut(writer, node, |link| link.to_node.extend(sent));
        self.finish(writer, acting)
    }

    /// The next message reaches the node.
    pub(crate) fn arrive(mut self, writer: usize, node: usize) -> Option<ClusterState> {
        let mut acting = Writer::clone(&self.state.writers[writer]);
        let message = self.link_mut(writer, node, |link| link.to_node.pop_front())?;
        let and_append = is_elected(&message);
        let before = self.state.nodes[node].clone();
        self.deliver(&mut acting, writer, node, message, usize::MAX);
        if self.is_idle(&acting, writer, node, &before) {
            return None;
        }
        if and_append && let Some(append) = self.link_mut(writer, node, |link| link.to_node.pop_front()) {
            self.deliver(&mut acting, writer, node, append, usize::MAX);
        }
        self.finish(writer, acting)
    }

    /// The next message of an ended campaign reaches the node. Its sender is gone, so the reply is lost.
    pub(crate) fn arrive_late(mut self, writer: usize, node: usize) -> Option<ClusterState> {
        let from = connection(writer, !self.link(writer, node).is_second);
        let message = self.link_mut(writer, node, |link| link.late.pop_front())?;
        let coverage = self.coverage;
        let outcome = self.state.nodes[node].change(|node| node.receive(from, message, usize::MAX, coverage));
        match outcome {
            Err(broken) => self.record_violation(broken),
            Ok(Delivery::Refused) => self.link_mut(writer, node, |link| link.late.clear()),
            Ok(Delivery::Replies(_) | Delivery::Crashed) => {}
        }
        if self.link(writer, node).late.is_empty() {
            self.state.nodes[node].change(|node| node.acceptor.disconnected(from));
        }
        self.drop_irrelevant();
        Some(self.state)
    }

    /// The next reply reaches the writer.
    pub(crate) fn reply(mut self, writer: usize, node: usize) -> Option<ClusterState> {
        let mut acting = Writer::clone(&self.state.writers[writer]);
        let message = self.link_mut(writer, node, |link| link.to_writer.pop_front())?;
        self.handle_reply(&mut acting, writer, node, message);
        self.finish(writer, acting)
    }

    /// A connection breaks, and its messages are lost.
    pub(crate) fn break_connection(mut self, writer: usize, node: usize) -> Option<ClusterState> {
        self.state.disconnects_left -= 1;
        self.disconnect(writer, node);
        Some(self.state)
    }
}

const fn is_elected(message: &ProposerMessage) -> bool {
    matches!(message, ProposerMessage::Elected(_))
}
