//! From the first greeting to the decided election: positions, votes, and whose log is the newest.

use std::cmp::Ordering;

use wal_types::{Lsn, NodeId};

use super::peer::{PeerState, Position};
use super::{Action, Election, LostTerm, Phase, Proposer};
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
            Phase::Surveying | Phase::Surveyed => true,
            Phase::Campaigning | Phase::Elected | Phase::Leading => false,
        };
        self.check_term(from, greeting.term)?;
        self.learn(from, greeting.configuration)?;
        let generation = self.generation();
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

    /// A newer configuration counts, as long as nobody voted under another one. Two of the same generation must be the
    /// same: who decides would otherwise depend on who greeted last.
    fn learn(&mut self, from: NodeId, told: Configuration) -> Result<(), LostTerm> {
        let generation = told.generation;
        match &self.configuration {
            None => self.configuration = Some(told),
            Some(known) => match generation.cmp(&known.generation) {
                Ordering::Greater if self.phase == Phase::Surveying => self.configuration = Some(told),
                Ordering::Greater => return Err(LostTerm::Reconfigured { by: from, generation }),
                Ordering::Equal if told != *known => {
                    return Err(LostTerm::TwoConfigurations { by: from, generation });
                }
                Ordering::Equal | Ordering::Less => {}
            },
        }
        Ok(())
    }

    pub(super) fn surveyed(
        &mut self,
        from: NodeId,
        response: PreVoteResponse,
    ) -> Result<Vec<Action>, LostTerm> {
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(Vec::new()) };
        peer.term = peer.term.max(response.term);
        peer.surveyed = Some(Position { flush_lsn: response.flush_lsn, history: response.history });
        if self.phase != Phase::Surveying
            || !self.quorum(|node| self.peers.get(&node).is_some_and(|p| p.surveyed.is_some()))
        {
            return Ok(Vec::new());
        }
        self.phase = Phase::Surveyed;
        let newest = self
            .peers
            .values()
            .filter_map(|peer| peer.surveyed.as_ref())
            .max_by_key(|position| position.age());
        let flush_lsn = newest.map_or(Lsn::INVALID, |position| position.flush_lsn);
        let tli = newest.and_then(|position| position.history.tli_at(flush_lsn));
        Ok(vec![Action::Surveyed { flush_lsn, start_lsn: response.start_lsn, tli }])
    }

    pub(super) fn voted(&mut self, from: NodeId, response: VoteResponse) -> Result<Vec<Action>, LostTerm> {
        self.check_term(from, response.term)?;
        let term = self.term;
        let Some(peer) = self.expect(from, &PeerState::Voting).filter(|_| response.term == term) else {
            return Ok(self.reset(from));
        };
        peer.state = PeerState::Voted;
        peer.term = response.term;
        peer.vote = Some(response);
        match self.phase {
            Phase::Campaigning => self.count_votes(),
            // Nobody was asked for a vote before the campaign.
            Phase::Surveying | Phase::Surveyed | Phase::Elected => Ok(Vec::new()),
            Phase::Leading => {
                self.lead(from);
                Ok(Vec::new())
            }
        }
    }

    fn count_votes(&mut self) -> Result<Vec<Action>, LostTerm> {
        let granted = |node: NodeId| self.vote_of(node).is_some_and(|vote| vote.vote_given);
        let refused = |node: NodeId| self.vote_of(node).is_some_and(|vote| !vote.vote_given);
        let sets = self.sets();
        if !quorum::reached(&sets, granted) {
            let still_possible = quorum::reached(&sets, |node| !refused(node));
            return if still_possible { Ok(Vec::new()) } else { Err(LostTerm::Outvoted(self.term)) };
        }
        // Votes of nodes outside of the voting sets are worth nothing, but their logs are.
        let granting = self
            .peers
            .iter()
            .filter_map(|(&id, peer)| Some((id, peer.vote.as_ref()?)))
            .filter(|(_, vote)| vote.vote_given);
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
        self.history = newest.history.elected(self.term, start, tli, agreed);
        let election = Election {
            term: self.term,
            start,
            lineage_start: newest.timeline_start_lsn,
            donor,
            tli: log_tli,
        };
        self.election = Some(election.clone());
        self.phase = Phase::Elected;
        Ok(vec![Action::Elected(election)])
    }

    pub(super) fn request_vote(&mut self, node: NodeId) {
        let (generation, term, proposer_id) = (self.generation(), self.term, self.options.proposer_id);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.state = PeerState::Voting;
            peer.outbox.push_back(ProposerMessage::Vote(VoteRequest { generation, term, proposer_id }));
        }
    }
}
