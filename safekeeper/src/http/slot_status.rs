//! [`SlotStatus`]: the JSON of one replication slot, as this safekeeper sees it.
//!
//! ```json
//! {"name": "standby1", "id": "5f…", "owner": "standby", "temporary": false,
//!  "created_unix_seconds": 1764482400, "last_active_unix_seconds": 1764486000,
//!  "restart_lsn": "0/5000000", "restart_tli": 1, "wal_status": "reserved",
//!  "held_bytes": 3145728, "safe_bytes": 17176723456, "active_by": "standby1"}
//! ```
//!
//! `wal_status` is `unreserved` (no reader has begun, nothing is kept), `reserved` (all WAL that the slot needs is here) or
//! `lost` (some of it was removed here; the reader gets 58P01). `held_bytes` is the committed WAL that the slot needs and
//! this safekeeper has. `safe_bytes` is what may still be written before the slot is lost; null unless it is `reserved`.
//! `restart_lsn` and `restart_tli` are null while it is `unreserved`, `active_by` is null while no reader has it.

use serde::Serialize;
use wal_store::Snapshot;

use crate::pg_timelines::PgTimelines;
use crate::replies::committed_timelines;
use crate::slots::{SlotView, WalStatus};
use crate::timeline::Timeline;

/// Status of a slot.
#[derive(Serialize)]
pub(super) struct SlotStatus {
    name: String,
    id: String,
    owner: String,
    temporary: bool,
    created_unix_seconds: u64,
    last_active_unix_seconds: u64,
    restart_lsn: Option<String>,
    restart_tli: Option<u32>,
    wal_status: &'static str,
    held_bytes: u64,
    safe_bytes: Option<u64>,
    active_by: Option<String>,
}

impl SlotStatus {
    /// All slots of a timeline, permanent ones first.
    pub(super) fn of_timeline(timeline: &Timeline, slot_keep_bytes_max: u64) -> Vec<Self> {
        let snapshot = timeline.snapshot();
        let views = timeline.slots.list().into_iter();
        let timelines = committed_timelines(&snapshot, &timeline.start_history);
        views.map(|view| Self::new(view, &snapshot, &timelines, slot_keep_bytes_max)).collect()
    }

    fn new(view: SlotView, snapshot: &Snapshot, timelines: &PgTimelines, slot_keep_bytes_max: u64) -> Self {
        let SlotView { slot, is_temporary, active_by } = view;
        let status = slot.wal_status(snapshot);
        let restart_lsn = Some(slot.restart_lsn).filter(|lsn| lsn.is_valid());
        let missing_bytes = |from: u64| snapshot.commit_lsn.0.saturating_sub(from);
        let held_from = restart_lsn.map(|lsn| lsn.max(snapshot.oldest_lsn));
        let left_bytes = slot_keep_bytes_max.saturating_sub(missing_bytes(slot.restart_lsn.0));
        Self {
            id: slot.id.to_string(),
            temporary: is_temporary,
            created_unix_seconds: slot.created,
            last_active_unix_seconds: slot.last_active,
            restart_lsn: restart_lsn.map(|lsn| lsn.to_string()),
            restart_tli: restart_lsn.map(|lsn| timelines.at(lsn).0),
            wal_status: match status {
                WalStatus::Unreserved => "unreserved",
                WalStatus::Reserved => "reserved",
                WalStatus::Lost => "lost",
            },
            held_bytes: held_from.map_or(0, |lsn| missing_bytes(lsn.0)),
            safe_bytes: (status == WalStatus::Reserved).then_some(left_bytes),
            active_by,
            name: slot.name,
            owner: slot.owner,
        }
    }
}
