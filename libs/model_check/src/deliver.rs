//! Connections and messages: how what one side says reaches the other, and what it does then.

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
    pub(crate) fn connect(&mut self, acting: &mut Writer, writer: usize, node: usize) {
        if let Some(proposer) = &mut acting.campaign {
            proposer.connected(id(node));
        }
        self.link_mut(writer, node, |link| link.is_open = true);
    }

    /// The primary writes one record that nobody else has at this position, and the proposer reads it.
    pub(crate) fn write(&self, acting: &mut Writer) -> bool {
        let index = acting.wal.len();
        if index >= self.bounds.log || !acting.may_write() {
            return false;
        }
        let Some(term) = acting.campaign.as_ref().map(Proposer::term) else { return false };
        // Whoever leads a term writes one record at a position, and nobody else writes in that term.
        let record = Record::of(term);
        acting.wal.push(record);
        let proposer = acting.campaign.as_mut();
        proposer.is_some_and(|proposer| proposer.append(lsn(index), to_wal(&[record])))
    }

    /// What the proposer has to say to the node. It reads from other nodes what it has to send and does not have.
    pub(crate) fn poll(&self, acting: &mut Writer, node: usize) -> Option<ProposerMessage> {
        let proposer = acting.campaign.as_mut()?;
        if let Some(fetch) = proposer.poll_fetch(id(node)) {
            let donor = &self.state.nodes[index(fetch.donor)];
            // A donor serves a reader of its own term only.
            if donor.acceptor.state().term == proposer.term() {
                let records = donor.log().get(records_below(fetch.from)..records_below(fetch.until))?;
                let taken = proposer.fetched(id(node), fetch.donor, fetch.from, &to_wal(records));
                debug_assert!(taken, "it is what the proposer asked for");
                self.coverage.count(Event::Fetched);
            }
        }
        proposer.poll_send(id(node))
    }

    /// The next piece of what the proposer has to say to the node.
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
        // A primary writes when somebody could take it: what nobody was sent is as good as not written.
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

    /// A message reaches a node, and the answers go onto their way. True when the node crashed.
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
            Ok(Delivery::Answers(answers)) if answers.is_empty() => {}
            Ok(Delivery::Answers(answers)) => {
                let ours = answers
                    .into_iter()
                    .filter(|(to, _)| *to == from)
                    .map(|(_, message)| without_commit(message));
                self.link_mut(writer, node, |link| link.to_writer.extend(ours));
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

    pub(crate) fn handle_replies(&mut self, acting: &mut Writer, writer: usize, node: usize) {
        while let Some(message) = self.link(writer, node).to_writer.front().cloned() {
            self.link_mut(writer, node, |link| link.to_writer.pop_front());
            self.handle_reply(acting, writer, node, message);
        }
    }

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

    /// Both ends notice that a connection is gone.
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

    /// The node's end of it.
    pub(crate) fn close(&mut self, writer: usize, node: usize) {
        let is_second = self.link(writer, node).is_second;
        self.link_mut(writer, node, |link| {
            link.is_open = false;
            link.to_node.clear();
            link.to_writer.clear();
        });
        self.state.nodes[node].change(|node| node.acceptor.disconnected(connection(writer, is_second)));
    }

    /// Closes all connections of a writer. What was in flight may arrive later, by way of the old connection.
    pub(crate) fn end_campaign(&mut self, writer: usize) {
        for node in 0..self.state.nodes.len() {
            let link = self.link(writer, node);
            if !link.is_open {
                continue;
            }
            // Where terms come one after the other only vote requests could be on their way here, and they take nothing
            // but promises of this term, which is over without this campaign or led by somebody else.
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

    pub(crate) fn link(&self, writer: usize, node: usize) -> &Link {
        &self.state.links[writer * self.state.nodes.len() + node]
    }

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

/// An answer as far as it makes a difference to anything here: that a commit position is persisted only tells a driver
/// what it may tell others.
fn without_commit(mut answer: AcceptorMessage) -> AcceptorMessage {
    if let AcceptorMessage::Append(response) = &mut answer {
        response.commit_lsn = Lsn::INVALID;
    }
    answer
}
