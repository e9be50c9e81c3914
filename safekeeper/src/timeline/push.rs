//! [`Push`]: a session's end of a proposer's copy that is served by a shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use consensus::{ConnectionId, ProtocolVersion};
use postgres_backend::CopyBoth;
use tokio::sync::oneshot;

use super::handle::Timeline;
use crate::shard::{LentCopy, PushEnd, ReturnedCopy, ShardCommand};
use crate::socket::Socket;

/// A copy on the shard of its timeline. Dropping it closes the connection there, and the replica learns that it is gone.
#[derive(Debug)]
pub(crate) struct Push {
    timeline: Arc<Timeline>,
    connection: ConnectionId,
    returned: oneshot::Receiver<ReturnedCopy>,
}

impl Timeline {
    /// Gives a copy of a proposer, whose socket is detached, to the shard of this timeline.
    pub(crate) fn push(self: &Arc<Self>, copy: CopyBoth<Socket>, version: ProtocolVersion) -> Push {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        let connection = ConnectionId(CONNECTIONS.fetch_add(1, Ordering::Relaxed));
        let (lent, returned) = LentCopy::new(copy);
        self.proposers.fetch_add(1, Ordering::Relaxed);
        // A shard that has ended gives the copy back.
        let _ =
            self.shard.send(ShardCommand::Serve { key: self.key, connection, version, lent: Box::new(lent) });
        Push { timeline: Arc::clone(self), connection, returned }
    }
}

impl Push {
    /// Waits until the shard gives the copy back. Cancel-safe. Must not be called again after it returned.
    pub(crate) async fn returned(&mut self) -> ReturnedCopy {
        match (&mut self.returned).await {
            Ok(returned) => returned,
            // The shard gives back every copy; this one is lost with it.
            Err(_) => ReturnedCopy::lost(PushEnd::ShardEnded),
        }
    }

    /// Lets the shard decide what it received, and give the copy back.
    pub(crate) fn drain(&self) {
        // A shard that has ended has given it back.
        let _ = self.timeline.shard.send(ShardCommand::Drain { connection: self.connection });
    }
}

impl Drop for Push {
    /// Closes the connection on the shard. It happens in `drop` because the lane must be released however its session ends,
    /// also by a cancelled task.
    fn drop(&mut self) {
        self.timeline.proposers.fetch_sub(1, Ordering::Relaxed);
        // A copy that came back is known to be gone. A shard that has ended has no lanes.
        let _ = self.timeline.shard.send(ShardCommand::Close { connection: self.connection });
    }
}
