//! [`Snapshot`]: what everybody but its owner may know about a timeline, and [`SnapshotCell`], where the newest one is.
//!
//! Senders read files that the owner may be cutting at the same time. What keeps them apart is one number: it rises,
//! **and is published**, before a cut removes or replaces the first file, and again when it is done. A reader opens a
//! file under a number, and drops what it read when the number is another one after the reading. Once would not do: a
//! file that is opened while a cut goes on may be the old one, and would be read on when the log has grown anew.

use std::sync::Arc;

use arc_swap::ArcSwap;
use consensus::{Configuration, Lineage, Loss, TermHistory, TliSwitch};
use wal_types::{Lsn, Term};

/// Can the timeline be written and read?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Healthy,
    /// There is no room for appends; all else goes on. Recovers by itself.
    Full,
    /// The disk failed; nothing is answered until the state was recovered from what it holds. Tried by itself.
    Failed,
    /// Some of what it had acknowledged is gone. It does not vote; it follows, and serves what it has, until a leader
    /// has repaired it.
    Lost,
    /// What it promised is gone. Nothing is answered and nothing served, and nothing will be under this node's number.
    Corrupt,
}

/// A timeline at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Can it be written and read?
    pub health: Health,
    /// Highest term promised.
    pub term: Term,
    /// Term of the last entry that the log reaches.
    pub last_log_term: Term,
    /// Who wrote what; may reach beyond the log.
    pub history: Arc<TermHistory>,
    /// Where PostgreSQL's timeline changed.
    pub tli_switches: Arc<[TliSwitch]>,
    /// What the log is the log of.
    pub lineage: Arc<Lineage>,
    /// Who votes.
    pub configuration: Arc<Configuration>,
    /// Term of the proposer that wrote the configuration.
    pub configuration_term: Term,
    /// What is missing of what was acknowledged.
    pub lost: Option<Loss>,
    /// Names of damaged files that were put aside.
    pub quarantined: Arc<[String]>,
    /// Behind the last byte that was written.
    pub write_lsn: Lsn,
    /// End of the last durable record.
    pub flush_lsn: Lsn,
    /// Known to be committed, and held here.
    pub commit_lsn: Lsn,
    /// The commit position on disk.
    pub persisted_commit_lsn: Lsn,
    /// Below it no member needs anything from another.
    pub horizon_lsn: Lsn,
    /// First byte that can be read.
    pub oldest_lsn: Lsn,
    /// Rises when files may have been cut or replaced.
    pub truncations: u64,
    /// True when WAL came in lately.
    pub is_written: bool,
}

/// The newest snapshot of one timeline. Clones see the same.
#[derive(Clone, Debug)]
pub struct SnapshotCell(Arc<ArcSwap<Snapshot>>);

impl SnapshotCell {
    pub(crate) fn new(first: Snapshot) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(first)))
    }

    /// The newest one.
    pub fn current(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }
}
