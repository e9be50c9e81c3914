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

use wal_types::{Lsn, SegmentSize, Tli};

use crate::page::{
    PAGE_BYTES, PAGE_HEADER_LONG_BYTES, PageError, PageFlags, PageHeader, page_header_bytes, u32_at,
};
use crate::page_chain::{PageChain, ScanContext};
use crate::record::{
    RECORD_ALIGNMENT_BYTES, RECORD_HEADER_BYTES, RecordError, RecordHeader, check_total_bytes,
    record_checksum,
};
use crate::scan_error::ScanError;

/// Finds record ends in WAL that is fed to it.
///
/// Checked are each record's checksum, length and resource manager; `xl_prev`, exactly, but for the first record after
/// a start that does not know it; each page's position, magic number, and that its timeline is not lower than the one
/// before; on the first page of a segment the cluster, the segment size and the page size; and over a page boundary
/// how much of the record is to come. Not checked are bytes that belong to nothing: alignment, and what follows a
/// segment switch.
#[derive(Clone, Debug)]
pub struct RecordScanner {
    ctx: ScanContext,
    position: Lsn,
    stage: Stage,
    /// Bytes of the header of the page at `position`, as far as they were fed.
    page_header: [u8; PAGE_HEADER_LONG_BYTES],
    chain: PageChain,
    /// The record end that counts once later bytes prove it; see [`may_be_switch`].
    unproven_end: Option<Lsn>,
    good: RecordEnd,
    /// Behind the highest byte that was taken though no checksum covers it.
    unchecked_end: Lsn,
    /// Up to where bytes under no checksum are taken at all.
    trusted_upto: Lsn,
    failed: Option<ScanError>,
}

/// The scanner as it was at the highest record end.
#[derive(Clone, Copy, Debug)]
struct RecordEnd {
    lsn: Lsn,
    last_record_start: Option<Lsn>,
    chain: PageChain,
    /// True as long as the scan's own beginning is the highest one, and may be inside a record.
    unknown_start: bool,
}

/// What the next byte that is not of a page header is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The first page's header says: the rest of a record that began earlier, or a record.
    Unknown,
    /// The rest of a record that began before the scan. `tail` are its last bytes, if it is as short as to need them.
    Continuation { left: u32, short: bool, tail: [u8; 8] },
    /// A header, `have` bytes of which were fed; none means that we are between records.
    Header { start: Lsn, bytes: [u8; RECORD_HEADER_BYTES], have: usize },
    /// The body.
    Body { start: Lsn, header: [u8; RECORD_HEADER_BYTES], left: u32, checksum: u32 },
    /// Between the record's last byte and its aligned end.
    Alignment { start: Option<Lsn>, is_switch: bool },
    /// The unused rest of a segment, without page headers. Any bytes: a server that crashed before it wrote the
    /// zeros goes on with the next segment, and what was in the file before stays.
    SwitchPadding { start: Option<Lsn> },
    /// What may be the same, see [`may_be_switch`]; `from` is where it begins.
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
            RecordEnd { lsn, last_record_start: None, chain: PageChain::START, unknown_start: true },
        )
    }

    /// Starts at `lsn`, which is known to be a record end. With `last_record_start`, where the record that ends there
    /// begins, the first `xl_prev` is checked exactly.
    ///
    /// # Panics
    /// When no record can end at `lsn`.
    pub fn at_record_end(ctx: ScanContext, lsn: Lsn, last_record_start: Option<Lsn>) -> Self {
        assert!(can_be_record_end(ctx.segment_size, lsn), "{lsn} is no record end");
        Self::new(ctx, RecordEnd { lsn, last_record_start, chain: PageChain::START, unknown_start: false })
    }

    fn new(ctx: ScanContext, good: RecordEnd) -> Self {
        Self {
            ctx,
            position: good.lsn,
            stage: if good.unknown_start { Stage::Unknown } else { between_records(good.lsn) },
            page_header: [0; PAGE_HEADER_LONG_BYTES],
            chain: good.chain,
            unproven_end: None,
            good,
            unchecked_end: Lsn::INVALID,
            trusted_upto: Lsn::MAX,
            failed: None,
        }
    }

    /// Takes bytes that no checksum covers only below `lsn`. What a record left that was aborted in its middle, and what
    /// follows a segment switch, look the same whether or not they are what was written: a scan of stored WAL must know
    /// from elsewhere that they are, or stop before them.
    #[must_use]
    pub fn trusting_up_to(self, lsn: Lsn) -> Self {
        Self { trusted_upto: lsn, ..self }
    }

    /// A scanner that has seen what this one has, up to [`record_end`](Self::record_end) and not further: to write
    /// something else there. This one may have failed.
    #[must_use]
    pub fn rewound_to_record_end(&self) -> Self {
        Self::new(self.ctx, self.good)
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
        self.good.lsn
    }

    /// Where the last whole record begins, if the scan has seen one: the `xl_prev` of the record at
    /// [`record_end`](Self::record_end).
    pub fn last_record_start(&self) -> Option<Lsn> {
        self.good.last_record_start
    }

    /// Timeline of the page that the last byte before [`record_end`](Self::record_end) is on; the first one before
    /// any page was seen.
    pub fn tli(&self) -> Tli {
        self.good.chain.tli()
    }

    /// Behind the highest byte that was taken though no checksum covers it, but for alignment; zero if there is none.
    /// Who makes WAL durable has to remember, before anybody relies on it, that bytes below this position were complete.
    pub fn unchecked_end(&self) -> Lsn {
        self.unchecked_end
    }

    /// True while the scan has met what may be the rest of a segment switch that began before the scan, and nothing
    /// that tells. Until it has, that end does not count; a scan that begins one segment earlier knows.
    pub fn is_start_ambiguous(&self) -> bool {
        self.unproven_end.is_some()
    }

    /// Takes the next bytes. An error means that what is here is no WAL: the scanner then gives the same error
    /// again, only its record end stays good. Clone it before, to try something else.
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
            let taken = self.step(bytes).inspect_err(|error| self.failed = Some(*error))?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Takes the bytes up to the next change of what they are.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, ScanError> {
        match self.stage {
            Stage::SwitchPadding { start } => return self.take_switch_padding(bytes, start),
            Stage::UnprovenPadding { from } => return self.take_unproven_padding(bytes, from),
            _ => {}
        }
        let offset = self.position.0 as usize % PAGE_BYTES;
        let header_end = page_header_bytes(self.ctx.segment_size, self.position);
        if offset < header_end {
            return self.take_page_header(bytes, offset, header_end);
        }
        let bytes = &bytes[..bytes.len().min(PAGE_BYTES - offset)];
        match self.stage {
            Stage::Continuation { left, short, tail } => Ok(self.take_continuation(bytes, left, short, tail)),
            Stage::Header { start, bytes: header, have } => self.take_header(bytes, start, header, have),
            Stage::Body { start, header, left, checksum } => {
                self.take_body(bytes, start, header, left, checksum)
            }
            Stage::Alignment { start, is_switch } => Ok(self.take_alignment(bytes, start, is_switch)),
            Stage::Unknown | Stage::SwitchPadding { .. } | Stage::UnprovenPadding { .. } => {
                unreachable!("left by the page header, or handled above")
            }
        }
    }

    fn take_page_header(&mut self, bytes: &[u8], offset: usize, end: usize) -> Result<usize, ScanError> {
        let taken = bytes.len().min(end - offset);
        self.page_header[offset..offset + taken].copy_from_slice(&bytes[..taken]);
        self.position = self.position.advance(taken as u64);
        if offset + taken == end {
            let at = self.position.align_down(PAGE_BYTES as u64);
            if self.page_header[..end].iter().all(|byte| *byte == 0) {
                return Err(ScanError::EndOfLog { at });
            }
            self.enter_page(at)?;
        }
        Ok(taken)
    }

    /// Bytes that the next page has to continue a record with, `None` if that is not known.
    fn remaining_expected(&self) -> Option<u32> {
        match self.stage {
            Stage::Unknown => None,
            Stage::Continuation { left, .. } | Stage::Body { left, .. } => Some(left),
            Stage::Header { bytes, have, .. } if have > 0 => Some(u32_at(&bytes, 0) - have as u32),
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
            self.take_unchecked(at)?;
            self.stage = between_records(self.position);
        } else if matches!(self.stage, Stage::Unknown) {
            self.stage = match left {
                0 => between_records(self.position),
                _ => Stage::Continuation { left, short: left <= SWITCH_CONTINUATION_BYTES_MAX, tail: [0; 8] },
            };
        }
        Ok(())
    }

    /// Bytes below `end` count, and no checksum covers them.
    fn take_unchecked(&mut self, end: Lsn) -> Result<(), ScanError> {
        if end > self.trusted_upto {
            return Err(ScanError::Unchecked { upto: end });
        }
        self.unchecked_end = end;
        Ok(())
    }

    fn take_continuation(&mut self, bytes: &[u8], left: u32, short: bool, mut tail: [u8; 8]) -> usize {
        let taken = bytes.len().min(left as usize);
        self.position = self.position.advance(taken as u64);
        if short {
            for byte in &bytes[..taken] {
                tail.rotate_left(1);
                tail[7] = *byte;
            }
        }
        let left = left - taken as u32;
        if left > 0 {
            self.stage = Stage::Continuation { left, short, tail };
        } else if short && may_be_switch(&tail) && self.alignment_bytes_left() == 0 {
            self.unproven_end = Some(self.position);
            self.stage = between_records(self.position);
        } else {
            self.end_record(None, false);
        }
        taken
    }

    fn take_header(
        &mut self,
        bytes: &[u8],
        start: Lsn,
        mut header: [u8; RECORD_HEADER_BYTES],
        have: usize,
    ) -> Result<usize, ScanError> {
        let start = if have == 0 { self.position } else { start };
        let taken = bytes.len().min(RECORD_HEADER_BYTES - have);
        let (before, have) = (have, have + taken);
        header[before..have].copy_from_slice(&bytes[..taken]);
        self.position = self.position.advance(taken as u64);
        if before < 4 && have >= 4 {
            // The length is never cut by a page boundary, and the next page's header is checked against it.
            let total_bytes = u32_at(&header, 0);
            if total_bytes == 0 {
                return self.meet_zeros(start, &header[..have]).map(|()| taken);
            }
            check_total_bytes(total_bytes).map_err(|problem| ScanError::Record { at: start, problem })?;
        }
        self.stage = Stage::Header { start, bytes: header, have };
        if have == RECORD_HEADER_BYTES {
            let parsed = RecordHeader::parse(&header);
            self.check_header(start, &parsed).map_err(|problem| ScanError::Record { at: start, problem })?;
            let left = parsed.total_bytes - RECORD_HEADER_BYTES as u32;
            self.stage = Stage::Body { start, header, left, checksum: 0 };
            if left == 0 {
                self.finish_body(start, &header, 0)?;
            }
        }
        Ok(taken)
    }

    /// No length where a record should begin: the log ends, unless this is the unused rest of a segment.
    fn meet_zeros(&mut self, start: Lsn, fed: &[u8]) -> Result<(), ScanError> {
        if self.unproven_end != Some(start) || fed.iter().any(|byte| *byte != 0) {
            return Err(ScanError::EndOfLog { at: start });
        }
        let segment_size = self.ctx.segment_size;
        self.unproven_end = Some(segment_size.start_of(segment_size.segment_of(start) + 1));
        self.stage = Stage::UnprovenPadding { from: start };
        Ok(())
    }

    fn check_header(&self, start: Lsn, header: &RecordHeader) -> Result<(), RecordError> {
        header.check()?;
        let found = header.prev;
        match self.good.last_record_start {
            Some(expected) if found != expected => Err(RecordError::Prev { expected, found }),
            None if found >= start => Err(RecordError::PrevNotBefore(found)),
            _ => Ok(()),
        }
    }

    fn take_body(
        &mut self,
        bytes: &[u8],
        start: Lsn,
        header: [u8; RECORD_HEADER_BYTES],
        left: u32,
        checksum: u32,
    ) -> Result<usize, ScanError> {
        let taken = bytes.len().min(left as usize);
        let checksum = crc32c::crc32c_append(checksum, &bytes[..taken]);
        self.position = self.position.advance(taken as u64);
        let left = left - taken as u32;
        self.stage = Stage::Body { start, header, left, checksum };
        if left == 0 {
            self.finish_body(start, &header, checksum)?;
        }
        Ok(taken)
    }

    fn finish_body(
        &mut self,
        start: Lsn,
        header: &[u8; RECORD_HEADER_BYTES],
        body: u32,
    ) -> Result<(), ScanError> {
        let parsed = RecordHeader::parse(header);
        let (computed, stored) = (record_checksum(header, body), parsed.checksum);
        if computed != stored {
            let problem = RecordError::Checksum { computed, stored };
            return Err(ScanError::Record { at: start, problem });
        }
        self.end_record(Some(start), parsed.is_switch());
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

    fn take_alignment(&mut self, bytes: &[u8], start: Option<Lsn>, is_switch: bool) -> usize {
        let taken = bytes.len().min(self.alignment_bytes_left());
        self.position = self.position.advance(taken as u64);
        self.end_record(start, is_switch);
        taken
    }

    fn take_switch_padding(&mut self, bytes: &[u8], start: Option<Lsn>) -> Result<usize, ScanError> {
        let taken = bytes.len().min(self.segment_bytes_left());
        self.position = self.position.advance(taken as u64);
        if self.ctx.segment_size.offset_of(self.position) == 0 {
            self.take_unchecked(self.position)?;
            self.reach_record_end(self.position, start);
            self.stage = between_records(self.position);
        }
        Ok(taken)
    }

    fn take_unproven_padding(&mut self, bytes: &[u8], from: Lsn) -> Result<usize, ScanError> {
        let taken = bytes.len().min(self.segment_bytes_left());
        if bytes[..taken].iter().any(|byte| *byte != 0) {
            return Err(ScanError::EndOfLog { at: from });
        }
        self.position = self.position.advance(taken as u64);
        if self.ctx.segment_size.offset_of(self.position) == 0 {
            self.stage = between_records(self.position);
        }
        Ok(taken)
    }

    fn alignment_bytes_left(&self) -> usize {
        (self.position.0.wrapping_neg() % RECORD_ALIGNMENT_BYTES) as usize
    }

    fn segment_bytes_left(&self) -> usize {
        (self.ctx.segment_size.bytes() - self.ctx.segment_size.offset_of(self.position)) as usize
    }

    fn reach_record_end(&mut self, lsn: Lsn, last_record_start: Option<Lsn>) {
        self.unproven_end = None;
        self.good = RecordEnd { lsn, last_record_start, chain: self.chain, unknown_start: false };
    }
}

const fn between_records(start: Lsn) -> Stage {
    Stage::Header { start, bytes: [0; RECORD_HEADER_BYTES], have: 0 }
}

pub(crate) fn can_be_record_end(segment_size: SegmentSize, lsn: Lsn) -> bool {
    let offset = lsn.0 as usize % PAGE_BYTES;
    lsn.align_down(RECORD_ALIGNMENT_BYTES) == lsn
        && (offset == 0 || offset > page_header_bytes(segment_size, lsn))
}

/// A switch is as long as its header, of which at least 8 bytes are on the page where it begins.
const SWITCH_CONTINUATION_BYTES_MAX: u32 = 16;

/// A scan may begin in the header of a segment switch: the rest of it opens the segment, and zeros fill it. `tail` are
/// the last 8 bytes: info, resource manager, two unused bytes, checksum. They may as well be the end of an ordinary
/// record behind which the log ends. The zeros tell nothing, so neither end counts until more comes: a record right
/// behind, or the next segment.
fn may_be_switch(tail: &[u8; 8]) -> bool {
    let mut header = [0; RECORD_HEADER_BYTES];
    header[RECORD_HEADER_BYTES - 8..].copy_from_slice(tail);
    RecordHeader::parse(&header).is_switch() && tail[2..4] == [0, 0]
}
