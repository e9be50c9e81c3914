//! [`OpenError`]: why the registry cannot open a timeline that it found.

use std::io;

use thiserror::Error;
use wal_store::StoreError;

/// Why a timeline cannot be opened. Its text is shown to operators by the admin HTTP port.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The timeline was served from here, and its directory is no longer there.
    #[error(
        "its directory is gone, and with it what this safekeeper promised; it can be a member again only under \
         another number"
    )]
    DirectoryGone,
    /// The log was created in another data directory.
    #[error(
        "this timeline was copied here from another data directory; what that one promised since is unknown"
    )]
    OtherDisk,
    /// The thread that would own the timeline is no longer running.
    #[error("the disk thread has ended")]
    ThreadEnded,
    /// The store cannot open the log.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Store(error.into())
    }
}
