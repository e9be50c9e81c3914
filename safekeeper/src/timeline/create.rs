//! Creation of a timeline: the request, its result, and when an existing timeline counts as the same one.

use consensus::{BootstrapRefused, Lineage};
use thiserror::Error;
use wal_store::{Rejection, Snapshot, StoreError};
use wal_types::TenantTimelineId;

use super::not_served::NotServed;
use crate::shard::ShardEnded;

/// A request to create a timeline, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewTimeline {
    pub(crate) lineage: Lineage,
    /// Text of the history file of the timeline that the log begins on.
    pub(crate) start_history: Option<Vec<u8>>,
}

/// Result of a successful creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Creation {
    /// The timeline was created, durably.
    Created,
    /// The same timeline existed before.
    AlreadyExists,
}

/// Why a timeline was not created.
#[derive(Debug, Error)]
pub(crate) enum CreateError {
    #[error("timeline {id} exists with another {field}")]
    Different { id: TenantTimelineId, field: &'static str },
    #[error("timeline {id} exists and cannot be opened: {}", .why.reason)]
    NotServed { id: TenantTimelineId, why: NotServed },
    #[error("cannot create timeline {id}: {error}")]
    Store { id: TenantTimelineId, error: StoreError },
    #[error("cannot create timeline {id}: the safekeeper is shutting down")]
    ShuttingDown { id: TenantTimelineId },
}

/// Why a copy was not told its first members.
#[derive(Debug, Error)]
pub(crate) enum BootstrapError {
    #[error(transparent)]
    Refused(#[from] BootstrapRefused),
    #[error(transparent)]
    Failed(#[from] Rejection),
    #[error(transparent)]
    ShardEnded(#[from] ShardEnded),
}

impl NewTimeline {
    /// Checks that the existing timeline in `snapshot` is the one that this request describes.
    pub(super) fn check_same(&self, snapshot: &Snapshot) -> Result<(), CreateError> {
        let (old, new) = (&snapshot.lineage, &self.lineage);
        // Zero in the request means unknown, and a proposer may have reported a newer minor version since.
        let equal_or_unknown = |old: u64, new: u64| old == new || new == 0;
        let comparisons = [
            ("dialect", old.dialect == new.dialect),
            ("start_lsn", old.start_lsn == new.start_lsn),
            ("wal_segment_size", old.segment_size == new.segment_size),
            ("system_id", equal_or_unknown(old.system_id.0, new.system_id.0)),
            ("pg_version", equal_or_unknown(old.pg_major().into(), new.pg_major().into())),
            ("timeline number", old.start_tli == new.start_tli),
            // A bootstrap may have given the copy a birth since.
            ("birth", new.birth.is_none() || old.birth == new.birth),
        ];
        match comparisons.into_iter().find(|(_, equal)| !equal) {
            Some((field, _)) => Err(CreateError::Different { id: new.id, field }),
            None => Ok(()),
        }
    }
}
