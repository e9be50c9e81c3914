//! Connections of a [`Campaign`]: handles the events of the links, dials and removes safekeepers, and fills the queues.

use std::sync::Arc;

use consensus::{AcceptorMessage, Action, LostTerm};
use tokio::time::Instant;
use wal_types::NodeId;

use super::configuration_changes::address_of;
use super::follower::{Connection, Donors, Follower, FollowerProblem};
use super::{COMMIT_TELL_DELAY, Campaign};
use crate::change_result::FOLLOWERS_MAX;
use crate::config::SafekeeperAddress;
use crate::safekeeper_link::{self, Envelope, LinkEvent};

impl Campaign {
    /// Handles one event of a link. Messages of a connection that was replaced are ignored.
    pub(super) fn handle_link_event(&mut self, envelope: Envelope) -> Result<(), LostTerm> {
        let Envelope { node, incarnation, event } = envelope;
        let Some(follower) = self.followers.get_mut(&node) else { return Ok(()) };
        let is_current =
            follower.connection.as_ref().is_some_and(|connection| connection.incarnation == incarnation);

        match event {
            LinkEvent::Connecting => follower.connecting = true,
            LinkEvent::Connected(queue) => {
                follower.connection = Some(Connection { incarnation, queue, unanswered_since: None });
                self.proposer.connected(node);
            }
            LinkEvent::Message(message) if is_current => return self.handle_message(node, message),
            // From a connection that was closed here.
            LinkEvent::Message(_) => {}
            LinkEvent::Disconnected(reason) => {
                follower.connecting = false;
                if let Some(reason) = reason {
                    // The reason that ended a conversation is kept until a later connection has come as far as
                    // streaming: a safekeeper that refuses is connected to again and again, and greets each time.
                    follower.problem = Some(FollowerProblem { reason, until_streaming: is_current });
                }
                if is_current {
                    self.close_connection(node);
                }
            }
        }
        Ok(())
    }

    fn handle_message(&mut self, node: NodeId, message: AcceptorMessage) -> Result<(), LostTerm> {
        // A wrong address would let one safekeeper vote for two, and WAL on one disk would count as a majority's.
        if let AcceptorMessage::Greeting(greeting) = &message
            && greeting.node_id != node
        {
            let reason = format!("wrong address: safekeeper {} answers there", greeting.node_id);
            self.reset_connection(node, &reason);
            return Ok(());
        }

        if let Some(follower) = self.followers.get_mut(&node) {
            follower.record_answer(matches!(message, AcceptorMessage::Append(_)));
        }
        for action in self.proposer.receive(node, message)? {
            match action {
                Action::Reset(node) => self.reset_connection(node, "the answer does not fit the request"),
                Action::Committed(_) => {
                    self.announce_commit_at.get_or_insert(Instant::now() + COMMIT_TELL_DELAY);
                    self.actions.push_back(action);
                }
                Action::Configured(configuration) => {
                    self.record_decision(&configuration);
                    self.publish_status();
                    self.actions.push_back(Action::Configured(configuration));
                }
                Action::PreVoted { .. } | Action::Elected(_) | Action::Checksum { .. } => {
                    self.actions.push_back(action);
                }
            }
        }
        if self.dials_unlisted_members {
            self.dial_unlisted_members();
        }
        Ok(())
    }

    /// Connects to members that the command line does not list but the safekeepers' configuration does.
    fn dial_unlisted_members(&mut self) {
        for member in self.proposer.unknown_members() {
            if self.followers.len() >= FOLLOWERS_MAX {
                return;
            }
            let address = address_of(&member);
            tracing::info!(safekeeper = %address.id, %address, "connecting to a member that --safekeepers does not list");
            self.dial(address);
        }
    }

    /// Starts a link to a safekeeper, unless there is one.
    pub(super) fn dial(&mut self, address: SafekeeperAddress) {
        if self.followers.contains_key(&address.id) {
            return;
        }
        if self.cluster.safekeepers.iter().all(|known| known.id != address.id) {
            Arc::make_mut(&mut self.cluster).safekeepers.push(address.clone());
        }
        self.proposer.add_peer(address.id);

        let running = safekeeper_link::run(Arc::clone(&self.cluster), address.clone(), self.handle.clone());
        let link = self.links.spawn(running);
        self.followers.insert(address.id, Follower::new(address, link));
    }

    /// Closes the connection and ends its link.
    pub(super) fn remove_follower(&mut self, node: NodeId) {
        self.close_connection(node);
        if let Some(follower) = self.followers.remove(&node) {
            follower.link.abort();
        }
        Arc::make_mut(&mut self.cluster).safekeepers.retain(|known| known.id != node);
        while self.links.try_join_next().is_some() {}
    }

    /// Closes the connection; its link opens a new one.
    pub(super) fn reset_connection(&mut self, node: NodeId, reason: &str) {
        tracing::warn!(safekeeper = %node, reason, "resetting the connection to a safekeeper");
        self.close_connection(node);
        if let Some(follower) = self.followers.get_mut(&node) {
            follower.problem = Some(FollowerProblem { reason: reason.to_owned(), until_streaming: true });
        }
    }

    fn close_connection(&mut self, node: NodeId) {
        self.proposer.disconnected(node);
        if let Some(follower) = self.followers.get_mut(&node) {
            follower.connection = None;
            follower.donor_stream = None;
        }
    }

    /// Moves messages of the proposer into the queues of the links, as far as there is room.
    pub(crate) fn send_due_messages(&mut self) {
        for (&node, follower) in &mut self.followers {
            while let Some(connection) = &mut follower.connection {
                // A closed queue belongs to a connection whose Disconnected event is still to come.
                let Ok(room) = connection.queue.try_reserve() else { break };
                if let Some(message) = self.proposer.poll_send(node) {
                    room.send(message);
                    connection.unanswered_since.get_or_insert_with(Instant::now);
                    continue;
                }
                drop(room);
                let donors = Donors { cluster: &self.cluster, wake: &self.wake };
                if !follower.advance_catch_up(node, &mut self.proposer, &donors) {
                    break;
                }
            }
        }
    }
}
