//! [`Snapshot`]: immutable view of a log for readers; [`SnapshotCell`] holds the newest one.
//!
//! Senders read files that the owner may truncate at the same time. One counter keeps them apart,
//! [`Snapshot::truncations`]. It rises, **and is published**, before a truncation removes or replaces the first file, and
//! again when the truncation is done. A reader opens a file under one count, and drops what it read when the count has
//! changed after the read. Raising it once would not do: a file that is opened during a truncation may be the old one,
//! and would be read on after the log has grown anew.

use std::sync::Arc;

use consensus::{Configuration, Lineage, Loss, TermHistory, TliSwitch};
use parking_lot::Mutex;
use wal_types::{CopyId, Lsn, Term};

/// Whether the timeline can be written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can be written and read.
    Healthy,
    /// No room for appends: the disk is full, or too many files are open. Everything else works. Ends without help.
    Full,
    /// A write or sync failed. Nothing is answered until the log is recovered from the disk, which is retried.
    Failed,
    /// Acknowledged WAL is gone. The node does not vote. It follows, and serves what it has, until a leader has repaired
    /// it.
    Lost,
    /// The node's promises are gone. Nothing is answered and nothing served, now or later under this node's number.
    Corrupt,
}

/// One log at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether the log can be written and read.
    pub health: Health,
    /// Highest term that the node promised.
    pub term: Term,
    /// Term of the last entry of the history that the log reaches.
    pub last_log_term: Term,
    /// Terms that wrote the log, and where each began. May reach beyond the end of the log.
    pub history: Arc<TermHistory>,
    /// Positions where PostgreSQL's timeline changed.
    pub tli_switches: Arc<[TliSwitch]>,
    /// The safekeeper, and its copy of the log.
    pub copy: CopyId,
    /// Identity of the log.
    pub lineage: Arc<Lineage>,
    /// Text of the history file of the timeline that the log begins on; `None` when it has none, or it is damaged.
    pub start_history: Option<Arc<[u8]>>,
    /// Members that vote.
    pub configuration: Arc<Configuration>,
    /// Term of the proposer that wrote the configuration.
    pub configuration_term: Term,
    /// Acknowledged WAL that this node lost, until it is repaired.
    pub lost: Option<Loss>,
    /// Names of damaged files that were kept.
    pub quarantined: Arc<[String]>,
    /// End of the last byte that was written.
    pub write_lsn: Lsn,
    /// End of the last durable record.
    pub flush_lsn: Lsn,
    /// Highest position that is known to be committed and held here.
    pub commit_lsn: Lsn,
    /// Commit position on the disk.
    pub persisted_commit_lsn: Lsn,
    /// Removal horizon: no member needs WAL below it from another.
    pub horizon_lsn: Lsn,
    /// First byte that can be read.
    pub oldest_lsn: Lsn,
    /// Rises when files may have been truncated or replaced.
    pub truncations: u64,
    /// True while WAL arrives: some was written in the last second or two.
    pub receives_wal: bool,
}

/// Holds the newest snapshot of one log. Clones share it.
///
/// A lock that nobody waits for costs a commit less than an exchange of pointers that readers may be using.
#[derive(Clone, Debug)]
pub struct SnapshotCell(Arc<Mutex<Arc<Snapshot>>>);

impl SnapshotCell {
    pub(crate) fn new(first: Snapshot) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(first))))
    }

    /// The newest snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.lock())
    }

    /// [`SnapshotCell::publish`], unless nothing has changed: a new snapshot wakes readers.
    pub(crate) fn publish_if_new(&self, snapshot: Snapshot) {
        if **self.0.lock() != snapshot {
            self.publish(snapshot);
        }
    }

    /// Replaces the snapshot; readers see it at once.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        let old = std::mem::replace(&mut *self.0.lock(), Arc::new(snapshot));
        // The lock is free again when the last reader's snapshot goes.
        drop(old);
    }
}
