//! [`Timeline`]: a connection's handle of one log. [`LaneSender`]: the connection's end of its lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use consensus::{ConnectionId, ProposerMessage};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wal_store::{Input, ReadMode, RealDisk, Snapshot, SnapshotCell, WalReader};

use super::disk_thread::{DiskCommand, TimelineKey};
use super::lane_queues::Queued;
use super::mailbox::Mailbox;
use crate::feedback::Readers;

/// Messages of one connection that wait for the disk thread, in bytes.
pub(crate) const LANE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A short message counts as this many bytes in its lane: it takes memory beside its bytes.
pub(crate) const MESSAGE_BYTES_MIN: usize = 512;

/// One timeline, as connections see it.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(super) key: TimelineKey,
    pub(super) disk: RealDisk,
    pub(super) thread: Sender<DiskCommand>,
    pub(super) snapshots: SnapshotCell,
    /// Notified after each new snapshot.
    pub(super) changed: watch::Receiver<()>,
    /// Connected readers, and their reports.
    pub(crate) readers: Arc<Readers>,
    pub(super) proposers: AtomicUsize,
}

impl Timeline {
    /// The newest snapshot.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.current()
    }

    /// The newest snapshot and every later one.
    pub(crate) fn watch(&self) -> SnapshotWatch {
        SnapshotWatch { snapshots: self.snapshots.clone(), changed: self.changed.clone() }
    }

    /// A reader of the log's files.
    pub(crate) fn wal_reader(&self, mode: ReadMode) -> WalReader<RealDisk> {
        WalReader::new(self.disk.clone(), self.snapshots.clone(), mode)
    }

    /// How many proposers are connected.
    pub(crate) fn proposer_count(&self) -> usize {
        self.proposers.load(Ordering::Relaxed)
    }

    /// Opens a lane for a new connection of a proposer.
    pub(crate) fn open_lane(self: &Arc<Self>) -> Result<LaneSender, ThreadEnded> {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        let connection = ConnectionId(CONNECTIONS.fetch_add(1, Ordering::Relaxed));
        let mailbox = Mailbox::default();
        self.command(DiskCommand::OpenLane { key: self.key, connection, mailbox: mailbox.clone() })?;

        self.proposers.fetch_add(1, Ordering::Relaxed);
        let room = Arc::new(Semaphore::new(LANE_BYTES_MAX));
        Ok(LaneSender { timeline: Arc::clone(self), connection, room, mailbox })
    }

    pub(super) fn command(&self, command: DiskCommand) -> Result<(), ThreadEnded> {
        self.thread.send(command).map_err(|_| ThreadEnded)
    }
}

/// The snapshots of a timeline, and a way to wait for the next one.
#[derive(Debug)]
pub(crate) struct SnapshotWatch {
    snapshots: SnapshotCell,
    changed: watch::Receiver<()>,
}

impl SnapshotWatch {
    /// The newest snapshot. Each later one makes [`SnapshotWatch::changed`] return.
    pub(crate) fn current(&mut self) -> Arc<Snapshot> {
        // In this order, a snapshot that is published between the two calls is returned now and announced once more. In the
        // other order it would be missed.
        self.changed.mark_unchanged();
        self.snapshots.current()
    }

    /// Waits for a snapshot that is newer than the last [`SnapshotWatch::current`]. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> Result<(), ThreadEnded> {
        self.changed.changed().await.map_err(|_| ThreadEnded)
    }
}

/// The disk thread of the timeline has ended. Only a fault in this program ends it while connections are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk thread of this timeline has ended; restart the safekeeper")]
pub(crate) struct ThreadEnded;

/// The connection's end of its lane. Dropping it releases the lane, and the replica learns that the connection is gone.
#[derive(Debug)]
pub(crate) struct LaneSender {
    timeline: Arc<Timeline>,
    connection: ConnectionId,
    room: Arc<Semaphore>,
    mailbox: Mailbox,
}

impl LaneSender {
    /// The replies for this connection.
    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Waits for room for `bytes`. Cancel-safe: a cancelled wait loses its place in the queue for this room, and the
    /// connection is alone in that queue.
    pub(crate) fn reserve(&self, bytes: usize) -> impl Future<Output = OwnedSemaphorePermit> + use<> {
        let room = Arc::clone(&self.room);
        let permits = bytes.min(LANE_BYTES_MAX) as u32;
        async move {
            match room.acquire_many_owned(permits).await {
                Ok(permit) => permit,
                // The semaphore is never closed.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Puts a message of `bytes` encoded bytes into the lane. `room` was reserved for it; the surplus is given back.
    pub(crate) fn enqueue(
        &self,
        message: ProposerMessage,
        bytes: usize,
        mut room: OwnedSemaphorePermit,
    ) -> Result<(), ThreadEnded> {
        let surplus = room.num_permits().saturating_sub(bytes.max(MESSAGE_BYTES_MIN));
        drop(room.split(surplus));

        let queued = Queued { input: Input::Message(message), permit: Some(room) };
        let (key, connection) = (self.timeline.key, self.connection);
        self.timeline.command(DiskCommand::Enqueue { key, connection, queued })
    }
}

impl Drop for LaneSender {
    /// Releases the lane. The other end is on the disk thread, so that takes a message. It happens in `drop` because the
    /// lane must be released however its connection ends, also by a cancelled task.
    fn drop(&mut self) {
        self.timeline.proposers.fetch_sub(1, Ordering::Relaxed);
        let release = DiskCommand::CloseLane { key: self.timeline.key, connection: self.connection };
        // A disk thread that has ended has no lanes.
        let _ = self.timeline.command(release);
    }
}
