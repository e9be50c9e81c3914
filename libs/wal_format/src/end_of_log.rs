//! [`find_end_of_log`]: up to where stored WAL is whole records, whatever is behind.
//!
//! It only reads. If what is behind the end is a torn tail or damage, and what is to be done about it, is for the
//! caller, who knows how far the log was acknowledged.

use std::io;

use wal_types::Lsn;

use crate::scan_error::ScanError;
use crate::scanner::RecordScanner;

/// Bytes that are asked for at once.
const READ_BYTES: usize = 64 * 1024;

/// Where a scan of stored WAL ended.
#[derive(Clone, Debug)]
pub struct ScanEnd {
    /// The highest record end.
    pub record_end: Lsn,
    /// Where the record that ends there begins, if the scan saw it whole.
    pub last_record_start: Option<Lsn>,
    /// Why the scan went no further.
    pub stopped: StopReason,
    /// Goes on at `record_end`: for what is written there next.
    pub scanner: RecordScanner,
}

/// Why a scan of stored WAL ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// There were no more bytes. Bytes from the record end up to here are a part of a record.
    NoMoreBytes {
        /// End of the bytes.
        at: Lsn,
    },
    /// Something that is not the next page or record; zeros, which [`ScanError::is_end_of_log`] tells, or others.
    NotWal(ScanError),
    /// The scan began in what may be a segment switch, and nothing proved or disproved it: the real end may be
    /// higher. A scan that begins one segment earlier knows.
    AmbiguousStart,
}

/// Reads on from where `scanner` is, until there are no more bytes or they are not WAL.
///
/// `read` fills a part of the buffer with what is at the position, and returns how much: zero if there is no more.
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
