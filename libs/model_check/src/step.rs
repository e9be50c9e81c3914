//! [`Step`]: carries a step out on a copy of a state. Every method answers with the state behind it, or with nothing
//! when the step is not possible.

use consensus::{AcceptorMessage, Phase, ProposerMessage};
use wal_types::Term;

use crate::bounds::Kind;
use crate::cluster::{Cluster, State, initial_configuration};
use crate::coverage::Event;
use crate::node::{Node, Outcome};
use crate::shared::Shared;
use crate::symmetry::id;
use crate::writer::{self, Writer, campaign, connection, pieces};

/// A state in the making. The writer that acts is taken out while it does.
pub(crate) struct Step<'a> {
    pub(crate) model: &'a Cluster,
    pub(crate) state: State,
}

impl<'a> Step<'a> {
    pub(crate) fn new(model: &'a Cluster, state: &State) -> Self {
        Self { model, state: state.clone() }
    }

    /// A campaign from its beginning to its vote requests. A survey changes no node, and all that stays of it are the
    /// configuration and the term that is campaigned for. So it is told that all nodes are empty and one term behind, and
    /// any term may come; a node outside of the mask answered before it heard of any other configuration.
    pub(crate) fn begin(mut self, writer: usize, term: u64, mask: u8) -> Option<State> {
        self.end_campaign(writer);
        let mut acting = Writer::clone(&self.state.writers[writer]);
        acting.floor = term;
        let nodes = self.state.nodes.len();
        acting.campaign = Some(writer::proposer(writer, nodes, self.model.bounds.kind));
        let is_heard = |node: &usize| mask & (1 << node) != 0;
        let outside = (0..nodes).filter(|node| !is_heard(node));
        for node in (0..nodes).filter(is_heard).chain(outside) {
            let state = self.state.nodes[node].acceptor.state();
            let known = (state.configuration_term, state.configuration.clone());
            let known = if is_heard(&node) { known } else { (Term::ZERO, initial_configuration()) };
            let proposer = acting.campaign.as_mut()?;
            proposer.connected(id(node));
            let greeting = proposer.poll_send(id(node))?;
            proposer.receive(id(node), writer::surveyed_greeting(id(node), term, known.clone())).ok()?;
            proposer.poll_send(id(node))?;
            proposer.receive(id(node), writer::surveyed_position(term, known)).ok()?;
            self.link_mut(writer, node, |link| link.is_open = true);
            self.deliver(&mut acting, writer, node, greeting, usize::MAX);
            self.link_mut(writer, node, |link| link.to_writer.clear());
        }
        let proposer = acting.campaign.as_mut().filter(|proposer| proposer.phase() == Phase::Surveyed)?;
        proposer.campaign().ok()?;
        self.finish(writer, acting)
    }

    /// The next message and its answers; where there is no connection, a new one and its greeting come first.
    pub(crate) fn exchange(mut self, writer: usize, node: usize, effects_max: usize) -> Option<State> {
        let mut acting = Writer::clone(&self.state.writers[writer]);
        if !self.link(writer, node).is_open {
            if acting.is_leading() {
                self.model.coverage.count(Event::Reconnected);
            }
            self.connect(&mut acting, writer, node);
            let greeting = acting.campaign.as_mut()?.poll_send(id(node))?;
            self.deliver(&mut acting, writer, node, greeting, usize::MAX);
            self.hear_all(&mut acting, writer, node);
            if acting.campaign.is_none() || self.model.bounds.kind == Kind::InFlight {
                return (effects_max == usize::MAX).then_some(()).and_then(|()| self.finish(writer, acting));
            }
        }
        let message = self.poll_piece(&mut acting, writer, node)?;
        let is_elected = is_elected(&message);
        let before = self.state.nodes[node].clone();
        let crashed = self.deliver(&mut acting, writer, node, message, effects_max);
        if self.is_idle(&acting, writer, node, &before) {
            return None;
        }
        if is_elected && effects_max == usize::MAX && self.link(writer, node).is_open {
            // The first append follows on the same connection, and only it is answered.
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
        self.hear_all(&mut acting, writer, node);
        self.finish(writer, acting)
    }

    /// The leader begins a change of the configuration.
    pub(crate) fn change(self, writer: usize, choice: usize) -> Option<State> {
        let mut acting = Writer::clone(&self.state.writers[writer]);
        let change = self.model.bounds.change(choice)?;
        let proposer = acting.campaign.as_mut()?;
        if proposer.configuration()?.generation != initial_configuration().generation {
            return None;
        }
        proposer.change(change).ok()?;
        self.model.coverage.count(Event::Changing);
        self.finish(writer, acting)
    }

    pub(crate) fn crash(mut self, node: usize) -> Option<State> {
        self.state.crashes_left -= 1;
        self.state.nodes[node].change(|node| node.restart());
        for writer in 0..self.state.writers.len() {
            self.hang_up(writer, node);
        }
        self.model.coverage.count(Event::Crashed);
        Some(self.state)
    }

    pub(crate) fn checkpoint(mut self, node: usize) -> Option<State> {
        self.state.nodes[node].change(|node| node.checkpoint());
        Some(self.state)
    }

    pub(crate) fn send(mut self, writer: usize, node: usize) -> Option<State> {
        let mut acting = Writer::clone(&self.state.writers[writer]);
        let mut message = self.poll(&mut acting, node);
        if message.is_none() && self.write(&mut acting, writer) {
            message = self.poll(&mut acting, node);
        }
        let message = message?;
        let first_append = if is_elected(&message) { self.poll(&mut acting, node) } else { None };
        let sent = [message].into_iter().chain(first_append).flat_map(pieces);
        self.link_mut(writer, node, |link| link.to_node.extend(sent));
        self.finish(writer, acting)
    }

    pub(crate) fn arrive(mut self, writer: usize, node: usize) -> Option<State> {
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

    /// Whoever sent this is gone, so nobody hears the answer.
    pub(crate) fn arrive_late(mut self, writer: usize, node: usize) -> Option<State> {
        let from = connection(writer, !self.link(writer, node).is_second);
        let message = self.link_mut(writer, node, |link| link.late.pop_front())?;
        let coverage = &self.model.coverage;
        let outcome = self.state.nodes[node].change(|node| node.receive(from, message, usize::MAX, coverage));
        match outcome {
            Err(broken) => self.broken(broken),
            Ok(Outcome::Refused) => self.link_mut(writer, node, |link| link.late.clear()),
            Ok(Outcome::Answers(_) | Outcome::Crashed) => {}
        }
        if self.link(writer, node).late.is_empty() {
            self.state.nodes[node].change(|node| node.acceptor.disconnected(from));
        }
        self.forget();
        Some(self.state)
    }

    pub(crate) fn answer(mut self, writer: usize, node: usize) -> Option<State> {
        let mut acting = Writer::clone(&self.state.writers[writer]);
        let message = self.link_mut(writer, node, |link| link.to_writer.pop_front())?;
        self.hear(&mut acting, writer, node, message);
        self.finish(writer, acting)
    }

    pub(crate) fn cut(mut self, writer: usize, node: usize) -> Option<State> {
        self.state.cuts_left -= 1;
        self.hang_up(writer, node);
        Some(self.state)
    }

    /// Puts the writer back; a campaign that it has lost closes its connections.
    fn finish(mut self, writer: usize, acting: Writer) -> Option<State> {
        let lost = acting.campaign.is_none();
        self.state.writers[writer] = Shared::new(acting);
        if lost {
            self.end_campaign(writer);
        }
        self.forget();
        Some(self.state)
    }

    /// True when a vote request was answered, not granted, and changed nothing on the node: it may as well wait. Once the
    /// campaign is won the answer tells how to lead the node.
    fn is_idle(&self, acting: &Writer, writer: usize, node: usize, before: &Shared<Node>) -> bool {
        let campaigning =
            acting.campaign.as_ref().is_some_and(|proposer| proposer.phase() == Phase::Campaigning);
        let answer = self.link(writer, node).to_writer.back();
        let refused = matches!(answer, Some(AcceptorMessage::Vote(vote)) if !vote.vote_given);
        campaigning && refused && self.state.nodes[node] == *before
    }

    /// Drops what no longer makes a difference: campaigns, and messages of those that have ended.
    fn forget(&mut self) {
        for writer in 0..self.state.writers.len() {
            if self.is_powerless(writer) {
                self.end_campaign(writer);
            }
            for node in 0..self.state.nodes.len() {
                let term = self.state.nodes[node].acceptor.state().term;
                let link = self.link(writer, node);
                if link.late.front().and_then(term_of).is_some_and(|late| late < term) {
                    let older = connection(writer, !link.is_second);
                    self.link_mut(writer, node, |link| link.late.clear());
                    self.state.nodes[node].change(|node| node.acceptor.disconnected(older));
                }
            }
        }
    }

    /// True when no node would do anything any more that the campaign of `writer` asks for.
    fn is_powerless(&self, writer: usize) -> bool {
        let Some(proposer) = &self.state.writers[writer].campaign else { return false };
        let term = proposer.term();
        let campaigning = proposer.phase() == Phase::Campaigning;
        let links = &self.state.links[writer * self.state.nodes.len()..][..self.state.nodes.len()];
        links.iter().all(|link| link.to_writer.is_empty())
            && self.state.nodes.iter().all(|node| {
                let node = node.acceptor.state();
                node.term > term
                    || (campaigning && node.term == term && node.voted_for != Some(campaign(writer)))
            })
    }
}

const fn is_elected(message: &ProposerMessage) -> bool {
    matches!(message, ProposerMessage::Elected(_))
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
