//! Reductions: a step drops messages and campaigns that make no difference.

use consensus::{AcceptorMessage, CampaignPhase, PeerState, Proposer, ProposerMessage};
use wal_types::Term;

use crate::names::{campaign, connection, id, index};
use crate::node::Node;
use crate::shared::Shared;
use crate::state::ClusterState;
use crate::step::Step;
use crate::writer::{self, Writer};

impl Step<'_> {
    /// Ends an action: puts the writer back, and closes the connections of a lost campaign.
    pub(crate) fn finish(mut self, writer: usize, mut acting: Writer) -> Option<ClusterState> {
        self.request_remaining_votes(&mut acting, writer);
        let lost = acting.campaign.is_none();
        self.state.writers[writer] = Shared::new(acting);
        if lost {
            self.end_campaign(writer);
        }
        self.drop_irrelevant();
        Some(self.state)
    }

    /// True when the node refused a vote request and did not change: the request may as well wait. Once the campaign is
    /// won, the reply shows the proposer where to begin with this node.
    pub(crate) fn is_idle(&self, acting: &Writer, writer: usize, node: usize, before: &Shared<Node>) -> bool {
        let campaigning =
            acting.campaign.as_ref().is_some_and(|proposer| proposer.phase() == CampaignPhase::Voting);
        let reply = self.link(writer, node).to_writer.back();
        let refused = matches!(reply, Some(AcceptorMessage::Vote(vote)) if !vote.vote_given);
        campaigning && refused && self.state.nodes[node] == *before
    }

    /// Drops campaigns that make no difference any more, and messages of ended campaigns.
    pub(crate) fn drop_irrelevant(&mut self) {
        self.record_configurations();
        for writer in 0..self.state.writers.len() {
            if self.is_powerless(writer) {
                self.end_campaign(writer);
            }
            for node in 0..self.state.nodes.len() {
                let term = self.state.nodes[node].acceptor.state().term;
                let link = self.link(writer, node);
                if link.late.front().and_then(term_of).is_some_and(|late| late < term) {
                    self.drop_late_messages(writer, node);
                }
            }
        }
    }

    /// Drops the messages of the connection that the writer has left.
    pub(crate) fn drop_late_messages(&mut self, writer: usize, node: usize) {
        let link = self.link(writer, node);
        if link.late.is_empty() {
            return;
        }
        let older = connection(writer, !link.is_second);
        self.link_mut(writer, node, |link| link.late.clear());
        self.state.nodes[node].change(|node| node.acceptor.disconnected(older));
    }

    /// A leader requests all remaining votes at once. This only allows it to send more to these nodes later: they reply
    /// the same as later, their votes help no other campaign, and for later terms it does not matter whether they
    /// promised this term. A vote for the rival does not matter any more either. (A leader that changes the
    /// configuration later brings a node to the same state by two messages instead of one.)
    fn request_remaining_votes(&mut self, acting: &mut Writer, writer: usize) {
        if self.bounds.interleaved || !acting.is_leading() {
            return;
        }

        let rival = writer ^ 1;
        let in_flight = self.bounds.messages_wait();
        if !in_flight && self.state.writers[rival].campaign.is_some() && self.is_powerless(rival) {
            self.end_campaign(rival);
            for node in 0..self.state.nodes.len() {
                // A node that is still in an earlier term voted for another campaign of the same name.
                let promised = self.state.nodes[node].acceptor.state();
                if promised.term.0 == self.state.term && promised.voted_for == Some(campaign(rival)) {
                    self.undo_vote(writer, node);
                }
            }
        }
        for node in 0..self.state.nodes.len() {
            let asks = |proposer: &Proposer| {
                proposer.status().iter().any(|peer| peer.id == id(node) && peer.state == PeerState::Voting)
            };
            if !acting.campaign.as_ref().is_some_and(asks) || !self.link(writer, node).is_open {
                continue;
            }
            // With messages in flight, a request that is not on its way has arrived.
            let is_due = !in_flight || !self.link(writer, node).to_node.is_empty();
            if is_due && let Some(message) = self.poll_piece(acting, writer, node) {
                self.deliver(acting, writer, node, message, usize::MAX);
            }
            self.handle_replies(acting, writer, node);
        }
    }

    /// Undoes a node's vote for the rival of `writer`.
    fn undo_vote(&mut self, writer: usize, node: usize) {
        let from = connection(writer, self.link(writer, node).is_second);
        let was_greeted = self.link(writer, node).is_open;
        let kind = self.bounds.kind;
        let nodes = self.state.nodes.len();
        let coverage = self.coverage;
        self.state.nodes[node].change(|state| {
            state.undo_promise();
            let mut greeting = writer::proposer(writer, nodes, kind);
            greeting.connected(id(node));
            if let Some(greeting) = greeting.poll_send(id(node)).filter(|_| was_greeted) {
                let _ = state.receive(from, greeting, usize::MAX, coverage);
            }
        });
    }

    /// True when no node would do anything more for the campaign of `writer` that makes a difference.
    fn is_powerless(&self, writer: usize) -> bool {
        let Some(proposer) = &self.state.writers[writer].campaign else { return false };
        let term = proposer.term();
        let campaigning = proposer.phase() == CampaignPhase::Voting;
        let is_gone = |node: &Shared<Node>| {
            let node = node.acceptor.state();
            node.term > term || (campaigning && node.term == term && node.voted_for != Some(campaign(writer)))
        };
        if !self.bounds.interleaved {
            // The votes that a campaign without a chance still takes stop only campaigns that cannot win without them.
            return campaigning && !proposer.has_quorum(|node| !is_gone(&self.state.nodes[index(node)]));
        }
        let links = &self.state.links[writer * self.state.nodes.len()..][..self.state.nodes.len()];
        links.iter().all(|link| link.to_writer.is_empty()) && self.state.nodes.iter().all(is_gone)
    }

    /// Drops a reply that tells its writer nothing new: the only waiting reply, or one equal to the reply before it.
    pub(crate) fn drop_uninformative_reply(&mut self, acting: &Writer, writer: usize, node: usize) {
        let waiting = &self.link(writer, node).to_writer;
        let Some(last) = waiting.back().filter(|_| self.bounds.replies_wait()) else { return };
        let is_uninformative = match waiting.len() {
            1 => acting.campaign.as_ref().is_some_and(|known| {
                let mut after = known.clone();
                after.receive(id(node), last.clone()).is_ok_and(|actions| actions.is_empty())
                    && after == *known
            }),
            waits => waiting.get(waits - 2) == Some(last),
        };
        if is_uninformative {
            self.link_mut(writer, node, |link| link.to_writer.pop_back());
        }
    }
}

const fn term_of(message: &ProposerMessage) -> Option<Term> {
    match message {
        ProposerMessage::Vote(vote) => Some(vote.term),
        ProposerMessage::Elected(elected) => Some(elected.term),
        ProposerMessage::Append(append) => Some(append.term),
        ProposerMessage::Configure(configure) => Some(configure.term),
        _ => None,
    }
}
