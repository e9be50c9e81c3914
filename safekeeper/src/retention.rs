//! [`Retention`]: how much WAL is kept that no safekeeper needs any more.
//!
//! Safekeepers need WAL above the removal horizon of each other; that is never removed, whatever is set here. WAL below
//! the horizon is kept for readers: a fixed amount for readers that are not connected, and more for connected ones and
//! for those that have a replication slot. All are limited, because a reader that receives nothing would fill the disk,
//! and a full disk stops commits. Called by the shards.

use wal_store::Snapshot;
use wal_types::Lsn;

/// How much WAL is kept for readers, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// WAL below the removal horizon, for readers that may connect again.
    pub wal_keep_bytes: u64,
    /// WAL below the commit position, for readers that are connected and behind.
    pub reader_keep_bytes_max: u64,
    /// WAL below the commit position, for replication slots. A slot that needs more is lost.
    pub slot_keep_bytes_max: u64,
}

/// Default of `--wal-keep`: 1 GiB.
pub(crate) const WAL_KEEP_BYTES_DEFAULT: u64 = 1 << 30;
/// Default of `--reader-keep`: 16 GiB.
pub(crate) const READER_KEEP_BYTES_MAX_DEFAULT: u64 = 16 << 30;
/// Default of `--slot-keep`: 16 GiB.
pub(crate) const SLOT_KEEP_BYTES_MAX_DEFAULT: u64 = 16 << 30;

impl Default for Retention {
    fn default() -> Self {
        Self {
            wal_keep_bytes: WAL_KEEP_BYTES_DEFAULT,
            reader_keep_bytes_max: READER_KEEP_BYTES_MAX_DEFAULT,
            slot_keep_bytes_max: SLOT_KEEP_BYTES_MAX_DEFAULT,
        }
    }
}

impl Retention {
    /// The position from which on the log is kept. `reader_at` is where the reader that is furthest behind would resume,
    /// and `slot_at` the lowest position of a slot.
    pub(crate) fn keep_from(&self, snapshot: &Snapshot, reader_at: Option<Lsn>, slot_at: Option<Lsn>) -> Lsn {
        self.position(snapshot.commit_lsn, snapshot.horizon_lsn, reader_at, slot_at)
    }

    fn position(
        &self,
        commit_lsn: Lsn,
        horizon_lsn: Lsn,
        reader_at: Option<Lsn>,
        slot_at: Option<Lsn>,
    ) -> Lsn {
        let below = |lsn: Lsn, bytes: u64| Lsn(lsn.0.saturating_sub(bytes));
        let kept = below(horizon_lsn.min(commit_lsn), self.wal_keep_bytes);
        let limited = |at: Lsn, bytes_max: u64| at.max(below(commit_lsn, bytes_max));
        let for_readers = reader_at.map(|at| limited(at, self.reader_keep_bytes_max));
        let for_slots = slot_at.map(|at| limited(at, self.slot_keep_bytes_max));
        [for_readers, for_slots].into_iter().flatten().fold(kept, Lsn::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connected readers keep the WAL that they lack, up to the limit.
    #[test]
    fn retention_keeps_wal_of_readers_up_to_limit() {
        let retention =
            Retention { wal_keep_bytes: 100, reader_keep_bytes_max: 1000, slot_keep_bytes_max: 2000 };
        for (commit, horizon, reader, expected) in [
            (5000, 4800, None, 4700),
            (5000, 5000, None, 4900),
            // A horizon above the commit position counts as the commit position.
            (5000, 6000, None, 4900),
            (5000, 4800, Some(4900), 4700),
            (5000, 4800, Some(4300), 4300),
            (5000, 4800, Some(3000), 4000),
            // A member that is far behind is no reader: the horizon says what it needs.
            (5000, 200, Some(4900), 100),
            (50, 40, None, 0),
        ] {
            let position = retention.position(Lsn(commit), Lsn(horizon), reader.map(Lsn), None);
            assert_eq!(position, Lsn(expected), "{commit} {horizon} {reader:?}");
        }
    }

    #[test]
    fn retention_keeps_wal_of_slots_up_to_limit() {
        let retention =
            Retention { wal_keep_bytes: 100, reader_keep_bytes_max: 1000, slot_keep_bytes_max: 2000 };
        for (reader, slot, expected) in [
            (None, Some(4950), 4900),
            (None, Some(3500), 3500),
            (Some(4500), Some(3500), 3500),
            (Some(3500), Some(4500), 4000),
            (None, Some(2000), 3000),
            (None, Some(0), 3000),
        ] {
            let position = retention.position(Lsn(5000), Lsn(5000), reader.map(Lsn), slot.map(Lsn));
            assert_eq!(position, Lsn(expected), "{reader:?} {slot:?}");
        }
    }
}
