//! `AppendResponse`: reports the positions of this log to the connections that append.

use wal_types::Lsn;

use super::{Acceptor, Effect};
use crate::ConnectionId;
use crate::message::{AcceptorMessage, AppendResponse, HotStandbyFeedback};

impl Acceptor {
    /// The response to a connection whose append has to wait for disk space. It promises nothing new and keeps the
    /// proposer from closing the connection.
    pub fn unchanged_response(&self, to: ConnectionId) -> Effect {
        // A sender that does not lead would read these positions as an acknowledgement of its own log.
        if self.leads(to) { self.append_response(to) } else { self.deposed_response(to) }
    }

    pub(super) fn append_response(&self, to: ConnectionId) -> Effect {
        self.respond(to, self.flush_lsn, self.persisted_commit, self.oldest_lsn)
    }

    /// Tells a proposer of a lower term that it was deposed, and nothing else.
    pub(super) fn deposed_response(&self, to: ConnectionId) -> Effect {
        self.respond(to, Lsn::INVALID, Lsn::INVALID, Lsn::INVALID)
    }

    fn respond(&self, to: ConnectionId, flush_lsn: Lsn, commit_lsn: Lsn, oldest_lsn: Lsn) -> Effect {
        let message = AcceptorMessage::Append(AppendResponse {
            generation: self.state.configuration.generation,
            term: self.state.term,
            flush_lsn,
            commit_lsn,
            oldest_lsn,
            hot_standby: HotStandbyFeedback::default(),
            pageserver: None,
        });
        Effect::Reply { to, message }
    }
}
