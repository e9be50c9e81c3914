//! [`Timeline`]: a connection's handle of one log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use consensus::Member;
use tokio::sync::{oneshot, watch};
use wal_store::{ReadMode, RealDisk, Snapshot, SnapshotCell, WalReader};

use super::create::BootstrapError;
use crate::feedback::Readers;
use crate::retention::TimelineHolds;
use crate::shard::{ShardCommand, ShardEnded, ShardSender, TimelineKey};
use crate::slots::TimelineSlots;
use crate::start_history::StartHistory;

/// One timeline, as connections see it.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(super) key: TimelineKey,
    pub(super) disk: RealDisk,
    pub(super) shard: ShardSender,
    pub(super) snapshots: SnapshotCell,
    /// Notified after each new snapshot.
    pub(super) changed: watch::Receiver<()>,
    /// Connected readers, and their reports.
    pub(crate) readers: Arc<Readers>,
    /// PostgreSQL timelines before the log.
    pub(crate) start_history: StartHistory,
    /// Replication slots.
    pub(crate) slots: Arc<TimelineSlots>,
    /// Why it keeps old WAL.
    pub(crate) holds: Arc<TimelineHolds>,
    pub(super) proposers: AtomicUsize,
}

impl Timeline {
    /// The newest snapshot.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.current()
    }

    /// Tells the copy who the first members of its log are. Durable when it returns.
    pub(crate) async fn bootstrap(&self, members: Vec<Member>) -> Result<(), BootstrapError> {
        let (answer, answered) = oneshot::channel();
        self.shard.send(ShardCommand::Bootstrap { key: self.key, members, answer })?;
        Ok(answered.await.map_err(|_| ShardEnded)???)
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
    pub(crate) async fn changed(&mut self) -> Result<(), ShardEnded> {
        self.changed.changed().await.map_err(|_| ShardEnded)
    }
}
