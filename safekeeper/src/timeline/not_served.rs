//! [`NotServed`]: why a timeline that is on disk is not served, and whether it is tried again.

use std::io;
use std::sync::Arc;

use thiserror::Error;
use wal_store::StoreError;

/// Why a timeline that is on disk cannot be opened.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The marker file of a timeline exists, but its directory does not.
    #[error(
        "the directory of this timeline is gone, and with it what this safekeeper promised; this safekeeper can be a \
         member again only under another number"
    )]
    DirectoryGone,
    /// The control file was written for another disk than the one of this data directory.
    #[error(
        "this timeline was copied here from another data directory; what the safekeeper promised there since is unknown; \
         this safekeeper can be a member again only under another number"
    )]
    OtherDisk,
    /// The shard that would own the timeline has ended, by a fault in this program or at shutdown.
    #[error("the shard of this timeline has ended; restart the safekeeper")]
    ShardEnded,
    /// The log cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Store(error.into())
    }
}

/// A timeline that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotServed {
    pub(crate) cause: NotServedCause,
    /// Text of the error that opening the timeline ended with.
    pub(crate) reason: Arc<str>,
}

/// The causes for which a timeline is not served, by what has to happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotServedCause {
    /// The safekeeper has just started and opens its timelines. This one will follow.
    Opening,
    /// No space on the disk. Opening is tried again.
    DiskFull,
    /// The disk failed. Opening is tried again.
    DiskFailed,
    /// The log is damaged, or belongs to another safekeeper, disk or release. It is left as it is for the operator.
    Quarantined,
    /// The shard has ended; the log itself may be good. Only a restart helps.
    ShardEnded,
}

impl NotServed {
    /// A timeline that was found at the start and is not open yet.
    pub(super) fn opening() -> Self {
        let reason = "the safekeeper has just started and opens its timelines";
        Self { cause: NotServedCause::Opening, reason: reason.into() }
    }

    /// What an error of opening means for the timeline.
    pub(super) fn new(error: &OpenError) -> Self {
        let cause = match error {
            OpenError::Store(StoreError::Full { .. }) => NotServedCause::DiskFull,
            OpenError::Store(
                StoreError::Io { .. } | StoreError::Unreadable { .. } | StoreError::OutOfHandles { .. },
            ) => NotServedCause::DiskFailed,
            OpenError::DirectoryGone | OpenError::OtherDisk | OpenError::Store(_) => {
                NotServedCause::Quarantined
            }
            OpenError::ShardEnded => NotServedCause::ShardEnded,
        };
        Self { cause, reason: error.to_string().into() }
    }

    /// True when the cause may pass by itself, and opening is tried again.
    pub(crate) fn is_retried(&self) -> bool {
        match self.cause {
            NotServedCause::Opening | NotServedCause::DiskFull | NotServedCause::DiskFailed => true,
            NotServedCause::Quarantined | NotServedCause::ShardEnded => false,
        }
    }
}
