//! [`ScanError`]: where WAL stops being WAL, and why.

use thiserror::Error;
use wal_types::Lsn;

use crate::page::PageError;
use crate::record::RecordError;

/// Bytes are not WAL, or not the WAL that goes on from what was fed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ScanError {
    /// Nothing was written from here on.
    #[error("the log ends at {at}: zeros where a page or a record begins")]
    EndOfLog {
        /// Where the page or the record would begin.
        at: Lsn,
    },
    /// The bytes go beyond the highest position that there is.
    #[error("WAL at {at} is longer than positions reach")]
    OutOfRange {
        /// Where the bytes begin.
        at: Lsn,
    },
    /// A page header is wrong.
    #[error("WAL page at {at}: {problem}")]
    Page {
        /// The page's first byte.
        at: Lsn,
        /// What is wrong with it.
        problem: PageError,
    },
    /// A record is wrong.
    #[error("WAL record at {at}: {problem}")]
    Record {
        /// The record's first byte.
        at: Lsn,
        /// What is wrong with it.
        problem: RecordError,
    },
    /// Bytes are under no checksum, and the scan was told not to trust such.
    #[error("WAL below {upto} is under no checksum, and nothing else says that it is complete")]
    Unchecked {
        /// Behind the last of them.
        upto: Lsn,
    },
}

impl ScanError {
    /// Where the page or the record that is meant begins, not the byte that is wrong.
    pub const fn position(&self) -> Lsn {
        match self {
            Self::EndOfLog { at }
            | Self::OutOfRange { at }
            | Self::Page { at, .. }
            | Self::Record { at, .. }
            | Self::Unchecked { upto: at } => *at,
        }
    }

    /// True if there are zeros, not something else than WAL.
    pub const fn is_end_of_log(&self) -> bool {
        matches!(self, Self::EndOfLog { .. })
    }
}
