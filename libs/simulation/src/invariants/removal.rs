//! Invariants of room: nothing is removed that a vote could need, what stays is bounded, and a full disk stops no vote.

use wal_store::{Snapshot, StoreError};

use wal_types::Lsn;

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

/// R3 excludes: disks are full, all nodes restart, each needs room to make its log durable, and nobody votes any more.
/// `error` ended a start.
pub(crate) fn full_node_starts(error: &StoreError, is_damaged: bool) -> Result<(), Violation> {
    let is_full = matches!(error, StoreError::Full { .. });
    ensure("full_node_starts", is_damaged || !is_full, || error.to_string())
}

/// R2 excludes: a member restarts, the others remove at once what it lacks, and it must be seeded anew after each restart.
/// `limit_bytes` is the limit of what is kept for members.
pub(crate) fn wal_of_a_member_is_kept(
    before: &Snapshot,
    after: &Snapshot,
    limit_bytes: u64,
) -> Result<(), Violation> {
    let beyond_limit = Lsn(after.commit_lsn.0.saturating_sub(limit_bytes));
    let removable = after.horizon_lsn.max(beyond_limit).max(before.oldest_lsn);
    ensure("wal_of_a_member_is_kept", after.oldest_lsn <= removable, || {
        let Snapshot { oldest_lsn, horizon_lsn, commit_lsn, .. } = after;
        format!(
            "the log begins at {oldest_lsn}; a member has it up to {horizon_lsn}, and {limit_bytes} bytes below {commit_lsn} \
             are kept for it"
        )
    })
}
