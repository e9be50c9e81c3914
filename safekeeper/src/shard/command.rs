//! [`ShardCommand`]: the inbox of a shard. Sent by the registry, by sessions and by the pool; never for a message of a
//! proposer.

use consensus::{BootstrapRefused, ConnectionId, Member, ProtocolVersion};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use wal_store::{RealDisk, Rejection, WorkDone};

use super::lent_copy::LentCopy;
use super::owned_timeline::OpenedTimeline;

/// One command for a shard. Commands of one sender are handled in their order.
pub(crate) enum ShardCommand {
    /// Own this timeline from now on.
    Own { key: TimelineKey, timeline: Box<OpenedTimeline> },
    /// Serve the connection of a proposer until its copy ends, then give it back.
    Serve { key: TimelineKey, connection: ConnectionId, version: ProtocolVersion, lent: Box<LentCopy> },
    /// Decide what was received of the connection, then give it back.
    Drain { connection: ConnectionId },
    /// The session of the connection is gone. What was received is handled before its lane is removed.
    Close { connection: ConnectionId },
    /// Tell a new copy its first members; the inner result says whether it accepts them, the outer one whether its disk works.
    Bootstrap {
        key: TimelineKey,
        members: Vec<Member>,
        answer: oneshot::Sender<Result<Result<(), BootstrapRefused>, Rejection>>,
    },
    /// Another thread did this for the timeline.
    WorkDone { key: TimelineKey, done: Box<WorkDone<RealDisk>> },
    /// Finish the commands that came before, then end.
    Stop,
}

/// Number of a timeline within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimelineKey(pub(crate) u64);

/// The sending end of a shard's inbox. The number of commands is bounded by that of timelines and connections.
#[derive(Clone, Debug)]
pub(crate) struct ShardSender(pub(super) UnboundedSender<ShardCommand>);

impl ShardSender {
    /// Sends a command.
    pub(crate) fn send(&self, command: ShardCommand) -> Result<(), ShardEnded> {
        self.0.send(command).map_err(|_| ShardEnded)
    }
}

/// The shard of the timeline has ended. Only a fault in this program ends it while connections are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard of this timeline has ended; restart the safekeeper")]
pub(crate) struct ShardEnded;
