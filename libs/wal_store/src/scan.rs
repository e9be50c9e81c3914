//! Reads the stored log with the record scanner: to stand at a known record end, and to find the last one.
//!
//! A read that fails is never the end of the log: it is told as what it is.

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

const READ_BYTES: usize = 64 * 1024;
/// What a disk loses at once.
const PAGE_BYTES: u64 = 4096;

/// What all WAL of a log has in common. What else is there in a page header is under no checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageExpectations {
    /// The cluster; zero for any.
    pub(crate) system_id: SystemId,
    /// The highest PostgreSQL timeline that the log knows of.
    pub(crate) highest_tli: Tli,
    /// PostgreSQL's major version; none for any.
    pub(crate) magic: Option<PageMagic>,
}

impl PageExpectations {
    pub(crate) fn of(control: &Control) -> Self {
        let Control { lineage, state, .. } = control;
        Self::of_lineage(lineage, state.highest_tli(lineage))
    }

    pub(crate) fn of_lineage(lineage: &Lineage, highest_tli: Tli) -> Self {
        let magic = PageMagic::of_major(lineage.pg_major());
        Self { system_id: lineage.system_id, highest_tli, magic }
    }

    /// What a scanner can be told at any time.
    pub(crate) fn apply_to(&self, scanner: RecordScanner) -> RecordScanner {
        let scanner = scanner.limit_timeline(self.highest_tli);
        match self.magic {
            Some(magic) => scanner.require_version(magic),
            None => scanner,
        }
    }
}

/// Why there is no scanner at a position.
#[derive(Debug, Error)]
pub(crate) enum ScanFailure {
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is below the position is not the log.
    #[error(transparent)]
    NotWal(#[from] ScanError),
    /// There is a log, but no record of it ends there.
    #[error("{lsn} is not the end of a record; the last one before it ends at {record_end}")]
    NotARecordEnd { lsn: Lsn, record_end: Lsn },
    /// There are no bytes.
    #[error("there is no segment that holds {0}")]
    NoSegment(Lsn),
}

/// A scanner that has seen the log up to `lsn`, from so far back that it knows where the record before `lsn` begins:
/// only then does it check the next `xl_prev` exactly.
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

/// The same, for a `lsn` that has to be a record end.
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

/// Goes on from `scanner` to the end of the log.
pub(crate) fn scan_to_end<D: Disk>(
    segments: &Segments<D>,
    scanner: RecordScanner,
) -> Result<ScanEnd, StoreError> {
    let mut failure = None;
    let end = find_end_of_log(scanner, |position, buffer| {
        read_part(segments, position, buffer).map_err(|error| {
            failure = Some(error);
            io::Error::other("see the failure beside")
        })
    });
    match (end, failure) {
        (Ok(end), None) => Ok(end),
        (_, Some(failure)) => Err(failure),
        (Err(error), None) => Err(error.into()),
    }
}

/// Reads what there is in the segment that holds `position`; nothing when there is no such segment.
fn read_part<D: Disk>(segments: &Segments<D>, position: Lsn, buffer: &mut [u8]) -> Result<usize, StoreError> {
    let left = segments.wal_bytes() - segments.offset_of(position);
    let count = buffer.len().min(left as usize);
    match segments.read(position, &mut buffer[..count]) {
        Ok(()) => Ok(count),
        Err(error) if is_not_found(&error) || error.is_loss_of_wal() => Ok(0),
        Err(StoreError::Unreadable { .. }) if segments.unreadable == UnreadablePolicy::TreatAsLost => {
            // Up to the bad page, or nothing.
            let in_page =
                (position.advance(1).align_up(PAGE_BYTES).bytes_since(position) as usize).min(count);
            Ok(segments.read(position, &mut buffer[..in_page]).map_or(0, |()| in_page))
        }
        Err(error) => Err(error),
    }
}
