//! `VoteRequest`: grants at most one vote per term, after the term is durable.

use wal_types::Lsn;

use super::{Acceptor, Effect, Refusal};
use crate::ConnectionId;
use crate::lineage::ProtocolVersion;
use crate::message::{AcceptorMessage, LeaderHeard, VoteRequest, VoteResponse};

impl Acceptor {
    /// A repeated request of the campaign that has the vote is granted again. In versions 2 and 3 a vote is not bound to a
    /// campaign, so a repeated request gets a response and no vote.
    pub(super) fn handle_vote(
        &mut self,
        from: ConnectionId,
        version: ProtocolVersion,
        request: VoteRequest,
    ) -> Result<Vec<Effect>, Refusal> {
        self.check_generation(version, request.generation)?;
        self.check_copy(version, request.replica)?;
        self.check_term_leap(request.term)?;
        let is_holdfast2 = version == ProtocolVersion::Holdfast2;
        let unconfigured = self.is_unconfigured();
        if unconfigured && !is_holdfast2 {
            return Err(Refusal::Unconfigured);
        }
        // Neither has what a vote is granted on: the one has lost it, the other does not belong to the log yet.
        let votes = self.state.lost.is_none() && !unconfigured;
        let campaign = is_holdfast2.then_some(request.proposer_id);
        let mut effects = Vec::new();
        let mut vote_given = false;

        if request.term > self.state.term {
            self.enter_term(request.term);
            // A lost node still adopts the term, so that it follows no older leader. It must not vote for a log on the
            // strength of WAL that it no longer has.
            self.state.voted_for = campaign.filter(|_| votes);
            effects.push(self.persist());
            if !votes && !is_holdfast2 {
                // A proposer of versions 2 and 3 ends its campaign when a vote is not given. It can win without the
                // response of a silent node, and asks again when others have elected it: then a response is harmless.
                return Ok(effects);
            }
            vote_given = votes;
        } else if request.term == self.state.term && campaign.is_some() && self.state.voted_for == campaign {
            self.leader = None;
            vote_given = votes;
        }

        let message = AcceptorMessage::Vote(VoteResponse {
            generation: self.state.configuration.generation,
            term: self.state.term,
            vote_given,
            flush_lsn: self.flush_lsn,
            truncate_lsn: if is_holdfast2 { self.persisted_horizon } else { self.state.horizon_lsn },
            commit_lsn: if is_holdfast2 { self.known_commit() } else { Lsn::INVALID },
            history: self.local_history(),
            timeline_start_lsn: if is_holdfast2 { self.oldest_lsn } else { Lsn::INVALID },
            tli_switches: self.state.tli_switches.clone(),
            configuration: self.state.configuration.clone(),
            configuration_term: self.state.configuration_term,
            lost: self.state.lost.is_some(),
            heard: LeaderHeard::default(),
        });
        effects.push(Effect::Reply { to: from, message });
        Ok(effects)
    }
}
