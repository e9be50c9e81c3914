//! Election: from the greetings to the decided election, through positions and votes; finds the newest log.

use wal_types::{Lsn, NodeId, Term};

use super::peer::{LogPosition, PeerState};
use super::{Action, CampaignPhase, Election, LostTerm, Proposer};
use crate::configuration::Configuration;
use crate::message::{
    AcceptorGreeting, PreVoteRequest, PreVoteResponse, ProposerMessage, VoteRequest, VoteResponse,
};
use crate::quorum;
use crate::term_history::{TLI_SWITCHES_MAX, TliSwitch};

impl Proposer {
    pub(super) fn handle_greeting(
        &mut self,
        from: NodeId,
        greeting: AcceptorGreeting,
    ) -> Result<Vec<Action>, LostTerm> {
        let pre_voting = match self.phase {
            CampaignPhase::PreVoting | CampaignPhase::PreVoted => true,
            CampaignPhase::Voting | CampaignPhase::Elected | CampaignPhase::Leading => false,
        };

        let term = greeting.term;
        if self.peer_in_state(from, &PeerState::Greeting).is_none() {
            // A higher term ends the campaign whatever the order of the answers, unless a copy of another log tells it.
            if self.membership.foreign(from, greeting.replica, greeting.birth).is_none() {
                self.check_term(from, term)?;
            }
            return Ok(self.reset_connection(from));
        }
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(Vec::new()) };
        peer.greeted(greeting.replica, greeting.birth);
        peer.state = PeerState::Greeted;
        peer.term = greeting.term;
        self.learn_configuration(from, (greeting.configuration_term, greeting.configuration))?;

        let generation = self.membership.generation();
        // A copy that is none of this log deposes no one.
        if self.peer_in_state(from, &PeerState::Greeted).is_none() {
            return Ok(Vec::new());
        }
        self.check_term(from, term)?;
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(Vec::new()) };
        if pre_voting {
            peer.outbox.push_back(ProposerMessage::PreVote(PreVoteRequest { generation }));
        } else {
            self.request_vote(from);
        }

        Ok(Vec::new())
    }

    /// Adopts a newer configuration while that is still possible. From the election on, a configuration that another
    /// safekeeper reports is ignored: it was never decided, because none of the voters had it.
    fn learn_configuration(&mut self, from: NodeId, reported: (Term, Configuration)) -> Result<(), LostTerm> {
        let Some(peer) = self.peers.get(&from) else { return Ok(()) };
        let reporter = (from, peer.birth);
        match self.phase {
            CampaignPhase::PreVoting => self.membership.adopt_newest(reporter, reported, true)?,
            CampaignPhase::PreVoted | CampaignPhase::Voting => {
                self.membership.adopt_newest(reporter, reported, false)?;
            }
            CampaignPhase::Elected | CampaignPhase::Leading => {}
        }
        self.dismiss_foreign_copies();
        Ok(())
    }

    pub(super) fn handle_pre_vote(
        &mut self,
        from: NodeId,
        response: PreVoteResponse,
    ) -> Result<Vec<Action>, LostTerm> {
        let counts = response.counts();
        self.learn_configuration(from, (response.configuration_term, response.configuration))?;
        let Some(peer) = self.peers.get_mut(&from) else { return Ok(Vec::new()) };
        if matches!(peer.state, PeerState::Foreign(_)) {
            return Ok(Vec::new());
        }
        peer.term = peer.term.max(response.term);
        peer.lost = response.lost;
        // The end of a lost node's log says nothing about the end of the log, and the node will not vote. Neither does
        // that of a copy without members.
        peer.unconfigured = !counts && !response.lost;
        let position = LogPosition {
            start_lsn: response.start_lsn,
            flush_lsn: response.flush_lsn,
            commit_lsn: response.commit_lsn,
            history: response.history,
        };
        peer.pre_vote = Some(position).filter(|_| counts);

        if self.phase != CampaignPhase::PreVoting
            || !self.has_quorum(|node| self.peers.get(&node).is_some_and(|p| p.pre_vote.is_some()))
        {
            return Ok(Vec::new());
        }
        self.check_may_lead()?;
        self.phase = CampaignPhase::PreVoted;
        let positions = || {
            self.peers.iter().filter_map(|(&id, peer)| peer.pre_vote.as_ref().map(|position| (id, position)))
        };
        let Some((donor, newest)) = positions().max_by_key(|(_, position)| position.age()) else {
            return Ok(Vec::new());
        };
        let commit_lsn = positions().map(|(_, position)| position.commit_lsn).max().unwrap_or_default();
        let &LogPosition { start_lsn, flush_lsn, .. } = newest;
        let tli = newest.history.tli_at(flush_lsn);
        Ok(vec![Action::PreVoted { flush_lsn, commit_lsn, donor, start_lsn, tli }])
    }

    pub(super) fn handle_vote(
        &mut self,
        from: NodeId,
        response: VoteResponse,
    ) -> Result<Vec<Action>, LostTerm> {
        self.check_term(from, response.term)?;
        let term = self.term;
        // A node that grants a term cannot hold WAL of that term yet.
        let newest = response.history.last().map_or(Term::ZERO, |last| last.term);
        let may_follow = !response.vote_given || self.election.is_some();
        let possible = response.term == term && (newest < term || (newest == term && may_follow));
        let Some(peer) = self.peer_in_state(from, &PeerState::Voting).filter(|_| possible) else {
            return Ok(self.reset_connection(from));
        };
        peer.state = PeerState::Voted;
        peer.term = response.term;
        peer.lost = response.lost;
        // What it acknowledged in this term over an earlier connection counts only as far as it still holds it.
        peer.acked = if response.lost { Lsn::INVALID } else { peer.acked.min(response.flush_lsn) };
        // The same holds for the commit LSN that it reported as persisted.
        peer.persisted_commit = peer.persisted_commit.min(peer.acked);
        let reported = (response.configuration_term, response.configuration.clone());
        peer.oldest_lsn = response.timeline_start_lsn;
        peer.vote = Some(response);
        self.learn_configuration(from, reported)?;
        if self.peer_in_state(from, &PeerState::Voted).is_none() {
            return Ok(Vec::new());
        }

        match self.phase {
            CampaignPhase::Voting => self.count_votes(),
            // Before `Voting` no vote was requested. In `Elected` the election is decided already.
            CampaignPhase::PreVoting | CampaignPhase::PreVoted | CampaignPhase::Elected => Ok(Vec::new()),
            CampaignPhase::Leading => {
                self.start_streaming(from);
                Ok(Vec::new())
            }
        }
    }

    fn count_votes(&mut self) -> Result<Vec<Action>, LostTerm> {
        let granted = |node: NodeId| self.vote_of(node).is_some_and(VoteResponse::is_granted);
        let refused = |node: NodeId| self.vote_of(node).is_some_and(|vote| !vote.is_granted());
        let sets = self.voting_sets();
        if !self.has_quorum(granted) {
            // A member that has not answered may still grant its vote.
            let answered = |copy| self.peer_of(copy).is_some();
            let still_possible = quorum::reached(&sets, |copy| !answered(copy) || !refused(copy.node));
            return if still_possible { Ok(Vec::new()) } else { Err(LostTerm::Outvoted(self.term)) };
        }
        self.check_may_lead()?;

        // Votes of nodes outside the voting sets do not count, but their logs do.
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
        // A switch above the log, or at its very end, was announced by a proposer whose WAL did not last.
        self.tli_switches = newest.tli_switches.iter().copied().filter(|switch| switch.at < start).collect();
        if let Some(parent) = log_tli.filter(|&parent| parent != tli) {
            self.tli_switches.push(TliSwitch { parent, tli, at: start });
        }
        // An acceptor refuses a longer list. Only a reader that is further back than so many promotions misses the oldest.
        let surplus = self.tli_switches.len().saturating_sub(TLI_SWITCHES_MAX);
        self.tli_switches.drain(..surplus);
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
            let request =
                VoteRequest { generation, term, proposer_id, replica: peer.replica.unwrap_or_default() };
            peer.outbox.push_back(ProposerMessage::Vote(request));
        }
    }

    /// A log with a designated primary takes WAL of no other. A proposer without a primary adds no WAL, so it may lead.
    /// A configuration of a later release is led by that release only.
    fn check_may_lead(&self) -> Result<(), LostTerm> {
        if let Some(needed) = self.configuration().and_then(Configuration::needs_version) {
            return Err(LostTerm::NeedsVersion(needed));
        }
        let brings_wal = self.options.primary.is_some() || self.options.tli.is_some();
        match self.membership.primary() {
            Some(designated) if brings_wal && self.options.primary != Some(designated) => {
                Err(LostTerm::NotDesignated { designated })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn vote_of(&self, node: NodeId) -> Option<&VoteResponse> {
        self.peers.get(&node).and_then(|peer| peer.vote.as_ref())
    }
}
