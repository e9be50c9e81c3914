//! [`LentCopy`]: a proposer's copy on loan to a shard. It goes back to its session in any case, also when the shard ends by
//! a panic: the session sends the closing message, and may wait for the peer while it does.

use bytes::BytesMut;
use postgres_backend::{Connection, CopyBoth, QueryError, Stream};
use tokio::sync::oneshot;

use crate::socket::Socket;

/// A copy on loan.
#[derive(Debug)]
pub(crate) struct LentCopy {
    copy: CopyBoth<Socket>,
    session: Option<oneshot::Sender<ReturnedCopy>>,
    end: Option<PushEnd>,
}

/// A copy that was given back; its socket is detached.
#[derive(Debug)]
pub(crate) struct ReturnedCopy {
    pub(crate) copy: CopyBoth<Socket>,
    pub(crate) end: PushEnd,
}

/// Why the exchange with a proposer ended.
#[derive(Debug)]
pub(crate) enum PushEnd {
    /// The proposer ended the copy or disconnected.
    ByProposer,
    /// The safekeeper is shutting down; everything received is decided.
    Drained,
    /// Receiving failed; the proposer is told why.
    ReceiveFailed(QueryError),
    /// Sending failed, or the replica closed the connection.
    SendFailed(QueryError),
    /// The shard has ended.
    ShardEnded,
}

impl ReturnedCopy {
    /// Stands in for a copy that was lost with its shard.
    pub(crate) fn lost(end: PushEnd) -> Self {
        Self { copy: lost_copy(), end }
    }
}

impl LentCopy {
    /// Lends a copy whose socket is detached.
    pub(crate) fn new(copy: CopyBoth<Socket>) -> (Self, oneshot::Receiver<ReturnedCopy>) {
        let (session, returned) = oneshot::channel();
        (Self { copy, session: Some(session), end: None }, returned)
    }

    /// The copy.
    pub(crate) fn copy(&mut self) -> &mut CopyBoth<Socket> {
        &mut self.copy
    }

    /// Gives the copy back.
    pub(crate) fn give_back(mut self, end: PushEnd) {
        self.end = Some(end);
    }

    /// Lets the current runtime wait for the socket. On an error the copy has been given back.
    pub(crate) fn attach(mut self) -> Option<Self> {
        let (copy, attached) = std::mem::replace(&mut self.copy, lost_copy()).change_socket(Socket::attach);
        self.copy = copy;
        match attached {
            Ok(()) => Some(self),
            Err(error) => {
                self.give_back(PushEnd::SendFailed(error.into()));
                None
            }
        }
    }
}

impl Drop for LentCopy {
    /// Gives the copy back. A session that is gone does not need it.
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let copy = std::mem::replace(&mut self.copy, lost_copy());
        let (copy, detached) = copy.change_socket(Socket::detach);
        let end = match (self.end.take(), detached) {
            (Some(end), Ok(())) => end,
            (None, Ok(())) => PushEnd::ShardEnded,
            (_, Err(error)) => PushEnd::SendFailed(error.into()),
        };
        let _ = session.send(ReturnedCopy { copy, end });
    }
}

/// Stands in for a copy that moves elsewhere.
fn lost_copy() -> CopyBoth<Socket> {
    CopyBoth::split(Connection::new(Stream::Plain(Socket::lost()), BytesMut::new()))
}
