//! [`Timeline`]: the handle of everybody but the disk thread. A lane in, a mailbox out, and a snapshot to watch.
//!
//! ```text
//!   receive_wal ── room, message ──> lane ──┐                        ┌──> mailbox ──> receive_wal
//!                                           ├─> disk thread, Replica ┤
//!   receive_wal ── room, message ──> lane ──┘                        └──> snapshot ─> send_wal, replies, http
//! ```

mod lanes;
mod mailbox;
mod open_error;
mod registry;
mod task;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use consensus::{ConnectionId, ProposerMessage};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wal_store::{Input, ReadMode, RealDisk, Snapshot, SnapshotCell, WalReader};
use wal_types::TenantTimelineId;

use lanes::Queued;
pub(crate) use mailbox::{Mail, Mailbox};
pub(crate) use registry::{CreateError, Created, NewTimeline, NotServed, Timelines};
pub(crate) use task::DiskPool;
use task::{Order, TimelineKey};

use crate::feedback::Readers;

/// WAL and other messages of one connection that wait for the disk thread, in bytes.
pub(crate) const APPEND_LANE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the smallest message is counted as: it takes memory beside its bytes.
pub(crate) const MESSAGE_BYTES_MIN: usize = 512;

/// One timeline, as connections see it.
#[derive(Debug)]
pub(crate) struct Timeline {
    id: TenantTimelineId,
    key: TimelineKey,
    disk: RealDisk,
    thread: Sender<Order>,
    snapshots: SnapshotCell,
    changed: watch::Receiver<()>,
    /// Who reads here.
    pub(crate) readers: Arc<Readers>,
    proposers: AtomicUsize,
}

impl Timeline {
    /// How things stand.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.current()
    }

    /// How things stand from now on.
    pub(crate) fn watch(&self) -> Watch {
        Watch { snapshots: self.snapshots.clone(), changed: self.changed.clone() }
    }

    /// A reader of the log.
    pub(crate) fn reader(&self, mode: ReadMode) -> WalReader<RealDisk> {
        WalReader::new(self.disk.clone(), self.snapshots.clone(), mode)
    }

    /// Connections of proposers.
    pub(crate) fn proposers(&self) -> usize {
        self.proposers.load(Ordering::Relaxed)
    }

    /// Opens a lane.
    pub(crate) fn attach(self: &Arc<Self>) -> Result<Lane, ThreadEnded> {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        let connection = ConnectionId(CONNECTIONS.fetch_add(1, Ordering::Relaxed));
        let mailbox = Mailbox::default();
        self.order(Order::Attach { key: self.key, connection, mailbox: mailbox.clone() })?;
        self.proposers.fetch_add(1, Ordering::Relaxed);
        let room = Arc::new(Semaphore::new(APPEND_LANE_BYTES_MAX));
        Ok(Lane { timeline: Arc::clone(self), connection, room, mailbox })
    }

    fn order(&self, order: Order) -> Result<(), ThreadEnded> {
        self.thread.send(order).map_err(|_| ThreadEnded)
    }
}

/// The snapshots of a timeline, and a way to wait for the next one.
#[derive(Debug)]
pub(crate) struct Watch {
    snapshots: SnapshotCell,
    changed: watch::Receiver<()>,
}

impl Watch {
    /// The newest one. Later ones make [`Watch::changed`] return.
    pub(crate) fn current(&mut self) -> Arc<Snapshot> {
        self.changed.mark_unchanged();
        self.snapshots.current()
    }

    /// Waits for one that is newer than the last [`Watch::current`]. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> Result<(), ThreadEnded> {
        self.changed.changed().await.map_err(|_| ThreadEnded)
    }
}

/// The thread that owned the timeline is gone, by a fault in this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the thread of this timeline has ended")]
pub(crate) struct ThreadEnded;

/// The lane of one connection. When it is dropped, the replica learns that the connection is gone.
#[derive(Debug)]
pub(crate) struct Lane {
    timeline: Arc<Timeline>,
    connection: ConnectionId,
    room: Arc<Semaphore>,
    mailbox: Mailbox,
}

impl Lane {
    /// What comes back.
    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Waits for room for `bytes`. Cancel-safe, but who gives up goes to the end of the queue of this connection,
    /// which is alone in it.
    pub(crate) fn room(&self, bytes: usize) -> impl Future<Output = OwnedSemaphorePermit> + use<> {
        let room = Arc::clone(&self.room);
        let permits = bytes.min(APPEND_LANE_BYTES_MAX) as u32;
        async move {
            match room.acquire_many_owned(permits).await {
                Ok(permit) => permit,
                // The semaphore is never closed.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Queues a message that came as `bytes` bytes; `room` is what was got for it, and the rest is given back.
    pub(crate) fn queue(
        &self,
        message: ProposerMessage,
        bytes: usize,
        mut room: OwnedSemaphorePermit,
    ) -> Result<(), ThreadEnded> {
        let surplus = room.num_permits().saturating_sub(bytes.max(MESSAGE_BYTES_MIN));
        drop(room.split(surplus));
        let queued = Queued { input: Input::Message(message), permit: Some(room) };
        self.timeline.order(Order::Queue { key: self.timeline.key, connection: self.connection, queued })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.timeline.proposers.fetch_sub(1, Ordering::Relaxed);
        let queued = Queued { input: Input::Disconnected, permit: None };
        let order = Order::Queue { key: self.timeline.key, connection: self.connection, queued };
        // Without its thread nobody is left to be told.
        let _ = self.timeline.order(order);
    }
}
