//! [`RecordEnd`]: the highest record end of a scan, and where record ends are possible.

use wal_types::{Lsn, SegmentSize};

use crate::page::{PAGE_BYTES, page_header_bytes};
use crate::page_chain::PageChain;
use crate::record::RECORD_ALIGNMENT_BYTES;

/// What a scanner knows at the highest record end: enough to continue there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordEnd {
    /// The record end.
    pub(crate) lsn: Lsn,
    /// Start of the record that ends there, if the scan saw it.
    pub(crate) last_record_start: Option<Lsn>,
    /// The pages up to there.
    pub(crate) chain: PageChain,
    /// End of the highest byte below that no checksum covers; zero if there is none.
    pub(crate) unchecked_end: Lsn,
    /// True while no record end was met: `lsn` is the start of the scan, and may be inside a record.
    pub(crate) unknown_start: bool,
}

/// True when a record may end at `lsn`: aligned, and not inside a page header.
pub(crate) fn can_be_record_end(segment_size: SegmentSize, lsn: Lsn) -> bool {
    let offset = lsn.0 as usize % PAGE_BYTES;
    lsn.align_down(RECORD_ALIGNMENT_BYTES) == lsn
        && (offset == 0 || offset > page_header_bytes(segment_size, lsn))
}
