//! From the first greeting to the decided election: positions, votes, and whose log is the newest.

use wal_types::{Lsn, NodeId, Term};

use super::peer::{PeerState, Position};
use super::{Action, CampaignPhase, Election, LostTerm, Proposer};
use crate::configuration::Configuration;
use crate::message::{
    AcceptorGreeting, PreVoteRequest, PreVoteResponse, ProposerMessage, VoteRequest, VoteResponse,
};
use crate::quorum;
use crate::term_history::TliSwitch;

impl Proposer {
    pub(super) fn greeted(
        &mut self,
        from: NodeId,
        greeting: AcceptorGreeting,
    ) -> Result<Vec<Action>, LostTerm> {
        let survey = match self.phase {
            CampaignPhase::PreVoting | CampaignPhase::PreVoted => true,
            CampaignPhase::Voting | CampaignPhase::Elected | CampaignPhase::Leading => false,
        };
        self.check_term(from, greeting.term)?;
        self.learn(from, (greeting.configuration_term, greeting.configuration))?;
        let generation = self.membership.generation();
        let Some(peer) = self.expect(from, &PeerState::Greeting) else { return Ok(self.reset(from)) };
        peer.state = PeerState::Greeted;
        peer.term = greeting.term;
        if survey {
            peer.outbox.push_back(ProposerMessage::PreVote(PreVoteRequest { generation }));
        } else {
            self.request_vote(from);
        }
        Ok(Vec::new())
    }

    /// What a node holds beside what the voters hold is not decided, and none of a leader's business: were it decided, a
    /// voter would hold it.
    fn learn(&mut self, from: NodeId, told: (Term, Configuration)) -> Result<(), LostTerm> {
        match self.phase {
            CampaignPhase::PreVoting => self.membership.learn(from, told, true),
            CampaignPhase::PreVoted | CampaignPhase::Voting => self.membership.learn(from, told, false),
            CampaignPhase::Elected | CampaignPhase::Leading => Ok(()),
        }
    }

    pub(super) fn surveyed(
        &mut self,
        from: NodeId,
        response: PreVoteResponse,
    ) -> Result<Vec<Action>, LostTerm> {
        self.learn(from, (response.configuration_term, response.configuration))?;
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(Vec::new()) };
        peer.term = peer.term.max(response.term);
        // A node that misses what it had acknowledged tells nothing about where the log ends, and will not vote.
        let position = Position { flush_lsn: response.flush_lsn, history: response.history };
        peer.surveyed = Some(position).filter(|_| !response.lost);
        if self.phase != CampaignPhase::PreVoting
            || !self.has_quorum(|node| self.peers.get(&node).is_some_and(|p| p.surveyed.is_some()))
        {
            return Ok(Vec::new());
        }
        self.check_designated()?;
        self.phase = CampaignPhase::PreVoted;
        let newest = self
            .peers
            .values()
            .filter_map(|peer| peer.surveyed.as_ref())
            .max_by_key(|position| position.age());
        let flush_lsn = newest.map_or(Lsn::INVALID, |position| position.flush_lsn);
        let tli = newest.and_then(|position| position.history.tli_at(flush_lsn));
        Ok(vec![Action::PreVoted { flush_lsn, start_lsn: response.start_lsn, tli }])
    }

    pub(super) fn voted(&mut self, from: NodeId, response: VoteResponse) -> Result<Vec<Action>, LostTerm> {
        self.check_term(from, response.term)?;
        let term = self.term;
        // Who grants a term cannot hold WAL of it yet.
        let newest = response.history.last().map_or(Term::ZERO, |last| last.term);
        let settled = !response.vote_given || self.election.is_some();
        let possible = response.term == term && (newest < term || (newest == term && settled));
        let Some(peer) = self.expect(from, &PeerState::Voting).filter(|_| possible) else {
            return Ok(self.reset(from));
        };
        peer.state = PeerState::Voted;
        peer.term = response.term;
        // What it acknowledged in this term over an earlier connection counts only as far as it still has it.
        peer.acked = if response.lost { Lsn::INVALID } else { peer.acked.min(response.flush_lsn) };
        // Nor does it say any more that this is committed.
        peer.persisted_commit = peer.persisted_commit.min(peer.acked);
        let told = (response.configuration_term, response.configuration.clone());
        peer.vote = Some(response);
        self.learn(from, told)?;
        match self.phase {
            CampaignPhase::Voting => self.count_votes(),
            // Nobody was asked for a vote before the campaign.
            CampaignPhase::PreVoting | CampaignPhase::PreVoted | CampaignPhase::Elected => Ok(Vec::new()),
            CampaignPhase::Leading => {
                self.lead(from);
                Ok(Vec::new())
            }
        }
    }

    fn count_votes(&mut self) -> Result<Vec<Action>, LostTerm> {
        let granted = |node: NodeId| self.vote_of(node).is_some_and(VoteResponse::is_granted);
        let refused = |node: NodeId| self.vote_of(node).is_some_and(|vote| !vote.is_granted());
        let sets = self.sets();
        if !quorum::reached(&sets, granted) {
            let still_possible = quorum::reached(&sets, |node| !refused(node));
            return if still_possible { Ok(Vec::new()) } else { Err(LostTerm::Outvoted(self.term)) };
        }
        self.check_designated()?;
        // Votes of nodes outside of the voting sets are worth nothing, but their logs are.
        let granting = self
            .peers
            .iter()
            .filter_map(|(&id, peer)| Some((id, peer.vote.as_ref()?)))
            .filter(|(_, vote)| vote.is_granted());
        let age = |vote: &VoteResponse| (vote.history.last_log_term(vote.flush_lsn), vote.flush_lsn);
        let Some((donor, newest)) = granting.clone().max_by_key(|(_, vote)| age(vote)) else {
            return Ok(Vec::new());
        };
        let agreed = granting.map(|(_, vote)| vote.truncate_lsn).max().unwrap_or_default();

        let start = newest.flush_lsn;
        let log_tli = newest.history.tli_at(start);
        let tli = self.options.tli.or(newest.history.last().map(|last| last.tli)).unwrap_or_default();
        // A switch above the log, or at its very end, was announced by somebody who then wrote nothing that lasted.
        self.tli_switches = newest.tli_switches.iter().copied().filter(|switch| switch.at < start).collect();
        if let Some(parent) = log_tli.filter(|&parent| parent != tli) {
            self.tli_switches.push(TliSwitch { parent, tli, at: start });
        }
        self.history = newest.history.with_election(self.term, start, tli, agreed);
        let election =
            Election { term: self.term, start, log_start: newest.timeline_start_lsn, donor, tli: log_tli };
        self.election = Some(election.clone());
        self.phase = CampaignPhase::Elected;
        Ok(vec![Action::Elected(election)])
    }

    pub(super) fn request_vote(&mut self, node: NodeId) {
        let (generation, term, proposer_id) =
            (self.membership.generation(), self.term, self.options.proposer_id);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.state = PeerState::Voting;
            peer.outbox.push_back(ProposerMessage::Vote(VoteRequest { generation, term, proposer_id }));
        }
    }
}
