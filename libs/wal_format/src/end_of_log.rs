//! [`find_end_of_log`]: finds the last record end in stored WAL, whatever is behind it.
//!
//! It only reads. Whether the bytes behind the end are a torn tail or damage is decided by the caller, which knows how
//! far the log was acknowledged.

use std::io;

use wal_types::Lsn;

use crate::scan_error::ScanError;
use crate::scanner::RecordScanner;

/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// Result of a scan of stored WAL.
#[derive(Clone, Debug)]
pub struct ScanEnd {
    /// The highest record end.
    pub record_end: Lsn,
    /// Start of the record that ends there, if the scan saw all of it.
    pub last_record_start: Option<Lsn>,
    /// Why the scan stopped.
    pub stopped: StopReason,
    /// A scanner at `record_end`, for the WAL that is written there next.
    pub scanner: RecordScanner,
}

/// Why a scan of stored WAL stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// There were no more bytes. Those between the record end and here are a part of a record.
    NoMoreBytes {
        /// End of the bytes.
        at: Lsn,
    },
    /// The bytes are not the next page or record: zeros ([`ScanError::is_end_of_log`]) or others.
    NotWal(ScanError),
    /// The scan began in what may be a segment switch, and nothing proved or disproved it. The real end may be higher; a
    /// scan that begins one segment earlier finds it.
    AmbiguousStart,
}

/// Reads on from the position of `scanner` until there are no more bytes, or they are not WAL.
///
/// `read` fills a part of the buffer with the bytes at a position and returns how many, zero at the end.
///
/// # Errors
/// Only those of `read`.
pub fn find_end_of_log(
    mut scanner: RecordScanner,
    mut read: impl FnMut(Lsn, &mut [u8]) -> io::Result<usize>,
) -> io::Result<ScanEnd> {
    let mut buffer = vec![0; READ_BYTES];
    let stopped = loop {
        let position = scanner.position();
        let count = read(position, &mut buffer)?;
        if count == 0 {
            break StopReason::NoMoreBytes { at: position };
        }
        if let Err(error) = scanner.feed(&buffer[..count]) {
            break StopReason::NotWal(error);
        }
    };
    Ok(ScanEnd {
        record_end: scanner.record_end(),
        last_record_start: scanner.last_record_start(),
        stopped: if scanner.is_start_ambiguous() { StopReason::AmbiguousStart } else { stopped },
        scanner: scanner.rewound_to_record_end(),
    })
}
