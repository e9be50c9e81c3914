//! [`Retention`]: how much WAL is kept that no safekeeper needs any more.
//!
//! Safekeepers need of each other what is above the horizon; that is never removed, whatever is set here. What is below
//! is kept for readers: a part for those who are not connected, and more for those who are, but not without end, because
//! a reader that never takes anything would fill the disk, and a full disk stops commits. Asked by the disk threads.

use wal_store::Snapshot;
use wal_types::Lsn;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// WAL below the horizon, for readers that may come back.
    pub wal_keep_bytes: u64,
    /// WAL below the commit position, for readers that are connected and behind.
    pub reader_keep_bytes_max: u64,
}

/// 1 GiB.
pub(crate) const WAL_KEEP_BYTES_DEFAULT: u64 = 1 << 30;
/// 16 GiB.
pub(crate) const READER_KEEP_BYTES_MAX_DEFAULT: u64 = 16 << 30;

impl Default for Retention {
    fn default() -> Self {
        Self { wal_keep_bytes: WAL_KEEP_BYTES_DEFAULT, reader_keep_bytes_max: READER_KEEP_BYTES_MAX_DEFAULT }
    }
}

impl Retention {
    /// From where on the log is kept. `reader_at` is the position of the reader that is furthest behind.
    pub(crate) fn keep_from(&self, snapshot: &Snapshot, reader_at: Option<Lsn>) -> Lsn {
        self.position(snapshot.commit_lsn, snapshot.horizon_lsn, reader_at)
    }

    fn position(&self, commit_lsn: Lsn, horizon_lsn: Lsn, reader_at: Option<Lsn>) -> Lsn {
        let below = |lsn: Lsn, bytes: u64| Lsn(lsn.0.saturating_sub(bytes));
        let kept = below(horizon_lsn.min(commit_lsn), self.wal_keep_bytes);
        let for_readers = |at: Lsn| at.max(below(commit_lsn, self.reader_keep_bytes_max));
        reader_at.map_or(kept, |at| kept.min(for_readers(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_keep_what_they_lack_but_not_without_end() {
        let retention = Retention { wal_keep_bytes: 100, reader_keep_bytes_max: 1000 };
        for (commit, horizon, reader, expected) in [
            (5000, 4800, None, 4700),
            (5000, 5000, None, 4900),
            // A horizon that is ahead of what is known to be committed says no more than that.
            (5000, 6000, None, 4900),
            (5000, 4800, Some(4900), 4700),
            (5000, 4800, Some(4300), 4300),
            (5000, 4800, Some(3000), 4000),
            // A member that is far behind is no reader: what it needs the horizon says.
            (5000, 200, Some(4900), 100),
            (50, 40, None, 0),
        ] {
            let position = retention.position(Lsn(commit), Lsn(horizon), reader.map(Lsn));
            assert_eq!(position, Lsn(expected), "{commit} {horizon} {reader:?}");
        }
    }
}
