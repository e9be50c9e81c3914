//! [`RecordScanner`]: finds record ends in WAL that is fed to it in pieces of any size.
//!
//! A record end is what the server calls `EndRecPtr`: where the next record would begin, except for a page header. The
//! scanner knows framing and checksums, not what records do. It keeps no body, so a clone copies some 200 bytes. The
//! store feeds it appended WAL; recovery feeds it stored WAL through [`crate::find_end_of_log`].
//!
//! One thing it cannot see: two servers that part from the same log may write records of equal lengths at the same
//! positions. Behind the end of one log, the tail of the other then scans as a continuation, with every checksum and
//! every `xl_prev` valid. So a store must make sure that only zeros are behind the end.
//!
//! Page headers are under no checksum. But the fields that readers use follow from the log before the page, and from
//! the limits that [`RecordScanner::require_version`] and [`RecordScanner::limit_timeline`] set. There is one
//! exception: damage may turn a timeline number into that of a higher timeline which the log has, too. Only the next
//! page shows that, so the last page of such a log may claim a wrong timeline.

mod stage;
mod steps;

use wal_types::{Lsn, Tli};

use crate::page::{PAGE_HEADER_LONG_BYTES, PageMagic};
use crate::page_chain::{PageChain, ScanContext};
use crate::record_end::{RecordEnd, can_be_record_end};
use crate::scan_error::ScanError;
use stage::Stage;

/// Finds record ends in WAL that is fed to it.
///
/// It checks:
/// * each record: checksum, length, resource manager and `xl_prev`, which must be exact unless the scan began without
///   knowing where the record before it begins;
/// * each page: position, magic number, and a timeline that is not lower than that of the page before;
/// * the first page of a segment: cluster, segment size and page size;
/// * a record over a page boundary: the number of bytes that are missing; or, where a crash left a partial record, the
///   overwrite record behind it, which must name the partial one.
///
/// It does not check bytes that belong to nothing (alignment, and the rest of a segment behind a switch), nor the rest
/// of a record that began before the scan.
///
/// ```
/// use wal_format::{PageMagic, RecordScanner, ScanContext, WalBuilder};
/// use wal_types::{Lsn, SegmentSize, SystemId, Tli};
///
/// # fn main() -> Result<(), wal_format::ScanError> {
/// let ctx = ScanContext { segment_size: SegmentSize::POSTGRES_DEFAULT, system_id: SystemId(7) };
/// let start = ctx.segment_size.start_of(1);
/// let mut builder = WalBuilder::new(ctx, PageMagic::POSTGRES_17, Tli::FIRST, start, Lsn(0));
/// let (first, second) = (builder.noop(100), builder.noop(100));
///
/// let mut scanner = RecordScanner::at_segment_start(ctx, start);
/// scanner.feed(&first.bytes)?;
/// scanner.feed(&second.bytes[..50])?; // a part of the second record
/// assert_eq!(scanner.record_end(), first.range.end);
///
/// scanner.feed(&second.bytes[50..])?;
/// assert_eq!(scanner.record_end(), second.range.end);
/// assert_eq!(scanner.last_record_start(), Some(second.record_start));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RecordScanner {
    ctx: ScanContext,
    /// End of the bytes that were fed.
    position: Lsn,
    /// What the next byte is.
    stage: Stage,
    /// Header of the page at `position`, as far as it was fed.
    page_header: [u8; PAGE_HEADER_LONG_BYTES],
    /// The pages up to `position`.
    chain: PageChain,
    /// A record end that counts once later bytes prove it: the record before may be a segment switch.
    unproven_end: Option<Lsn>,
    /// The highest record end.
    last_end: RecordEnd,
    /// End of the highest byte that no checksum covers, whether or not a record has ended since.
    unchecked_upto: Lsn,
    /// Bytes that no checksum covers are refused above this position.
    trusted_upto: Lsn,
    /// The error of an earlier [`RecordScanner::feed`].
    failed: Option<ScanError>,
}

impl RecordScanner {
    /// Starts at `lsn`, the start of a segment. If that is inside a record, the end of this record is the first one.
    ///
    /// # Panics
    /// When `lsn` is not the start of a segment.
    pub fn at_segment_start(ctx: ScanContext, lsn: Lsn) -> Self {
        assert!(ctx.segment_size.offset_of(lsn) == 0, "{lsn} is not the start of a segment");
        Self::new(
            ctx,
            RecordEnd {
                lsn,
                last_record_start: None,
                chain: PageChain::START,
                unchecked_end: Lsn::INVALID,
                unknown_start: true,
            },
        )
    }

    /// Starts at `lsn`, which is known to be a record end. With `last_record_start`, the start of the record that ends
    /// there, the first `xl_prev` is checked exactly.
    ///
    /// # Panics
    /// When no record can end at `lsn`.
    pub fn at_record_end(ctx: ScanContext, lsn: Lsn, last_record_start: Option<Lsn>) -> Self {
        assert!(can_be_record_end(ctx.segment_size, lsn), "{lsn} is no record end");
        Self::new(
            ctx,
            RecordEnd {
                lsn,
                last_record_start,
                chain: PageChain::START,
                unchecked_end: Lsn::INVALID,
                unknown_start: false,
            },
        )
    }

    fn new(ctx: ScanContext, last_end: RecordEnd) -> Self {
        Self {
            ctx,
            position: last_end.lsn,
            stage: if last_end.unknown_start { Stage::Unknown } else { Stage::between_records(last_end.lsn) },
            page_header: [0; PAGE_HEADER_LONG_BYTES],
            chain: last_end.chain,
            unproven_end: None,
            last_end: RecordEnd { unchecked_end: Lsn::INVALID, ..last_end },
            unchecked_upto: Lsn::INVALID,
            trusted_upto: Lsn::MAX,
            failed: None,
        }
    }

    /// Accepts bytes that no checksum covers only below `lsn`. A partial record that a crash left, and the rest of a
    /// segment behind a switch, look valid whether or not they are what was written. A scan of stored WAL must know from
    /// elsewhere that they are complete, or stop before them.
    #[must_use]
    pub fn trust_unchecked_up_to(self, lsn: Lsn) -> Self {
        Self { trusted_upto: lsn, ..self }
    }

    /// Refuses pages of a timeline above `highest` from here on: the highest that the log is known to have.
    #[must_use]
    pub fn limit_timeline(self, highest: Tli) -> Self {
        let last_end = RecordEnd { chain: self.last_end.chain.limit_timeline(highest), ..self.last_end };
        Self { chain: self.chain.limit_timeline(highest), last_end, ..self }
    }

    /// Refuses pages of another version from here on: the log is known to be of this one.
    #[must_use]
    pub fn require_version(self, magic: PageMagic) -> Self {
        let last_end = RecordEnd { chain: self.last_end.chain.require_version(magic), ..self.last_end };
        Self { chain: self.chain.require_version(magic), last_end, ..self }
    }

    /// A scanner at [`record_end`](Self::record_end) that has seen everything below it, for other WAL to be written there.
    /// This scanner may have failed.
    #[must_use]
    pub fn rewound_to_record_end(&self) -> Self {
        Self::new(self.ctx, self.last_end)
    }

    /// The context that the scan was started with.
    pub fn context(&self) -> ScanContext {
        self.ctx
    }

    /// End of the bytes that were fed.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The highest record end up to [`position`](Self::position); before the first one the start of the scan.
    /// Stays valid when [`feed`](Self::feed) fails.
    pub fn record_end(&self) -> Lsn {
        self.last_end.lsn
    }

    /// Start of the last whole record, if the scan has seen one: the `xl_prev` of the record at
    /// [`record_end`](Self::record_end).
    pub fn last_record_start(&self) -> Option<Lsn> {
        self.last_end.last_record_start
    }

    /// Timeline of the page that holds the last byte before [`record_end`](Self::record_end); timeline 1 before the first
    /// page.
    pub fn tli(&self) -> Tli {
        self.last_end.chain.tli()
    }

    /// End of the highest byte below [`record_end`](Self::record_end) that no checksum covers, alignment not counted; zero
    /// if there is none. Before WAL counts as acknowledged, the store must persist that the bytes below this position
    /// are complete.
    pub fn unchecked_end(&self) -> Lsn {
        self.last_end.unchecked_end
    }

    /// True while the scan has met what may be the rest of a segment switch that began before the scan, and nothing that
    /// decides it. Until then that record end does not count. A scan that begins one segment earlier knows.
    pub fn is_start_ambiguous(&self) -> bool {
        self.unproven_end.is_some()
    }

    /// Consumes the next bytes.
    ///
    /// # Errors
    /// The bytes are not WAL, or not the WAL that continues this log. From then on the scanner returns the same error;
    /// only its record end stays valid. Clone it before to try other bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), ScanError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.position.checked_add(bytes.len() as u64).is_none() {
            let error = ScanError::OutOfRange { at: self.position };
            self.failed = Some(error);
            return Err(error);
        }
        while !bytes.is_empty() {
            let consumed = self.step(bytes).inspect_err(|error| self.failed = Some(*error))?;
            bytes = &bytes[consumed..];
        }
        Ok(())
    }
}
