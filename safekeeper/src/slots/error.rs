//! [`SlotError`]: why a slot command is refused, and the response that the client gets. The words and codes are
//! PostgreSQL's, because stock tools and scripts look at them.

use std::io;

use pq_proto::{ErrorResponse, SqlState};
use thiserror::Error;

use super::slot::OWNER_BYTES_MAX;
use super::slot_set::SLOTS_MAX;

/// Why a slot command is refused.
#[derive(Debug, Error)]
pub(crate) enum SlotError {
    /// The name has other characters than `a-z`, `0-9` and `_`, or none.
    #[error("replication slot name \"{0}\" contains invalid character")]
    Name(String),
    /// The name has more than 63 bytes.
    #[error("replication slot name \"{0}\" is too long")]
    NameTooLong(String),
    /// The user's name is too long to be recorded.
    #[error("a user name of more than {OWNER_BYTES_MAX} bytes cannot own a replication slot")]
    OwnerTooLong,
    /// A slot of this name exists.
    #[error("replication slot \"{0}\" already exists")]
    Exists(String),
    /// No slot has this name.
    #[error("replication slot \"{0}\" does not exist")]
    Missing(String),
    /// A reader has the slot.
    #[error("replication slot \"{0}\" is active")]
    Active(String),
    /// The slot belongs to another user.
    #[error("must be owner of replication slot \"{0}\"")]
    NotOwner(String),
    /// The timeline has as many slots as it may have.
    #[error("all replication slots are in use")]
    TooMany,
    /// The file of the slots is damaged or of another release.
    #[error("the replication slots of this timeline cannot be used: {0}")]
    Unusable(String),
    /// The slot cannot be made durable.
    #[error("cannot write the replication slots: {0}")]
    Io(#[from] io::Error),
    /// The safekeeper is shutting down.
    #[error("terminating connection due to administrator command")]
    ShuttingDown,
}

impl From<SlotError> for ErrorResponse {
    fn from(error: SlotError) -> Self {
        let sqlstate = match &error {
            SlotError::Name(_) => SqlState::INVALID_NAME,
            SlotError::NameTooLong(_) => SqlState::NAME_TOO_LONG,
            SlotError::OwnerTooLong => SqlState::INVALID_PARAMETER_VALUE,
            SlotError::Exists(_) => SqlState::DUPLICATE_OBJECT,
            SlotError::Missing(_) => SqlState::UNDEFINED_OBJECT,
            SlotError::Active(_) => SqlState::OBJECT_IN_USE,
            SlotError::NotOwner(_) => SqlState::INSUFFICIENT_PRIVILEGE,
            SlotError::TooMany => SqlState::CONFIGURATION_LIMIT_EXCEEDED,
            SlotError::Unusable(_) => SqlState::DATA_CORRUPTED,
            SlotError::Io(error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SqlState::DISK_FULL,
                _ => SqlState::IO_ERROR,
            },
            SlotError::ShuttingDown => SqlState::ADMIN_SHUTDOWN,
        };
        let response = Self::error(sqlstate, error.to_string());
        match error {
            SlotError::Name(_) => response.with_hint(
                "Replication slot names may only contain lower case letters, numbers, and the underscore character.",
            ),
            SlotError::TooMany => {
                response.with_hint(format!("A log has {SLOTS_MAX} slots at most. Drop one that is not needed."))
            }
            SlotError::Unusable(_) => response.with_hint(
                "WAL is kept up to --slot-keep meanwhile. Move the file slots out of the timeline's directory, restart, \
                 and create the slots anew.",
            ),
            _ => response,
        }
    }
}
