//! The promise of a term.

use wal_types::Lsn;

use super::{Acceptor, Effect, Refusal};
use crate::ConnectionId;
use crate::lineage::ProtocolVersion;
use crate::message::{AcceptorMessage, VoteRequest, VoteResponse};

impl Acceptor {
    /// A term is promised once. The same campaign may hear of its promise again; versions 2 and 3 name no campaign, so
    /// a repetition is answered, but not granted.
    pub(super) fn vote(
        &mut self,
        from: ConnectionId,
        version: ProtocolVersion,
        request: VoteRequest,
    ) -> Result<Vec<Effect>, Refusal> {
        self.check_generation(version, request.generation)?;
        self.check_leap(request.term)?;
        let own = version == ProtocolVersion::Holdfast1;
        let lost = self.state.lost.is_some();
        let campaign = (version == ProtocolVersion::Holdfast1).then_some(request.proposer_id);
        let mut effects = Vec::new();
        let mut vote_given = false;
        if request.term > self.state.term {
            self.enter_term(request.term);
            // Who lost what it had acknowledged adopts the term all the same, lest it follow an older leader, but must
            // not stand for what it no longer has.
            self.state.voted_for = campaign.filter(|_| !lost);
            effects.push(self.persist());
            if lost && !own {
                // The public proposer takes a vote that is not given for the end of its campaign. It does without one
                // of a node that is silent, and asks again when others elected it: then the answer is no danger.
                return Ok(effects);
            }
            vote_given = !lost;
        } else if request.term == self.state.term && campaign.is_some() && self.state.voted_for == campaign {
            self.owner = None;
            vote_given = !lost;
        }
        let message = AcceptorMessage::Vote(VoteResponse {
            generation: self.state.configuration.generation,
            term: self.state.term,
            vote_given,
            flush_lsn: self.flush_lsn,
            truncate_lsn: if own { self.agreed_lsn() } else { self.state.horizon_lsn },
            history: self.local_history(),
            timeline_start_lsn: if own { self.oldest_lsn } else { Lsn::INVALID },
            tli_switches: self.state.tli_switches.clone(),
            configuration: self.state.configuration.clone(),
            configuration_term: self.state.configuration_term,
            lost: self.state.lost.is_some(),
        });
        effects.push(Effect::Reply { to: from, message });
        Ok(effects)
    }
}
