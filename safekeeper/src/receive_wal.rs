//! START_WAL_PUSH: one connection of a proposer, from CopyBothResponse to the end of the copy.
//!
//! The copy moves to the shard of its timeline, which reads and answers it there. Here its session waits until the copy
//! comes back, and then sends the closing message. Called by `session`.

use std::sync::Arc;

use consensus::ProtocolVersion;
use postgres_backend::{AfterCopy, CopyBoth, CopyEnd, QueryError};
use utils::Shutdown;

use crate::closing::{shard_ended, shutting_down};
use crate::shard::{PushEnd, ShardEnded};
use crate::socket::Socket;
use crate::timeline::Timeline;

/// Receives WAL of a proposer until the copy ends.
pub(crate) async fn run(
    stream: CopyBoth<Socket>,
    timeline: &Arc<Timeline>,
    version: ProtocolVersion,
    shutdown: &Shutdown,
) -> CopyEnd<Socket> {
    let (stream, detached) = stream.change_socket(Socket::detach);
    if let Err(error) = detached {
        return CopyEnd::new(stream, Err(error.into()));
    }

    let mut push = timeline.push(stream, version);
    let returned = tokio::select! {
        returned = push.returned() => returned,
        () = shutdown.draining() => {
            push.drain();
            push.returned().await
        }
    };

    let (stream, attached) = returned.copy.change_socket(Socket::attach);
    if let Err(error) = attached {
        return CopyEnd::new(stream, Err(error.into()));
    }
    let (received, sent) = results(returned.end);
    CopyEnd { stream, received, sent: sent.map(|()| AfterCopy::Close) }
}

/// Results of the two directions: received, sent.
fn results(end: PushEnd) -> (Result<(), QueryError>, Result<(), QueryError>) {
    match end {
        PushEnd::ByProposer => (Ok(()), Ok(())),
        PushEnd::Drained => (Ok(()), Err(shutting_down().into())),
        PushEnd::ReceiveFailed(error) => (Err(error), Ok(())),
        PushEnd::SendFailed(error) => (Ok(()), Err(error)),
        PushEnd::ShardEnded => (Ok(()), Err(shard_ended(ShardEnded))),
    }
}
