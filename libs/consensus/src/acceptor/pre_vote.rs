//! `PreVoteRequest`: reports the position of this log and promises nothing.

use super::{Acceptor, Effect, Refusal, require_holdfast2};
use crate::ConnectionId;
use crate::lineage::ProtocolVersion;
use crate::message::{AcceptorMessage, LeaderHeard, PreVoteResponse};

impl Acceptor {
    pub(super) fn handle_pre_vote(
        &self,
        from: ConnectionId,
        version: ProtocolVersion,
    ) -> Result<Vec<Effect>, Refusal> {
        require_holdfast2(version)?;
        let message = AcceptorMessage::PreVote(PreVoteResponse {
            generation: self.state.configuration.generation,
            term: self.state.term,
            flush_lsn: self.flush_lsn,
            commit_lsn: self.state.commit_lsn,
            start_lsn: self.oldest_lsn,
            history: self.local_history(),
            tli_switches: self.state.tli_switches.clone(),
            configuration: self.state.configuration.clone(),
            configuration_term: self.state.configuration_term,
            lost: self.state.lost.is_some(),
            heard: LeaderHeard::default(),
        });
        Ok(vec![Effect::Reply { to: from, message }])
    }
}
