//! [`assess`]: decides whether a log is whole, by a scan of its WAL against its acknowledged position.
//!
//! Only reads. [`crate::recover`] acts on the result.

use std::io;

use wal_format::{ScanEnd, StopReason};
use wal_types::{Lsn, SegmentNumber};

use crate::ack_evidence::{AckEvidence, committed};
use crate::control_codec::Control;
use crate::disk::Disk;
use crate::error::{Corruption, StoreError};
use crate::scan::{PageExpectations, ScanFailure, scan_to_end, scanner_at};
use crate::segment::Segments;

/// What a recovery found, and has to do next.
pub(crate) enum Assessment {
    /// Nothing is lost; the log ends where the scan ended.
    Whole(Box<ScanEnd>),
    /// A segment is missing, and it lies below the removal horizon: no member needs it from another. The log starts
    /// above it.
    StartsAt(Lsn, Corruption),
    /// WAL that may have been acknowledged is gone.
    EndsTooLow {
        /// End of what is left.
        end: Lsn,
        /// The first fault that was found.
        why: Corruption,
    },
}

/// Finds the end of the log and compares it with the acknowledged position.
///
/// It reads as little as possible: it scans from the commit position, and from a lower one only where that cannot be
/// done.
pub(crate) fn assess<D: Disk>(
    segments: &Segments<D>,
    control: &Control,
    evidence: &mut AckEvidence,
) -> Result<Assessment, StoreError> {
    let (oldest, commit_lsn) = (control.oldest_lsn, committed(control));
    let held_by_all = control.state.horizon_lsn.min(commit_lsn).max(oldest);
    let is_needed = |&number: &SegmentNumber| segments.start_of(number + 1) > held_by_all;

    if let Some(&hole) = evidence.missing.iter().rev().find(|number| !is_needed(number)) {
        return Ok(Assessment::StartsAt(segments.start_of(hole + 1), Corruption::MissingSegment(hole)));
    }

    let readable_upto = evidence.missing.first().map_or(Lsn::MAX, |&number| segments.start_of(number));
    // A scan that reaches the end needs nothing below its own start, so the next lower start is tried only when a scan
    // fails.
    for from in [commit_lsn, held_by_all, oldest] {
        if from > readable_upto {
            continue;
        }
        let Some(end) = find_end(segments, PageExpectations::of(control), from, evidence.acked_upto)? else {
            continue;
        };
        if let StopReason::NoMoreBytes { at } = end.stopped {
            evidence.add_unreadable_end(segments, at);
        }
        if end.record_end >= evidence.acked_at_most {
            return Ok(Assessment::Whole(Box::new(end)));
        }
        let why = why_too_short(&end, commit_lsn, evidence);
        return Ok(Assessment::EndsTooLow { end: end.record_end, why });
    }
    Err(unstable_reads())
}

/// Scans from the segment of `from` to the end of the log; `None` when the scan does not even reach `from`.
///
/// Above the acknowledged position only bytes that a checksum covers count: a crash may have left any part of the
/// others.
pub(crate) fn find_end<D: Disk>(
    segments: &Segments<D>,
    expected: PageExpectations,
    from: Lsn,
    acked_upto: Lsn,
) -> Result<Option<ScanEnd>, StoreError> {
    match scanner_at(segments, expected, from) {
        Ok(scanner) => {
            let end = scan_to_end(segments, scanner.trust_unchecked_up_to(acked_upto))?;
            Ok((end.record_end >= from).then_some(end))
        }
        Err(ScanFailure::Store(error)) => Err(error),
        Err(ScanFailure::NotWal(_) | ScanFailure::NoSegment(_) | ScanFailure::NotARecordEnd { .. }) => {
            Ok(None)
        }
    }
}

/// The reason why a log that ends below its acknowledged position ends there.
fn why_too_short(found: &ScanEnd, commit_lsn: Lsn, evidence: &AckEvidence) -> Corruption {
    let end = found.record_end;
    let reason = match found.stopped {
        StopReason::NotWal(error) => error.to_string(),
        StopReason::NoMoreBytes { at } => format!("no WAL can be read at {at}"),
        StopReason::AmbiguousStart => "the scan may have started inside a segment switch".into(),
    };
    match &evidence.fault {
        Some(fault) if end >= evidence.acked_upto => fault.clone(),
        _ if end < commit_lsn => Corruption::BelowCommit { end, commit_lsn, reason },
        _ => Corruption::BelowAcknowledged { end, acked_upto: evidence.acked_upto, reason },
    }
}

/// A fault of the disk, not of the log: two reads of the same bytes differ. The next recovery reads them again.
pub(crate) fn unstable_reads() -> StoreError {
    let source = io::Error::other("two reads of the same WAL differ");
    StoreError::Io { action: "recover the log", source }
}
