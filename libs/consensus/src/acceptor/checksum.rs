//! `ChecksumRequest`: has the driver checksum a range of the log, for the candidate that holds this node's vote.

use super::{Acceptor, Effect, Refusal, require_holdfast2};
use crate::ConnectionId;
use crate::lineage::ProtocolVersion;
use crate::message::{AcceptorMessage, ChecksumRequest, ChecksumResponse};

impl Acceptor {
    /// A range that this node does not hold in full, or a request of a deposed candidate, gets a response without a
    /// checksum. Changes nothing.
    pub(super) fn handle_checksum(
        &self,
        from: ConnectionId,
        version: ProtocolVersion,
        request: ChecksumRequest,
    ) -> Result<Vec<Effect>, Refusal> {
        require_holdfast2(version)?;
        let ChecksumRequest { from: begin, to, .. } = request;
        let short = begin <= to && to.bytes_since(begin) <= self.lineage.segment_size.bytes().into();
        if !short {
            return Err(Refusal::Malformed("checksum range exceeds one segment"));
        }

        let held = begin >= self.oldest_lsn && to <= self.flush_lsn && request.term >= self.state.term;
        if held {
            return Ok(vec![Effect::Checksum { reply_to: from, from: begin, to }]);
        }
        let message = AcceptorMessage::Checksum(ChecksumResponse { from: begin, to, crc32c: None });
        Ok(vec![Effect::Reply { to: from, message }])
    }
}
