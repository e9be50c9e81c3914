//! [`RecordScanner`]: WAL goes in, in pieces of any size; up to where it is whole records comes out.
//!
//! A record end is what the server calls `EndRecPtr`: where the record after would begin, but for a page header.
//! The scanner knows framing and checksums, not what records do; it keeps no bytes of a body, so that a clone is a
//! copy of some 200 bytes. The store feeds it what is appended; recovery, through [`crate::find_end_of_log`], what
//! is stored.
//!
//! What it cannot see: two servers that part from the same log may write records of equal lengths at the same
//! positions. Behind the end of one, the tail of the other then scans as a continuation, each checksum and each
//! `xl_prev` valid. Whoever stores WAL has to make sure that nothing but zeros is behind the end.
//!
//! Nor are page headers under any checksum; but what readers heed in one follows from the log before it and from what
//! [`RecordScanner::require_version`] and [`RecordScanner::limit_timeline`] are told, with one exception: a timeline number
//! that turned into a higher one which the log knows is found by the next page only, so a log whose timelines changed
//! may end with a page that claims a wrong one of them.

use wal_types::{Lsn, SegmentSize, Tli};

use crate::page::{
    PAGE_BYTES, PAGE_HEADER_LONG_BYTES, PageError, PageFlags, PageHeader, PageMagic, page_header_bytes,
};
use crate::page_chain::{PageChain, ScanContext};
use crate::partial_record::{Continuation, PartialRecord, RecordProgress};
use crate::record::RECORD_ALIGNMENT_BYTES;
use crate::scan_error::ScanError;

/// Finds record ends in WAL that is fed to it.
///
/// Checked are each record's checksum, length and resource manager; `xl_prev`, exactly, but for the first record after
/// a start that does not know it; each page's position, magic number, and that its timeline is not lower than the one
/// before; on the first page of a segment the cluster, the segment size and the page size; over a page boundary how much
/// of the record is to come, or, where it was cut off, that the record behind tells so. Not checked are bytes that
/// belong to nothing: alignment, and what follows a segment switch; and the rest of a record that began before the scan.
#[derive(Clone, Debug)]
pub struct RecordScanner {
    ctx: ScanContext,
    position: Lsn,
    stage: Stage,
    /// Bytes of the header of the page at `position`, as far as they were fed.
    page_header: [u8; PAGE_HEADER_LONG_BYTES],
    chain: PageChain,
    /// The record end that counts once later bytes prove it; see [`Continuation::may_be_switch`].
    unproven_end: Option<Lsn>,
    last_end: RecordEnd,
    /// Behind the highest byte that was consumed though no checksum covers it, whether or not a record has ended since.
    unchecked_upto: Lsn,
    /// Up to where bytes under no checksum are consumed at all.
    trusted_upto: Lsn,
    failed: Option<ScanError>,
}

/// The scanner as it was at the highest record end.
#[derive(Clone, Copy, Debug)]
struct RecordEnd {
    lsn: Lsn,
    last_record_start: Option<Lsn>,
    chain: PageChain,
    /// Behind the highest byte below that no checksum covers.
    unchecked_end: Lsn,
    /// True as long as the scan's own beginning is the highest one, and may be inside a record.
    unknown_start: bool,
}

/// What the next byte that is not of a page header is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The first page's header says: the rest of a record that began earlier, or a record.
    Unknown,
    /// The rest of a record that began before the scan.
    Continuation(Continuation),
    /// A record that begins within the scan, or what would be its first byte.
    Record(PartialRecord),
    /// Between the record's last byte and its aligned end.
    Alignment { start: Option<Lsn>, is_switch: bool },
    /// The unused rest of a segment, without page headers. Any bytes: a server that crashed before it wrote the
    /// zeros goes on with the next segment, and what was in the file before stays.
    SwitchPadding { start: Option<Lsn> },
    /// What may be the same, see [`Continuation::may_be_switch`]; `from` is where it begins.
    UnprovenPadding { from: Lsn },
}

impl RecordScanner {
    /// Starts at `lsn`, the start of a segment. It may be inside a record: then that record's end is the first one.
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

    /// Starts at `lsn`, which is known to be a record end. With `last_record_start`, where the record that ends there
    /// begins, the first `xl_prev` is checked exactly.
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
            stage: if last_end.unknown_start { Stage::Unknown } else { between_records(last_end.lsn) },
            page_header: [0; PAGE_HEADER_LONG_BYTES],
            chain: last_end.chain,
            unproven_end: None,
            last_end: RecordEnd { unchecked_end: Lsn::INVALID, ..last_end },
            unchecked_upto: Lsn::INVALID,
            trusted_upto: Lsn::MAX,
            failed: None,
        }
    }

    /// Takes bytes that no checksum covers only below `lsn`. What a record left that was aborted in its middle, and what
    /// follows a segment switch, look the same whether or not they are what was written: a scan of stored WAL must know
    /// from elsewhere that they are, or stop before them.
    #[must_use]
    pub fn trust_unchecked_up_to(self, lsn: Lsn) -> Self {
        Self { trusted_upto: lsn, ..self }
    }

    /// From here on takes no page of a timeline above `highest`, the highest one that is known of this log.
    #[must_use]
    pub fn limit_timeline(self, highest: Tli) -> Self {
        let last_end = RecordEnd { chain: self.last_end.chain.limit_timeline(highest), ..self.last_end };
        Self { chain: self.chain.limit_timeline(highest), last_end, ..self }
    }

    /// From here on takes only pages of this version, which the log is known to be of.
    #[must_use]
    pub fn require_version(self, magic: PageMagic) -> Self {
        let last_end = RecordEnd { chain: self.last_end.chain.require_version(magic), ..self.last_end };
        Self { chain: self.chain.require_version(magic), last_end, ..self }
    }

    /// A scanner that has seen what this one has, up to [`record_end`](Self::record_end) and not further: to write
    /// something else there. This one may have failed.
    #[must_use]
    pub fn rewound_to_record_end(&self) -> Self {
        Self::new(self.ctx, self.last_end)
    }

    /// What the scan was started with.
    pub fn context(&self) -> ScanContext {
        self.ctx
    }

    /// End of the bytes that were fed.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The highest record end up to [`position`](Self::position); before the first one, where the scan started.
    /// Stays valid when [`feed`](Self::feed) fails.
    pub fn record_end(&self) -> Lsn {
        self.last_end.lsn
    }

    /// Where the last whole record begins, if the scan has seen one: the `xl_prev` of the record at
    /// [`record_end`](Self::record_end).
    pub fn last_record_start(&self) -> Option<Lsn> {
        self.last_end.last_record_start
    }

    /// Timeline of the page that the last byte before [`record_end`](Self::record_end) is on; the first one before
    /// any page was seen.
    pub fn tli(&self) -> Tli {
        self.last_end.chain.tli()
    }

    /// Behind the highest byte below [`record_end`](Self::record_end) that was consumed though no checksum covers it, but for
    /// alignment; zero if there is none. Who makes WAL durable has to remember, before anybody relies on it, that bytes
    /// below this position were complete.
    pub fn unchecked_end(&self) -> Lsn {
        self.last_end.unchecked_end
    }

    /// True while the scan has met what may be the rest of a segment switch that began before the scan, and nothing
    /// that tells. Until it has, that end does not count; a scan that begins one segment earlier knows.
    pub fn is_start_ambiguous(&self) -> bool {
        self.unproven_end.is_some()
    }

    /// Takes the next bytes. An error means that what is here is no WAL: the scanner then gives the same error
    /// again, only its record end stays last_end. Clone it before, to try something else.
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

    /// Takes the bytes up to the next change of what they are.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, ScanError> {
        match self.stage {
            Stage::SwitchPadding { start } => return self.consume_switch_padding(bytes, start),
            Stage::UnprovenPadding { from } => return self.consume_unproven_padding(bytes, from),
            _ => {}
        }
        let offset = self.position.0 as usize % PAGE_BYTES;
        let header_end = page_header_bytes(self.ctx.segment_size, self.position);
        if offset < header_end {
            return self.consume_page_header(bytes, offset, header_end);
        }
        let bytes = &bytes[..bytes.len().min(PAGE_BYTES - offset)];
        match self.stage {
            Stage::Continuation(continuation) => self.consume_continuation(bytes, continuation),
            Stage::Record(record) => self.consume_record(bytes, record),
            Stage::Alignment { start, is_switch } => Ok(self.consume_alignment(bytes, start, is_switch)),
            Stage::Unknown | Stage::SwitchPadding { .. } | Stage::UnprovenPadding { .. } => {
                unreachable!("left by the page header, or handled above")
            }
        }
    }

    fn consume_page_header(&mut self, bytes: &[u8], offset: usize, end: usize) -> Result<usize, ScanError> {
        let consumed = bytes.len().min(end - offset);
        self.page_header[offset..offset + consumed].copy_from_slice(&bytes[..consumed]);
        self.position = self.position.advance(consumed as u64);
        if offset + consumed == end {
            let at = self.position.align_down(PAGE_BYTES as u64);
            if self.page_header[..end].iter().all(|byte| *byte == 0) {
                return Err(ScanError::EndOfLog { at });
            }
            self.enter_page(at)?;
        }
        Ok(consumed)
    }

    /// Bytes that the next page has to continue a record with, `None` if that is not known.
    fn remaining_expected(&self) -> Option<u32> {
        match self.stage {
            Stage::Unknown => None,
            Stage::Continuation(continuation) => Some(continuation.remaining()),
            Stage::Record(record) => Some(record.remaining()),
            _ => Some(0),
        }
    }

    fn enter_page(&mut self, at: Lsn) -> Result<(), ScanError> {
        let on_page = |problem: PageError| ScanError::Page { at, problem };
        let header_bytes = page_header_bytes(self.ctx.segment_size, at);
        let page = PageHeader::parse(&self.page_header[..header_bytes]).map_err(on_page)?;
        let mut chain = self.chain;
        chain.extend(&self.ctx, at, &page, self.remaining_expected()).map_err(on_page)?;
        if self.unproven_end == Some(at) {
            self.reach_record_end(at, None);
        }
        self.chain = chain;
        let left = page.remaining_bytes;
        if page.flags.contains(PageFlags::FIRST_IS_OVERWRITE_CONTRECORD) {
            self.accept_unchecked(at)?;
            let cut_off = match self.stage {
                Stage::Record(record) => Some(record.start()),
                _ => None,
            };
            self.stage = Stage::Record(PartialRecord::overwriting(self.position, cut_off));
        } else if matches!(self.stage, Stage::Unknown) {
            self.stage = match left {
                0 => between_records(self.position),
                _ => Stage::Continuation(Continuation::new(left)),
            };
        }
        Ok(())
    }

    /// Bytes below `end` count, and no checksum covers them.
    fn accept_unchecked(&mut self, end: Lsn) -> Result<(), ScanError> {
        if end > self.trusted_upto {
            return Err(ScanError::Unchecked { upto: end });
        }
        self.unchecked_upto = end;
        Ok(())
    }

    fn consume_continuation(
        &mut self,
        bytes: &[u8],
        mut continuation: Continuation,
    ) -> Result<usize, ScanError> {
        let consumed = continuation.consume(bytes);
        self.position = self.position.advance(consumed as u64);
        if continuation.remaining() > 0 {
            self.stage = Stage::Continuation(continuation);
            return Ok(consumed);
        }
        // The checksum is in the header, which was not seen.
        self.accept_unchecked(self.position)?;
        if continuation.may_be_switch() && self.alignment_bytes_left() == 0 {
            self.unproven_end = Some(self.position);
            self.stage = between_records(self.position);
        } else {
            self.end_record(None, false);
        }
        Ok(consumed)
    }

    fn consume_record(&mut self, bytes: &[u8], mut record: PartialRecord) -> Result<usize, ScanError> {
        let (consumed, progress) = record.consume(self.position, bytes, self.last_end.last_record_start);
        self.position = self.position.advance(consumed as u64);
        match progress {
            RecordProgress::Partial => self.stage = Stage::Record(record),
            RecordProgress::Whole { is_switch } => self.end_record(Some(record.start()), is_switch),
            RecordProgress::ZeroLength => self.handle_zero_length(&record)?,
            RecordProgress::Wrong(problem) => return Err(ScanError::Record { at: record.start(), problem }),
        }
        Ok(consumed)
    }

    /// No length where a record should begin: the log ends, unless this is the unused rest of a segment.
    fn handle_zero_length(&mut self, record: &PartialRecord) -> Result<(), ScanError> {
        let start = record.start();
        if self.unproven_end != Some(start) || record.header().iter().any(|byte| *byte != 0) {
            return Err(ScanError::EndOfLog { at: start });
        }
        let segment_size = self.ctx.segment_size;
        self.unproven_end = Some(segment_size.start_of(segment_size.segment_of(start) + 1));
        self.stage = Stage::UnprovenPadding { from: start };
        Ok(())
    }

    /// All of the record is here, but perhaps not what fills it up to its end. Pages are multiples of the alignment,
    /// so no page header comes between.
    fn end_record(&mut self, start: Option<Lsn>, is_switch: bool) {
        if self.alignment_bytes_left() > 0 {
            self.stage = Stage::Alignment { start, is_switch };
        } else if is_switch && self.ctx.segment_size.offset_of(self.position) != 0 {
            self.stage = Stage::SwitchPadding { start };
        } else {
            self.reach_record_end(self.position, start);
            self.stage = between_records(self.position);
        }
    }

    fn consume_alignment(&mut self, bytes: &[u8], start: Option<Lsn>, is_switch: bool) -> usize {
        let consumed = bytes.len().min(self.alignment_bytes_left());
        self.position = self.position.advance(consumed as u64);
        self.end_record(start, is_switch);
        consumed
    }

    fn consume_switch_padding(&mut self, bytes: &[u8], start: Option<Lsn>) -> Result<usize, ScanError> {
        let consumed = bytes.len().min(self.segment_bytes_left());
        self.position = self.position.advance(consumed as u64);
        if self.ctx.segment_size.offset_of(self.position) == 0 {
            self.accept_unchecked(self.position)?;
            self.reach_record_end(self.position, start);
            self.stage = between_records(self.position);
        }
        Ok(consumed)
    }

    fn consume_unproven_padding(&mut self, bytes: &[u8], from: Lsn) -> Result<usize, ScanError> {
        let consumed = bytes.len().min(self.segment_bytes_left());
        if bytes[..consumed].iter().any(|byte| *byte != 0) {
            return Err(ScanError::EndOfLog { at: from });
        }
        self.position = self.position.advance(consumed as u64);
        if self.ctx.segment_size.offset_of(self.position) == 0 {
            self.stage = between_records(self.position);
        }
        Ok(consumed)
    }

    fn alignment_bytes_left(&self) -> usize {
        (self.position.0.wrapping_neg() % RECORD_ALIGNMENT_BYTES) as usize
    }

    fn segment_bytes_left(&self) -> usize {
        (self.ctx.segment_size.bytes() - self.ctx.segment_size.offset_of(self.position)) as usize
    }

    fn reach_record_end(&mut self, lsn: Lsn, last_record_start: Option<Lsn>) {
        self.unproven_end = None;
        let (chain, unchecked_end) = (self.chain, self.unchecked_upto);
        self.last_end = RecordEnd { lsn, last_record_start, chain, unchecked_end, unknown_start: false };
    }
}

const fn between_records(start: Lsn) -> Stage {
    Stage::Record(PartialRecord::at(start))
}

pub(crate) fn can_be_record_end(segment_size: SegmentSize, lsn: Lsn) -> bool {
    let offset = lsn.0 as usize % PAGE_BYTES;
    lsn.align_down(RECORD_ALIGNMENT_BYTES) == lsn
        && (offset == 0 || offset > page_header_bytes(segment_size, lsn))
}
