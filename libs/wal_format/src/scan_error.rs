//! [`ScanError`]: position and reason where bytes are not WAL.

use thiserror::Error;
use wal_types::Lsn;

use crate::page::PageError;
use crate::record::RecordError;

/// Bytes are not WAL, or not the WAL that continues what was fed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ScanError {
    /// Zeros: nothing was written from here on.
    #[error("log ends at {at}: zeros where a page or a record would begin")]
    EndOfLog {
        /// Where the page or the record would begin.
        at: Lsn,
    },
    /// The bytes reach beyond the highest possible position.
    #[error("WAL at {at} reaches beyond the highest possible position")]
    OutOfRange {
        /// Where the bytes begin.
        at: Lsn,
    },
    /// A page header is invalid.
    #[error("WAL page at {at}: {problem}")]
    Page {
        /// The page's first byte.
        at: Lsn,
        /// The fault.
        problem: PageError,
    },
    /// A record is invalid.
    #[error("WAL record at {at}: {problem}")]
    Record {
        /// The record's first byte.
        at: Lsn,
        /// The fault.
        problem: RecordError,
    },
    /// Bytes are under no checksum, and lie above the position up to which the scan trusts such bytes.
    #[error("WAL below {upto} is under no checksum, and no footer says that it is complete")]
    Unchecked {
        /// End of these bytes.
        upto: Lsn,
    },
}

impl ScanError {
    /// Start of the page or record that is at fault, not the byte that is wrong.
    pub const fn position(&self) -> Lsn {
        match self {
            Self::EndOfLog { at }
            | Self::OutOfRange { at }
            | Self::Page { at, .. }
            | Self::Record { at, .. }
            | Self::Unchecked { upto: at } => *at,
        }
    }

    /// True for zeros, false for other bytes that are not WAL.
    pub const fn is_end_of_log(&self) -> bool {
        matches!(self, Self::EndOfLog { .. })
    }
}
