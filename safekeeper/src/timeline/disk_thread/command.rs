//! [`DiskCommand`]: the inbox of a disk thread. Sent by timelines, lanes, the registry and the pool.

use consensus::ConnectionId;

use super::owned_timeline::OpenedTimeline;
use crate::timeline::lane_queues::Queued;
use crate::timeline::mailbox::Mailbox;

/// One command for a disk thread. Commands of one sender are handled in their order.
pub(in crate::timeline) enum DiskCommand {
    /// Own this timeline from now on.
    Own { key: TimelineKey, timeline: Box<OpenedTimeline> },
    /// Open the lane of a proposer's connection; its replies go to the mailbox.
    OpenLane { key: TimelineKey, connection: ConnectionId, mailbox: Mailbox },
    /// Add a message to a lane.
    Enqueue { key: TimelineKey, connection: ConnectionId, queued: Queued },
    /// The connection is gone. Its messages are handled before the lane is removed.
    CloseLane { key: TimelineKey, connection: ConnectionId },
    /// Try to open a timeline whose disk is full or failed, until the attempt says that it is done.
    RetryOpen(OpenAttempt),
    /// Finish the commands that came before, then end.
    Stop,
}

/// One attempt to open a timeline; called again while it returns false.
pub(in crate::timeline) type OpenAttempt = Box<dyn FnMut() -> bool + Send>;

/// Number of a timeline within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::timeline) struct TimelineKey(pub(in crate::timeline) u64);
