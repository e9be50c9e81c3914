//! [`RemovalPlanner`]: decides how much of the old log may go.
//!
//! Nobody needs what is below three positions: the persisted horizon (all members have it), the persisted commit
//! position, and what readers and retention still want. And one more thing keeps a segment: a recovery reads the log
//! from the segment of the commit position on, and further down until it has seen where a record begins, because only
//! then it can tell a record's end, and check the link of the next. So the segment stays in which the last committed
//! record begins.

use wal_types::Lsn;

use crate::control_codec::Control;
use crate::disk::Disk;
use crate::error::{Corruption, StoreError};
use crate::scan::{PageExpectations, ScanFailure, scanner_at};
use crate::segment::Segments;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct RemovalPlanner {
    /// A commit position, and the start of the record that ends there or is the last one before.
    last_record: Option<(Lsn, Lsn)>,
}

impl RemovalPlanner {
    /// Where the log may begin, when that is later than now. All of `control` is durable.
    pub(crate) fn new_oldest<D: Disk>(
        &mut self,
        segments: &Segments<D>,
        control: &Control,
        keep_from: Lsn,
    ) -> Result<Option<Lsn>, StoreError> {
        let (commit_lsn, horizon_lsn) = (control.state.commit_lsn, control.state.horizon_lsn);
        let segment_start = |lsn| segments.start_of(segments.number_of(lsn));
        let unneeded = segment_start(horizon_lsn.min(commit_lsn).min(keep_from));
        if unneeded <= segments.oldest_lsn {
            return Ok(None);
        }
        // A segment is read for this, so only when what was found before is not enough, and may be more now.
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

/// Where the last record below `commit_lsn` begins; the beginning of the log when it shows none.
fn last_record_start<D: Disk>(
    segments: &Segments<D>,
    expected: PageExpectations,
    commit_lsn: Lsn,
) -> Result<Lsn, StoreError> {
    match scanner_at(segments, expected, commit_lsn) {
        Ok(scanner) => Ok(scanner.last_record_start().unwrap_or(segments.oldest_lsn)),
        Err(ScanFailure::Store(error)) => Err(error),
        // A recovery finds out what it means.
        Err(failure) => {
            let reason = failure.to_string();
            Err(Corruption::BelowCommit { end: segments.oldest_lsn, commit_lsn, reason }.into())
        }
    }
}
