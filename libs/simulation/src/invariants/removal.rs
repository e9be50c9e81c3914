//! Invariants of removal: nothing goes that a vote could need, and what stays is bounded.

use wal_store::Snapshot;

use super::violation::{Violation, ensure};
use crate::primary::SEGMENT_SIZE;

/// Segments beside the limit: the one that is written, the one of the limit, and those that one record may span.
const SEGMENTS_BESIDE: u64 = 5;

/// R1 excludes: a node removes WAL that is committed only in its memory, or not at all. After a restart its log begins
/// above what it knows as committed, and an election may need what it removed.
pub(crate) fn removed_wal_is_committed(at: &Snapshot) -> Result<(), Violation> {
    let begin = at.lineage.start_lsn;
    ensure("removed_wal_is_committed", at.oldest_lsn <= at.persisted_commit_lsn.max(begin), || {
        format!("the log begins at {}, {} is persisted as committed", at.oldest_lsn, at.persisted_commit_lsn)
    })
}

/// R4 excludes: one member dies for good, and the disks of the others fill up for its sake until commits stop.
/// `limit_bytes` is the largest limit of any reason.
pub(crate) fn kept_wal_is_bounded(at: &Snapshot, limit_bytes: u64) -> Result<(), Violation> {
    let beside = SEGMENTS_BESIDE * u64::from(SEGMENT_SIZE.bytes());
    let kept = at.persisted_commit_lsn.bytes_since(at.oldest_lsn);
    ensure("kept_wal_is_bounded", kept <= limit_bytes.saturating_add(beside), || {
        format!("{kept} bytes are kept below the commit position, {limit_bytes} are the limit")
    })
}
