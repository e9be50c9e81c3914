//! [`RemovalPlanner`]: decides how much of the old log may be removed.
//!
//! WAL may go below the lower of two positions: the persisted commit position, and the one from which on [`Retention`]
//! keeps it. Not all members need to have it. Committed WAL is a prefix of every later leader's log, so no election and
//! no truncation needs it (docs/consensus.md, "Removal").
//!
//! [`Retention`]: crate::Retention
//!
//! The segment in which the last committed record begins stays as well. A recovery reads the log from the segment of the
//! commit position on, and further down until it has seen where a record begins: only then can it tell where that record
//! ends, and check the link of the next one.

use wal_types::Lsn;

use crate::control_codec::Control;
use crate::disk::Disk;
use crate::error::{Corruption, StoreError};
use crate::scan::{PageExpectations, ScanFailure, scanner_at};
use crate::segment::Segments;

/// Plans removals, and remembers the last record that it looked up: a look-up reads a segment.
#[derive(Debug, Default)]
pub(crate) struct RemovalPlanner {
    /// A commit position, and the start of the last record that ends there or below.
    last_record: Option<(Lsn, Lsn)>,
}

impl RemovalPlanner {
    /// The new beginning of the log, if it can begin later than now. All of `control` must be durable.
    pub(crate) fn new_oldest<D: Disk>(
        &mut self,
        segments: &Segments<D>,
        control: &Control,
        keep_from: Lsn,
    ) -> Result<Option<Lsn>, StoreError> {
        let commit_lsn = control.state.commit_lsn;
        let segment_start = |lsn| segments.start_of(segments.number_of(lsn));
        let unneeded = segment_start(commit_lsn.min(keep_from));
        if unneeded <= segments.oldest_lsn {
            return Ok(None);
        }
        // The look-up reads a segment, so it is done only when the remembered record keeps too much.
        let is_enough = |(at, start): &(Lsn, Lsn)| *start >= unneeded || *at == commit_lsn;
        let (_, record_start) = match self.last_record.filter(is_enough) {
            Some(known) => known,
            None => *self.last_record.insert((
                commit_lsn,
                last_record_start(segments, PageExpectations::of(control), commit_lsn)?,
            )),
        };
        let oldest = unneeded.min(segment_start(record_start));
        Ok((oldest > segments.oldest_lsn).then_some(oldest))
    }
}

/// Start of the last record below `commit_lsn`; the beginning of the log when the log shows none.
fn last_record_start<D: Disk>(
    segments: &Segments<D>,
    expected: PageExpectations,
    commit_lsn: Lsn,
) -> Result<Lsn, StoreError> {
    match scanner_at(segments, expected, commit_lsn) {
        Ok(scanner) => Ok(scanner.last_record_start().unwrap_or(segments.oldest_lsn)),
        Err(ScanFailure::Store(error)) => Err(error),
        // Committed WAL is damaged. The recovery that follows this error finds out how much is lost.
        Err(failure) => {
            let reason = failure.to_string();
            Err(Corruption::BelowCommit { end: segments.oldest_lsn, commit_lsn, reason }.into())
        }
    }
}
