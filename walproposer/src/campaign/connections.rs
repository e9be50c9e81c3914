//! Connections of a [`Campaign`]: takes them from the dialers, reads their answers, fills and writes their buffers, and
//! adds and removes safekeepers.

use std::ops::Bound;
use std::sync::Arc;
use std::task::{Context, Poll};

use consensus::{AcceptorMessage, Action, LostTerm};
use tokio::time::Instant;
use wal_types::NodeId;

use super::configuration_changes::address_of;
use super::follower::{Connection, Follower, FollowerProblem};
use super::{COMMIT_TELL_DELAY, Campaign};
use crate::change_result::FOLLOWERS_MAX;
use crate::config::SafekeeperAddress;
use crate::safekeeper_dialer::{self, DialEvent, Dialed};
use crate::safekeeper_link::LinkError;

impl Campaign {
    /// Takes all connections that dialers have opened. True when there was an event.
    pub(super) fn poll_dialers(&mut self) -> bool {
        if !self.events_flag.take() {
            return false;
        }
        let waker = self.events_flag.waker().clone();
        let cx = &mut Context::from_waker(&waker);
        let mut any = false;
        while let Poll::Ready(Some(dialed)) = self.events.poll_recv(cx) {
            self.handle_dialed(dialed);
            any = true;
        }
        any
    }

    /// Handles one event of a dialer. Events of a dialer that was replaced are ignored, and its connection is closed.
    pub(super) fn handle_dialed(&mut self, dialed: Dialed) {
        let Dialed { node, dialer, event } = dialed;
        let Some(follower) = self.followers.get_mut(&node).filter(|follower| follower.dialer == dialer)
        else {
            return;
        };

        match event {
            DialEvent::Connecting => follower.connecting = true,
            DialEvent::Connected(open) => {
                self.connections_opened += 1;
                let flag = self.task.flag();
                follower.connection = Some(Connection::new(self.connections_opened, *open, flag));
                self.proposer.connected(node);
            }
            DialEvent::Failed(reason) => {
                follower.connecting = false;
                follower.problem = Some(FollowerProblem { reason, until_streaming: false });
            }
        }
    }

    /// Handles all answers that have arrived. True when there was one, or a connection ended.
    pub(super) fn poll_answers(&mut self) -> Result<bool, LostTerm> {
        let mut any = false;
        let mut after = Bound::Unbounded;
        while let Some((&node, follower)) = self.followers.range((after, Bound::Unbounded)).next() {
            after = Bound::Excluded(node);
            if !follower.take_woken() {
                continue;
            }
            while let Some(Poll::Ready(answer)) =
                self.followers.get_mut(&node).and_then(Follower::poll_answer)
            {
                any = true;
                match answer {
                    Ok(message) => self.handle_answer(node, message)?,
                    Err(error) => self.connection_ended(node, &error),
                }
            }
        }
        Ok(any)
    }

    pub(super) fn handle_answer(&mut self, node: NodeId, message: AcceptorMessage) -> Result<(), LostTerm> {
        // A wrong address would let one safekeeper vote for two, and WAL on one disk would count as a majority's.
        if let AcceptorMessage::Greeting(greeting) = &message
            && greeting.node_id != node
        {
            let reason = format!("wrong address: safekeeper {} answers there", greeting.node_id);
            self.reset_connection(node, &reason);
            return Ok(());
        }

        let is_append = matches!(message, AcceptorMessage::Append(_));
        if let Some(follower) = self.followers.get_mut(&node) {
            follower.record_answer(is_append);
        }
        for action in self.proposer.receive(node, message)? {
            match action {
                Action::Reset(node) => self.reset_connection(node, "the answer does not fit the request"),
                Action::Committed(_) => {
                    if self.commit_tell.set(Instant::now() + COMMIT_TELL_DELAY) {
                        self.timers_flag.set();
                    }
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
        // An answer to an append names no members.
        if self.dials_unlisted_members && !is_append {
            self.dial_unlisted_members();
        }
        Ok(())
    }

    /// Moves messages of the proposer into the buffers of the links, as far as there is room, and writes them as far as the
    /// sockets take them. True when another call could send more at once.
    pub(crate) fn send_due_messages(&mut self, cx: &mut Context<'_>) -> bool {
        self.task.set(cx);
        let mut more = false;
        let mut after = Bound::Unbounded;
        while let Some((&node, follower)) = self.followers.range_mut((after, Bound::Unbounded)).next() {
            after = Bound::Excluded(node);
            match follower.send_due(cx, &mut self.proposer, &self.cluster) {
                Ok(has_more) => more |= has_more,
                Err(error) => self.connection_ended(node, &error),
            }
        }
        more
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

    /// Starts to connect to a safekeeper, unless it is known.
    pub(super) fn dial(&mut self, address: SafekeeperAddress) {
        if self.followers.contains_key(&address.id) {
            return;
        }
        if self.cluster.safekeepers.iter().all(|known| known.id != address.id) {
            Arc::make_mut(&mut self.cluster).safekeepers.push(address.clone());
        }
        self.proposer.add_peer(address.id);

        self.dialers_started += 1;
        let number = self.dialers_started;
        let cluster = Arc::clone(&self.cluster);
        let running = safekeeper_dialer::run(cluster, address.clone(), number, self.events_sender.clone());
        let task = self.dialers.spawn(running);
        self.followers.insert(address.id, Follower::new(address, number, task));
    }

    /// Closes the connection and ends its dialer.
    pub(super) fn remove_follower(&mut self, node: NodeId) {
        self.close_connection(node);
        if let Some(follower) = self.followers.remove(&node) {
            follower.dialer_task.abort();
        }
        Arc::make_mut(&mut self.cluster).safekeepers.retain(|known| known.id != node);
        while self.dialers.try_join_next().is_some() {}
    }

    /// Closes the connection; its dialer opens a new one.
    pub(super) fn reset_connection(&mut self, node: NodeId, reason: &str) {
        tracing::warn!(safekeeper = %node, reason, "resetting the connection to a safekeeper");
        self.close_connection(node);
        self.record_end(node, reason.to_owned());
    }

    pub(super) fn connection_ended(&mut self, node: NodeId, error: &LinkError) {
        tracing::debug!(safekeeper = %node, %error, "connection to a safekeeper ended");
        self.close_connection(node);
        self.record_end(node, error.to_string());
    }

    /// Keeps the reason that ended a conversation until a later connection has come as far as streaming: a safekeeper that
    /// refuses is connected to again and again, and greets each time.
    fn record_end(&mut self, node: NodeId, reason: String) {
        if let Some(follower) = self.followers.get_mut(&node) {
            follower.connecting = false;
            follower.problem = Some(FollowerProblem { reason, until_streaming: true });
        }
    }

    fn close_connection(&mut self, node: NodeId) {
        self.proposer.disconnected(node);
        if let Some(follower) = self.followers.get_mut(&node) {
            follower.connection = None;
            follower.donor_stream = None;
        }
    }
}
