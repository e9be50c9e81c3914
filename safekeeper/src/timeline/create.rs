//! Creation of a timeline: the request, its result, and when an existing timeline counts as the same one.

use consensus::{Configuration, Lineage};
use thiserror::Error;
use wal_store::{Snapshot, StoreError};
use wal_types::{NodeId, TenantTimelineId, Term};

use super::not_served::NotServed;

/// A request to create a timeline, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewTimeline {
    pub(crate) lineage: Lineage,
    pub(crate) configuration: Configuration,
    /// The disk that this safekeeper must have, if the operator named one.
    pub(crate) disk: Option<[u8; 16]>,
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
    #[error(
        "timeline {id} is meant for another disk of safekeeper {node}, whose promises this disk does not know; make \
         this safekeeper a member under another number"
    )]
    OtherDisk { id: TenantTimelineId, node: NodeId },
    #[error("cannot create timeline {id}: {error}")]
    Store { id: TenantTimelineId, error: StoreError },
    #[error("cannot create timeline {id}: the safekeeper is shutting down")]
    ShuttingDown { id: TenantTimelineId },
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
            (
                "list of members",
                // A leader may have changed the members since.
                snapshot.configuration_term > Term::ZERO
                    || snapshot.configuration.generation != self.configuration.generation
                    || snapshot.configuration.members == self.configuration.members,
            ),
        ];
        match comparisons.into_iter().find(|(_, equal)| !equal) {
            Some((field, _)) => Err(CreateError::Different { id: new.id, field }),
            None => Ok(()),
        }
    }
}
