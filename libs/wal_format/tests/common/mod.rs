//! [`Log`]: a built log that knows its record ends, to compare with those of the scanner.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a panic here is the report of a test")]

use wal_format::{Appended, PAGE_BYTES, PageMagic, RecordScanner, ScanContext, WalBuilder};
use wal_types::{Lsn, SegmentSize, SystemId, Tli};

pub(crate) struct Log {
    pub(crate) ctx: ScanContext,
    pub(crate) start: Lsn,
    pub(crate) bytes: Vec<u8>,
    /// Each record end with the start of its record; ascending.
    pub(crate) ends: Vec<(Lsn, Lsn)>,
    pub(crate) builder: WalBuilder,
    /// Ends of the switch records, where the unused rest of a segment begins.
    switches: Vec<Lsn>,
}

impl Log {
    /// An empty log that starts with the second segment.
    pub(crate) fn new(segment_kib: u32) -> Self {
        let segment_size = SegmentSize::new(segment_kib << 10).unwrap();
        let ctx = ScanContext { segment_size, system_id: SystemId(7_710_999_284_697_415_315) };
        let start = segment_size.start_of(1);
        let builder = WalBuilder::new(ctx, PageMagic::POSTGRES_15, Tli(1), start, Lsn(0));
        Self { ctx, start, bytes: Vec::new(), ends: Vec::new(), builder, switches: Vec::new() }
    }

    /// An empty log that starts with a record end `left` bytes before the end of the second segment.
    pub(crate) fn near_segment_end(segment_kib: u32, left: u64) -> Self {
        let log = Self::new(segment_kib);
        let start = Lsn(log.segment_end().0 - left);
        let builder = WalBuilder::new(log.ctx, PageMagic::POSTGRES_18, Tli(1), start, log.start);
        Self { start, builder, ..log }
    }

    pub(crate) fn noop(&mut self, total_bytes: usize) -> Lsn {
        let appended = self.builder.noop(total_bytes);
        self.push(appended)
    }

    pub(crate) fn record(&mut self, payload: &[u8]) -> Lsn {
        let appended = self.builder.record(21, 0, payload);
        self.push(appended)
    }

    pub(crate) fn switch(&mut self) -> Lsn {
        self.switches.push(self.builder.clone().noop(24).range.end);
        let appended = self.builder.switch();
        self.push(appended)
    }

    pub(crate) fn overwrite_contrecord(&mut self, total_bytes: usize, pages: usize) -> Lsn {
        let appended = self.builder.overwrite_contrecord(total_bytes, pages);
        self.push(appended)
    }

    /// Writes records so that the next one begins `left` bytes before the end of the segment.
    pub(crate) fn fill_segment_up_to(&mut self, left: u64) {
        let segment_end = self.segment_end();
        while segment_end.bytes_since(self.end()) > PAGE_BYTES as u64 - 1000 {
            self.noop(400);
        }
        self.noop((segment_end.bytes_since(self.end()) - left) as usize);
        assert_eq!(self.end().advance(left), segment_end);
    }

    pub(crate) fn segment_end(&self) -> Lsn {
        self.ctx.segment_size.start_of(self.ctx.segment_size.segment_of(self.end()) + 1)
    }

    fn push(&mut self, appended: Appended) -> Lsn {
        assert_eq!(appended.range.start, self.end());
        assert_eq!(appended.range.end.bytes_since(appended.range.start), appended.bytes.len() as u64);
        if !appended.bytes.is_empty() {
            self.bytes.extend_from_slice(&appended.bytes);
            self.ends.push((appended.range.end, appended.record_start));
        }
        self.end()
    }

    pub(crate) fn end(&self) -> Lsn {
        self.start.advance(self.bytes.len() as u64)
    }

    /// The bytes from `lsn` on.
    pub(crate) fn from(&self, lsn: Lsn) -> &[u8] {
        &self.bytes[lsn.bytes_since(self.start) as usize..]
    }

    pub(crate) fn index_of(&self, lsn: Lsn) -> usize {
        lsn.bytes_since(self.start) as usize
    }

    pub(crate) fn scanner(&self) -> RecordScanner {
        match self.ctx.segment_size.offset_of(self.start) {
            0 => RecordScanner::at_segment_start(self.ctx, self.start),
            _ => RecordScanner::at_record_end(self.ctx, self.start, None),
        }
    }

    /// Record end and last record start that a scan from the log's start must have at `position`.
    pub(crate) fn expected_at(&self, position: Lsn) -> (Lsn, Option<Lsn>) {
        let behind = self.ends.partition_point(|(end, _)| *end <= position);
        match behind {
            0 => (self.start, None),
            n => (self.ends[n - 1].0, Some(self.ends[n - 1].1)),
        }
    }

    /// [`Log::expected_at`] when other bytes, enough of them, follow from `position` on.
    pub(crate) fn expected_if_unused_bytes_follow(&self, position: Lsn) -> (Lsn, Option<Lsn>) {
        let aligned = position.align_up(8);
        let segment = self.ctx.segment_size;
        let is_unused =
            |from: &&Lsn| **from <= aligned && segment.segment_of(**from) == segment.segment_of(aligned);
        match self.switches.iter().find(is_unused) {
            Some(from) => self.expected_at(segment.start_of(segment.segment_of(*from) + 1)),
            None => self.expected_at(aligned),
        }
    }
}

/// Record end and last record start of a scanner, in the form of [`Log::expected_at`].
pub(crate) fn found(scanner: &RecordScanner) -> (Lsn, Option<Lsn>) {
    (scanner.record_end(), scanner.last_record_start())
}

/// Feeds byte by byte and checks the answer at every one.
pub(crate) fn check_every_prefix(log: &Log) {
    let mut scanner = log.scanner();
    assert_eq!(found(&scanner), (log.start, None));
    for byte in &log.bytes {
        scanner.feed(&[*byte]).unwrap();
        assert_eq!(found(&scanner), log.expected_at(scanner.position()), "at {}", scanner.position());
    }
    assert_eq!(scanner.position(), log.end());
}
