//! Scans of the stored log: to a known record end, and to the last record end.
//!
//! A failed read is never taken for the end of the log: it is returned as an error.

use std::io;

use consensus::Lineage;
use thiserror::Error;
use wal_format::{PageMagic, RecordScanner, ScanContext, ScanEnd, ScanError, find_end_of_log};
use wal_types::{Lsn, SystemId, Tli};

use crate::ack_evidence::is_not_found;
use crate::control_codec::Control;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::segment::{Segments, UnreadablePolicy};

/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;
/// Unit in which a disk loses data, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Values that the page headers of a log must have. Page headers are under no checksum, so a scan compares them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageExpectations {
    /// System identifier of the cluster; zero accepts any.
    pub(crate) system_id: SystemId,
    /// Highest PostgreSQL timeline that the log knows of.
    pub(crate) highest_tli: Tli,
    /// Magic number of PostgreSQL's major version; `None` accepts any.
    pub(crate) magic: Option<PageMagic>,
}

impl PageExpectations {
    /// For the log of a control file.
    pub(crate) fn of(control: &Control) -> Self {
        let Control { lineage, state, .. } = control;
        Self::of_lineage(lineage, state.highest_tli(lineage))
    }

    /// For a log of this lineage.
    pub(crate) fn of_lineage(lineage: &Lineage, highest_tli: Tli) -> Self {
        let magic = PageMagic::of_major(lineage.pg_major());
        Self { system_id: lineage.system_id, highest_tli, magic }
    }

    /// Makes a scanner refuse other timelines and versions from its position on.
    pub(crate) fn apply_to(&self, scanner: RecordScanner) -> RecordScanner {
        let scanner = scanner.limit_timeline(self.highest_tli);
        match self.magic {
            Some(magic) => scanner.require_version(magic),
            None => scanner,
        }
    }
}

/// Why a scan did not reach a position.
#[derive(Debug, Error)]
pub(crate) enum ScanFailure {
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bytes below the position are not the log's WAL.
    #[error(transparent)]
    NotWal(#[from] ScanError),
    /// No record ends at the position.
    #[error("no record ends at {lsn}; the last one before it ends at {record_end}")]
    NotARecordEnd { lsn: Lsn, record_end: Lsn },
    /// The segment that holds the position has no file.
    #[error("no segment holds {0}")]
    NoSegment(Lsn),
}

/// Scans the log up to `lsn`, from so far back that the scanner knows where the record before `lsn` begins. Only then
/// does it check the next `xl_prev` exactly.
pub(crate) fn scanner_at<D: Disk>(
    segments: &Segments<D>,
    expected: PageExpectations,
    lsn: Lsn,
) -> Result<RecordScanner, ScanFailure> {
    let ctx = ScanContext { segment_size: segments.lineage.segment_size, system_id: expected.system_id };
    let first = segments.oldest_lsn;
    let mut from = segments.start_of(segments.number_of(lsn)).max(first);
    loop {
        let mut scanner = expected.apply_to(RecordScanner::at_segment_start(ctx, from));
        feed_up_to(segments, &mut scanner, lsn)?;
        if scanner.last_record_start().is_some() || from <= first {
            return Ok(scanner);
        }
        from = segments.start_of(segments.number_of(from) - 1);
    }
}

/// [`scanner_at`] for an `lsn` that must be a record end.
pub(crate) fn scanner_at_record_end<D: Disk>(
    segments: &Segments<D>,
    expected: PageExpectations,
    lsn: Lsn,
) -> Result<RecordScanner, ScanFailure> {
    let scanner = scanner_at(segments, expected, lsn)?;
    match scanner.record_end() {
        record_end if record_end == lsn => Ok(scanner),
        record_end => Err(ScanFailure::NotARecordEnd { lsn, record_end }),
    }
}

/// Feeds the stored WAL below `lsn` to a scanner.
fn feed_up_to<D: Disk>(
    segments: &Segments<D>,
    scanner: &mut RecordScanner,
    lsn: Lsn,
) -> Result<(), ScanFailure> {
    let mut buffer = vec![0; READ_BYTES.min(segments.wal_bytes() as usize)];
    while scanner.position() < lsn {
        let left = lsn.bytes_since(scanner.position()).min(buffer.len() as u64) as usize;
        match read_part(segments, scanner.position(), &mut buffer[..left])? {
            0 => return Err(ScanFailure::NoSegment(scanner.position())),
            count => scanner.feed(&buffer[..count])?,
        }
    }
    Ok(())
}

/// Scans on from `scanner` to the end of the log.
pub(crate) fn scan_to_end<D: Disk>(
    segments: &Segments<D>,
    scanner: RecordScanner,
) -> Result<ScanEnd, StoreError> {
    let mut failure = None;
    let end = find_end_of_log(scanner, |position, buffer| {
        read_part(segments, position, buffer).map_err(|error| {
            failure = Some(error);
            io::Error::other("replaced by the store error")
        })
    });
    match (end, failure) {
        (Ok(end), None) => Ok(end),
        (_, Some(failure)) => Err(failure),
        (Err(error), None) => Err(error.into()),
    }
}

/// Reads what the segment of `position` holds from there on; returns the number of bytes, zero without such a segment.
fn read_part<D: Disk>(segments: &Segments<D>, position: Lsn, buffer: &mut [u8]) -> Result<usize, StoreError> {
    let left = segments.wal_bytes() - segments.offset_of(position);
    let count = buffer.len().min(left as usize);
    match segments.read(position, &mut buffer[..count]) {
        Ok(()) => Ok(count),
        Err(error) if is_not_found(&error) || error.is_loss_of_wal() => Ok(0),
        Err(StoreError::Unreadable { .. }) if segments.unreadable == UnreadablePolicy::TreatAsLost => {
            // Everything up to the unreadable page, or nothing.
            let in_page =
                (position.advance(1).align_up(PAGE_BYTES).bytes_since(position) as usize).min(count);
            Ok(segments.read(position, &mut buffer[..in_page]).map_or(0, |()| in_page))
        }
        Err(error) => Err(error),
    }
}
