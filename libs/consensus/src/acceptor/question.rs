//! Questions: what an acceptor answers without promising anything.

use super::{Acceptor, Effect, Refusal, own_version_only};
use crate::ConnectionId;
use crate::lineage::ProtocolVersion;
use crate::message::{AcceptorMessage, ChecksumRequest, ChecksumResponse, PreVoteRequest, PreVoteResponse};

impl Acceptor {
    pub(super) fn pre_vote(
        &self,
        from: ConnectionId,
        version: ProtocolVersion,
        _request: PreVoteRequest,
    ) -> Result<Vec<Effect>, Refusal> {
        own_version_only(version)?;
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
        });
        Ok(vec![Effect::Reply { to: from, message }])
    }

    pub(super) fn checksum(
        &self,
        from: ConnectionId,
        version: ProtocolVersion,
        request: ChecksumRequest,
    ) -> Result<Vec<Effect>, Refusal> {
        own_version_only(version)?;
        let ChecksumRequest { from: begin, to, .. } = request;
        let short = begin <= to && to.bytes_since(begin) <= self.lineage.segment_size.bytes().into();
        if !short {
            return Err(Refusal::Malformed("a checksum of more than one segment"));
        }
        let held = begin >= self.oldest_lsn && to <= self.flush_lsn && request.term >= self.state.term;
        if held {
            return Ok(vec![Effect::Checksum { reply_to: from, from: begin, to }]);
        }
        let message = AcceptorMessage::Checksum(ChecksumResponse { from: begin, to, crc32c: None });
        Ok(vec![Effect::Reply { to: from, message }])
    }
}
