//! `Watch`: tells what this node knows of the log and its leader.

use super::{Acceptor, Effect, Refusal, require_holdfast2};
use crate::ConnectionId;
use crate::lineage::ProtocolVersion;
use crate::message::{AcceptorMessage, LeaderHeard, WatchResponse};

impl Acceptor {
    /// Reports durable positions only, so nothing has to be flushed first. Changes nothing.
    pub(super) fn handle_watch(
        &self,
        from: ConnectionId,
        version: ProtocolVersion,
    ) -> Result<Vec<Effect>, Refusal> {
        require_holdfast2(version)?;
        let message = AcceptorMessage::Watch(WatchResponse {
            copy: self.copy,
            term: self.state.term,
            flush_lsn: self.flush_lsn,
            commit_lsn: self.state.commit_lsn,
            oldest_lsn: self.oldest_lsn,
            configuration: self.state.configuration.clone(),
            configuration_term: self.state.configuration_term,
            lost: self.state.lost.is_some(),
            heard: LeaderHeard::default(),
        });
        Ok(vec![Effect::Reply { to: from, message }])
    }
}
