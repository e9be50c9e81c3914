//! Delivery of messages: opens and closes connections, moves messages to nodes and replies to writers.

use consensus::{AcceptorMessage, Action, LostTerm, Proposer, ProposerMessage};
use wal_types::Lsn;

use crate::bounds::Kind;
use crate::coverage::Event;
use crate::link::{Link, split_append};
use crate::names::{connection, id, index};
use crate::node::Delivery;
use crate::record::{Record, lsn, records_below, to_wal};
use crate::step::Step;
use crate::writer::Writer;

impl Step<'_> {
    /// Opens the connection of a writer to a node.
    pub(crate) fn connect(&mut self, acting: &mut Writer, writer: usize, node: usize) {
        if let Some(proposer) = &mut acting.campaign {
            proposer.connected(id(node));
        }
        self.link_mut(writer, node, |link| link.is_open = true);
    }

    /// The primary writes one record, unique at its position, and the proposer reads it. False when it cannot write.
    pub(crate) fn write(&self, acting: &mut Writer) -> bool {
        let index = acting.wal.len();
        if index >= self.bounds.log || !acting.may_write() {
            return false;
        }
        let Some(term) = acting.campaign.as_ref().map(Proposer::term) else { return false };
        // Only the leader of a term writes in it, one record at each position.
        let record = Record::of(term);
        acting.wal.push(record);
        let proposer = acting.campaign.as_mut();
        proposer.is_some_and(|proposer| proposer.append(lsn(index), to_wal(&[record])))
    }

    /// The proposer's next message to the node. WAL that the proposer lacks is read from a donor.
    pub(crate) fn poll(&self, acting: &mut Writer, node: usize) -> Option<ProposerMessage> {
        let proposer = acting.campaign.as_mut()?;
        if let Some(fetch) = proposer.poll_fetch(id(node)) {
            let donor = &self.state.nodes[index(fetch.donor)];
            // A donor serves only a reader of its own term.
            if donor.acceptor.state().term == proposer.term() {
                let records = donor.log().get(records_below(fetch.from)..records_below(fetch.until))?;
                let taken = proposer.fetched(id(node), fetch.donor, fetch.from, &to_wal(records));
                debug_assert!(taken, "the proposer takes what it asked for");
                self.coverage.count(Event::Fetched);
            }
        }
        proposer.poll_send(id(node))
    }

    /// The next message to the node, with appends split into records.
    pub(crate) fn poll_piece(
        &mut self,
        acting: &mut Writer,
        writer: usize,
        node: usize,
    ) -> Option<ProposerMessage> {
        if !self.link(writer, node).to_node.is_empty() {
            return self.link_mut(writer, node, |link| link.to_node.pop_front());
        }
        let mut message = self.poll(acting, node);
        // The primary writes only when a node can receive the record: a record that is never sent has no effect.
        if message.is_none() && self.write(acting) {
            message = self.poll(acting, node);
        }
        let mut parts = split_append(message?).into_iter();
        let first = parts.next();
        if parts.len() > 0 {
            self.link_mut(writer, node, |link| link.to_node.extend(parts));
        }
        first
    }

    /// Delivers a message to a node and queues the replies. True when the node crashed.
    pub(crate) fn deliver(
        &mut self,
        acting: &mut Writer,
        writer: usize,
        node: usize,
        message: ProposerMessage,
        effects_max: usize,
    ) -> bool {
        let from = connection(writer, self.link(writer, node).is_second);
        let coverage = self.coverage;
        let outcome =
            self.state.nodes[node].change(|node| node.receive(from, message, effects_max, coverage));

        match outcome {
            Err(broken) => self.record_violation(broken),
            Ok(Delivery::Replies(replies)) if replies.is_empty() => {}
            Ok(Delivery::Replies(replies)) => {
                let replies = replies
                    .into_iter()
                    .filter(|(to, _)| *to == from)
                    .map(|(_, message)| without_commit(message));
                self.link_mut(writer, node, |link| link.to_writer.extend(replies));
            }
            Ok(Delivery::Refused) => {
                if let Some(proposer) = &mut acting.campaign {
                    proposer.disconnected(id(node));
                }
                self.close(writer, node);
            }
            Ok(Delivery::Crashed) => {
                if let Some(proposer) = &mut acting.campaign {
                    proposer.disconnected(id(node));
                }
                (0..self.state.writers.len()).for_each(|writer| self.disconnect(writer, node));
                return true;
            }
        }
        false
    }

    /// The writer handles all waiting replies of the node.
    pub(crate) fn handle_replies(&mut self, acting: &mut Writer, writer: usize, node: usize) {
        while let Some(message) = self.link(writer, node).to_writer.front().cloned() {
            self.link_mut(writer, node, |link| link.to_writer.pop_front());
            self.handle_reply(acting, writer, node, message);
        }
    }

    /// The writer handles one reply of the node.
    pub(crate) fn handle_reply(
        &mut self,
        acting: &mut Writer,
        writer: usize,
        node: usize,
        message: AcceptorMessage,
    ) {
        let Some(proposer) = &mut acting.campaign else { return };
        let actions = match proposer.receive(id(node), message) {
            Ok(actions) => actions,
            Err(lost) => {
                let by_term = matches!(lost, LostTerm::Deposed { .. } | LostTerm::Outvoted(_));
                self.coverage.count(if by_term { Event::Deposed } else { Event::Reconfigured });
                acting.campaign = None;
                return;
            }
        };

        for action in actions {
            match action {
                Action::Elected(election) => self.handle_election(acting, &election),
                Action::Committed(commit) => self.handle_commit(acting, commit),
                Action::Reset(node) => self.close(writer, index(node)),
                Action::Configured(configuration) => self.handle_decided_configuration(configuration),
                Action::PreVoted { .. } | Action::Checksum { .. } => {}
            }
        }
    }

    /// Ends a connection at both ends.
    pub(crate) fn disconnect(&mut self, writer: usize, node: usize) {
        if !self.link(writer, node).is_open {
            return;
        }
        self.close(writer, node);
        if self.state.writers[writer].campaign.is_some() {
            self.state.writers[writer].change(|writer| {
                writer.campaign.iter_mut().for_each(|proposer| proposer.disconnected(id(node)));
            });
        }
    }

    /// Ends a connection at the node.
    pub(crate) fn close(&mut self, writer: usize, node: usize) {
        let is_second = self.link(writer, node).is_second;
        self.link_mut(writer, node, |link| {
            link.is_open = false;
            link.to_node.clear();
            link.to_writer.clear();
        });
        self.state.nodes[node].change(|node| node.acceptor.disconnected(connection(writer, is_second)));
    }

    /// Ends a campaign and its connections. Messages that are on their way may arrive later, over the old connection.
    pub(crate) fn end_campaign(&mut self, writer: usize) {
        for node in 0..self.state.nodes.len() {
            let link = self.link(writer, node);
            if !link.is_open {
                continue;
            }
            // Where one term follows the other only vote requests can be on their way here. They change only promises
            // of this term, which is over without this campaign or has another leader.
            let can_arrive = self.bounds.kind == Kind::InFlight && self.bounds.interleaved;
            if !can_arrive || link.to_node.is_empty() {
                self.close(writer, node);
                continue;
            }

            let (older, was_late) = (connection(writer, !link.is_second), !link.late.is_empty());
            if was_late {
                self.state.nodes[node].change(|node| node.acceptor.disconnected(older));
            }
            self.link_mut(writer, node, |link| {
                link.late = std::mem::take(&mut link.to_node);
                link.to_writer.clear();
                link.is_second = !link.is_second;
                link.is_open = false;
            });
        }

        if self.state.writers[writer].campaign.is_some() {
            self.state.writers[writer].change(|writer| writer.campaign = None);
        }
    }

    /// The connection of a writer to a node.
    pub(crate) fn link(&self, writer: usize, node: usize) -> &Link {
        &self.state.links[writer * self.state.nodes.len() + node]
    }

    /// Changes the connection of a writer to a node.
    pub(crate) fn link_mut<R>(
        &mut self,
        writer: usize,
        node: usize,
        change: impl FnOnce(&mut Link) -> R,
    ) -> R {
        let index = writer * self.state.nodes.len() + node;
        self.state.links[index].change(change)
    }
}

/// A reply without its commit position, which makes no difference to a proposer here: it only allows a driver to report
/// that the position is persisted.
fn without_commit(mut reply: AcceptorMessage) -> AcceptorMessage {
    if let AcceptorMessage::Append(response) = &mut reply {
        response.commit_lsn = Lsn::INVALID;
    }
    reply
}
