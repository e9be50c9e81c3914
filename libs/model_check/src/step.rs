//! [`Step`]: carries a step out on a copy of a state. Every method answers with the state behind it, or with nothing
//! when the step is not possible.

use consensus::{AcceptorMessage, CampaignPhase, PeerState, Proposer, ProposerMessage};
use wal_types::Term;

use crate::cluster::{Cluster, State, WRITERS, initial_configuration};
use crate::coverage::Event;
use crate::node::{Node, Outcome};
use crate::shared::Shared;
use crate::symmetry::{id, index};
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
    /// newest configuration that was told and the term that is campaigned for. So it is told that all nodes are empty and
    /// one term behind, and all tell the same configuration: those that hold it now or held it once, and the others might
    /// have told an older one, as all held one in the beginning.
    pub(crate) fn begin(mut self, writer: usize, term: u64, heard: usize) -> Option<State> {
        self.end_campaign(writer);
        let mut acting = Writer::clone(&self.state.writers[writer]);
        acting.floor = term;
        self.survey(&mut acting, writer, term, heard)?;
        self.finish(writer, acting)
    }

    /// Ends everything that belongs to earlier terms, and begins the next one.
    pub(crate) fn term(mut self, heard: [usize; WRITERS]) -> State {
        self.state.term += 1;
        let term = self.state.term;
        for writer in 0..WRITERS {
            self.end_campaign(writer);
            for node in 0..self.state.nodes.len() {
                self.end_late(writer, node);
            }
        }
        self.ledger(|ledger| ledger.elected.clear());
        for node in &mut self.state.nodes {
            node.change(|node| node.level = term);
        }
        for (writer, heard) in heard.into_iter().enumerate() {
            let mut acting = Writer::clone(&self.state.writers[writer]);
            acting.fetches = false;
            // A primary that has none of the logs is replaced by a standby, whatever it has, if its campaign is won.
            if !self.state.nodes.iter().any(|node| acting.wal.starts_with(node.log())) {
                acting.wal.clear();
            }
            if self.survey(&mut acting, writer, term, heard).is_none() {
                acting.campaign = None;
            }
            let lost = acting.campaign.is_none();
            self.state.writers[writer] = Shared::new(acting);
            if lost {
                self.state.writers[writer].change(|writer| writer.campaign = None);
                (0..self.state.nodes.len()).for_each(|node| self.close_if_open(writer, node));
            }
        }
        self.state
    }

    fn survey(&mut self, acting: &mut Writer, writer: usize, term: u64, heard: usize) -> Option<()> {
        let nodes = self.state.nodes.len();
        let told = self.state.ledger.held.get(heard)?.clone();
        acting.campaign = Some(writer::proposer(writer, nodes, self.model.bounds.kind));
        for node in 0..nodes {
            let proposer = acting.campaign.as_mut()?;
            proposer.connected(id(node));
            let greeting = proposer.poll_send(id(node))?;
            proposer.receive(id(node), writer::surveyed_greeting(id(node), term, told.clone())).ok()?;
            proposer.poll_send(id(node))?;
            proposer.receive(id(node), writer::surveyed_position(term, told.clone())).ok()?;
            self.link_mut(writer, node, |link| link.is_open = true);
            self.deliver(acting, writer, node, greeting, usize::MAX);
            self.link_mut(writer, node, |link| link.to_writer.clear());
        }
        let proposer =
            acting.campaign.as_mut().filter(|proposer| proposer.phase() == CampaignPhase::PreVoted)?;
        proposer.request_votes().ok()?;
        if self.model.bounds.messages_wait() && !self.model.bounds.interleaved {
            // A vote request that is sent late and one that is late to arrive are the same.
            for node in 0..nodes {
                let request = acting.campaign.as_mut()?.poll_send(id(node));
                self.link_mut(writer, node, |link| link.to_node.extend(request));
            }
        }
        Some(())
    }

    fn close_if_open(&mut self, writer: usize, node: usize) {
        if self.link(writer, node).is_open {
            self.close(writer, node);
        }
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
            if acting.campaign.is_none() || self.model.bounds.messages_wait() {
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
        if !self.model.bounds.answers_wait() || !is_leaders {
            self.hear_all(&mut acting, writer, node);
        }
        self.hear_no_news(&acting, writer, node);
        self.finish(writer, acting)
    }

    /// Takes an answer away that is the next one, or is the same as the one before it, and tells its writer nothing.
    fn hear_no_news(&mut self, acting: &Writer, writer: usize, node: usize) {
        let waiting = &self.link(writer, node).to_writer;
        let Some(last) = waiting.back().filter(|_| self.model.bounds.answers_wait()) else { return };
        let is_no_news = match waiting.len() {
            1 => acting.campaign.as_ref().is_some_and(|known| {
                let mut told = known.clone();
                told.receive(id(node), last.clone()).is_ok_and(|actions| actions.is_empty()) && told == *known
            }),
            waits => waiting.get(waits - 2) == Some(last),
        };
        if is_no_news {
            self.link_mut(writer, node, |link| link.to_writer.pop_back());
        }
    }

    /// The leader begins a change of the configuration.
    pub(crate) fn change(self, writer: usize, choice: usize) -> Option<State> {
        let mut acting = Writer::clone(&self.state.writers[writer]);
        let change = self.model.bounds.change(choice)?;
        let proposer = acting.campaign.as_mut()?;
        if proposer.configuration()?.generation != initial_configuration().generation {
            return None;
        }
        proposer.begin_change(change).ok()?;
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
        if message.is_none() && self.write(&mut acting) {
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
    fn finish(mut self, writer: usize, mut acting: Writer) -> Option<State> {
        self.ask_the_rest(&mut acting, writer);
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
            acting.campaign.as_ref().is_some_and(|proposer| proposer.phase() == CampaignPhase::Voting);
        let answer = self.link(writer, node).to_writer.back();
        let refused = matches!(answer, Some(AcceptorMessage::Vote(vote)) if !vote.vote_given);
        campaigning && refused && self.state.nodes[node] == *before
    }

    /// Drops what no longer makes a difference: campaigns, and messages of those that have ended.
    fn forget(&mut self) {
        self.note_configurations();
        for writer in 0..self.state.writers.len() {
            if self.is_powerless(writer) {
                self.end_campaign(writer);
            }
            for node in 0..self.state.nodes.len() {
                let term = self.state.nodes[node].acceptor.state().term;
                let link = self.link(writer, node);
                if link.late.front().and_then(term_of).is_some_and(|late| late < term) {
                    self.end_late(writer, node);
                }
            }
        }
    }

    /// Nothing comes any more over the connection that the writer has left.
    fn end_late(&mut self, writer: usize, node: usize) {
        let link = self.link(writer, node);
        if link.late.is_empty() {
            return;
        }
        let older = connection(writer, !link.is_second);
        self.link_mut(writer, node, |link| link.late.clear());
        self.state.nodes[node].change(|node| node.acceptor.disconnected(older));
    }

    /// Who leads asks those that have not answered its vote request yet, all at once. This only allows it to send them
    /// more later: they answer the same as later, nobody else gets anything out of their votes, and for the terms to come
    /// it does not matter whether they promised this one. A vote for the rival does not matter any more either. (A leader that
    /// changes the configuration later brings a node to the same state by two messages that it could have brought by one.)
    fn ask_the_rest(&mut self, acting: &mut Writer, writer: usize) {
        if self.model.bounds.interleaved || !acting.is_leading() {
            return;
        }
        let rival = writer ^ 1;
        let in_flight = self.model.bounds.messages_wait();
        if !in_flight && self.state.writers[rival].campaign.is_some() && self.is_powerless(rival) {
            self.end_campaign(rival);
            for node in 0..self.state.nodes.len() {
                if self.state.nodes[node].acceptor.state().voted_for == Some(campaign(rival)) {
                    self.take_back_vote(writer, node);
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
            // In flight, a request that is not on its way has arrived.
            let is_due = !in_flight || !self.link(writer, node).to_node.is_empty();
            if is_due && let Some(message) = self.poll_piece(acting, writer, node) {
                self.deliver(acting, writer, node, message, usize::MAX);
            }
            self.hear_all(acting, writer, node);
        }
    }

    fn take_back_vote(&mut self, writer: usize, node: usize) {
        let from = connection(writer, self.link(writer, node).is_second);
        let was_greeted = self.link(writer, node).is_open;
        let kind = self.model.bounds.kind;
        let nodes = self.state.nodes.len();
        let coverage = &self.model.coverage;
        self.state.nodes[node].change(|state| {
            state.take_back_promise();
            let mut greeting = writer::proposer(writer, nodes, kind);
            greeting.connected(id(node));
            if let Some(greeting) = greeting.poll_send(id(node)).filter(|_| was_greeted) {
                let _ = state.receive(from, greeting, usize::MAX, coverage);
            }
        });
    }

    /// True when no node would do anything any more that the campaign of `writer` asks for, and that makes a difference.
    fn is_powerless(&self, writer: usize) -> bool {
        let Some(proposer) = &self.state.writers[writer].campaign else { return false };
        let term = proposer.term();
        let campaigning = proposer.phase() == CampaignPhase::Voting;
        let is_gone = |node: &Shared<Node>| {
            let node = node.acceptor.state();
            node.term > term || (campaigning && node.term == term && node.voted_for != Some(campaign(writer)))
        };
        if !self.model.bounds.interleaved {
            // Where it can't win, the votes that it still takes keep nobody from winning who could not do without them.
            return campaigning && !proposer.has_quorum(|node| !is_gone(&self.state.nodes[index(node)]));
        }
        let links = &self.state.links[writer * self.state.nodes.len()..][..self.state.nodes.len()];
        links.iter().all(|link| link.to_writer.is_empty()) && self.state.nodes.iter().all(is_gone)
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
