//! Steps of a scan: what each kind of byte does to a [`RecordScanner`].

use wal_types::Lsn;

use super::RecordScanner;
use super::stage::Stage;
use crate::page::{PAGE_BYTES, PageError, PageFlags, PageHeader, page_header_bytes};
use crate::partial_record::{Continuation, PartialRecord, RecordProgress};
use crate::record::RECORD_ALIGNMENT_BYTES;
use crate::record_end::RecordEnd;
use crate::scan_error::ScanError;

impl RecordScanner {
    /// Consumes bytes up to the next change of stage; returns how many.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<usize, ScanError> {
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

    /// Collects a page header, and enters the page when the header is complete.
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

    /// Bytes of an open record that the next page must announce; `None` if that is not known.
    fn remaining_expected(&self) -> Option<u32> {
        match self.stage {
            Stage::Unknown => None,
            Stage::Continuation(continuation) => Some(continuation.remaining()),
            Stage::Record(record) => Some(record.remaining()),
            _ => Some(0),
        }
    }

    /// Checks the header of the page at `at` against the pages and the record before it.
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
            let partial_start = match self.stage {
                Stage::Record(record) => Some(record.start()),
                _ => None,
            };
            self.stage = Stage::Record(PartialRecord::overwriting(self.position, partial_start));
        } else if matches!(self.stage, Stage::Unknown) {
            self.stage = match left {
                0 => Stage::between_records(self.position),
                _ => Stage::Continuation(Continuation::new(left)),
            };
        }
        Ok(())
    }

    /// Accepts bytes below `end` that no checksum covers, unless they lie above the trusted position.
    fn accept_unchecked(&mut self, end: Lsn) -> Result<(), ScanError> {
        if end > self.trusted_upto {
            return Err(ScanError::Unchecked { upto: end });
        }
        self.unchecked_upto = end;
        Ok(())
    }

    /// Consumes the rest of a record that began before the scan.
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
        // The checksum is in the header, which the scan did not see.
        self.accept_unchecked(self.position)?;
        if continuation.may_be_switch() && self.alignment_bytes_left() == 0 {
            self.unproven_end = Some(self.position);
            self.stage = Stage::between_records(self.position);
        } else {
            self.end_record(None, false);
        }
        Ok(consumed)
    }

    /// Consumes header or body of a record.
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

    /// Handles a zero length where a record would begin: the log ends, unless this is the unused rest of a segment.
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

    /// The last byte of a record was consumed; its alignment may be missing. Pages are multiples of the alignment, so no
    /// page header comes between.
    fn end_record(&mut self, start: Option<Lsn>, is_switch: bool) {
        if self.alignment_bytes_left() > 0 {
            self.stage = Stage::Alignment { start, is_switch };
        } else if is_switch && self.ctx.segment_size.offset_of(self.position) != 0 {
            self.stage = Stage::SwitchPadding { start };
        } else {
            self.reach_record_end(self.position, start);
            self.stage = Stage::between_records(self.position);
        }
    }

    /// Consumes the padding up to the aligned end.
    fn consume_alignment(&mut self, bytes: &[u8], start: Option<Lsn>, is_switch: bool) -> usize {
        let consumed = bytes.len().min(self.alignment_bytes_left());
        self.position = self.position.advance(consumed as u64);
        self.end_record(start, is_switch);
        consumed
    }

    /// Consumes the unused rest of a segment. The switch counts when all of it is there.
    fn consume_switch_padding(&mut self, bytes: &[u8], start: Option<Lsn>) -> Result<usize, ScanError> {
        let consumed = bytes.len().min(self.segment_bytes_left());
        self.position = self.position.advance(consumed as u64);
        if self.ctx.segment_size.offset_of(self.position) == 0 {
            self.accept_unchecked(self.position)?;
            self.reach_record_end(self.position, start);
            self.stage = Stage::between_records(self.position);
        }
        Ok(consumed)
    }

    /// Consumes zeros that may be switch padding. Other bytes prove that the log ended before them.
    fn consume_unproven_padding(&mut self, bytes: &[u8], from: Lsn) -> Result<usize, ScanError> {
        let consumed = bytes.len().min(self.segment_bytes_left());
        if bytes[..consumed].iter().any(|byte| *byte != 0) {
            return Err(ScanError::EndOfLog { at: from });
        }
        self.position = self.position.advance(consumed as u64);
        if self.ctx.segment_size.offset_of(self.position) == 0 {
            self.stage = Stage::between_records(self.position);
        }
        Ok(consumed)
    }

    fn alignment_bytes_left(&self) -> usize {
        (self.position.0.wrapping_neg() % RECORD_ALIGNMENT_BYTES) as usize
    }

    fn segment_bytes_left(&self) -> usize {
        (self.ctx.segment_size.bytes() - self.ctx.segment_size.offset_of(self.position)) as usize
    }

    /// Moves the record end to `lsn`.
    fn reach_record_end(&mut self, lsn: Lsn, last_record_start: Option<Lsn>) {
        self.unproven_end = None;
        let (chain, unchecked_end) = (self.chain, self.unchecked_upto);
        self.last_end = RecordEnd { lsn, last_record_start, chain, unchecked_end, unknown_start: false };
    }
}
