//! [`WalBuilder`]: writes WAL that a server can read, for tests and the simulation.
//!
//! The same calls give the same bytes. Records are framed, linked and checksummed as a server does it. Their payload is
//! what `pg_waldump` calls main data; it has no meaning for a database.

use std::ops::Range;

use wal_types::{Lsn, Tli};

use crate::page::{LongHeader, PAGE_BYTES, PageFlags, PageHeader, PageMagic, page_header_bytes};
use crate::page_chain::ScanContext;
use crate::record::{
    INFO_XLOG_OVERWRITE_CONTRECORD, INFO_XLOG_SWITCH, RECORD_ALIGNMENT_BYTES, RECORD_HEADER_BYTES, RMID_XLOG,
    RecordHeader, XLOG_RECORD_BYTES_MAX, record_checksum,
};
use crate::record_end::can_be_record_end;

/// Main data up to 255 bytes has a two-byte header: this mark and a length (`XLR_BLOCK_ID_DATA_SHORT`).
const MARK_DATA_SHORT: u8 = 255;
/// Longer main data has a five-byte header (`XLR_BLOCK_ID_DATA_LONG`).
const MARK_DATA_LONG: u8 = 254;

/// Writer of WAL that stands at a record end.
#[derive(Clone, Debug)]
pub struct WalBuilder {
    ctx: ScanContext,
    magic: PageMagic,
    tli: Tli,
    /// The record end that the next record is written at.
    position: Lsn,
    /// Start of the last record.
    prev: Lsn,
}

/// Bytes that one call wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// From the first byte, which may belong to a page header, to the record end.
    pub range: Range<Lsn>,
    /// Start of the record: the `xl_prev` of the next one.
    pub record_start: Lsn,
    /// The bytes of `range`.
    pub bytes: Vec<u8>,
}

impl WalBuilder {
    /// Starts at the record end `at`; a segment start is one. `prev` is the start of the record before (any position below
    /// `at` if there is none).
    ///
    /// # Panics
    /// When no record can end at `at`.
    pub fn new(ctx: ScanContext, magic: PageMagic, tli: Tli, at: Lsn, prev: Lsn) -> Self {
        assert!(can_be_record_end(ctx.segment_size, at), "{at} is no record end");
        Self { ctx, magic, tli, position: at, prev }
    }

    /// The record end that the next record is written at.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Start of the last record.
    pub fn prev(&self) -> Lsn {
        self.prev
    }

    /// Sets the timeline of the pages that begin from now on.
    pub fn set_tli(&mut self, tli: Tli) {
        self.tli = tli;
    }

    /// Writes a record with `payload` as its main data.
    ///
    /// # Panics
    /// When the record would be longer than a server's may be.
    pub fn record(&mut self, rmid: u8, info: u8, payload: &[u8]) -> Appended {
        self.append(&Record::new(rmid, info, payload, self.prev))
    }

    /// Writes an `XLOG_NOOP` record of `total_bytes` (at least 24). Lengths that no main data gives (25, 26, 282 to 284)
    /// become the next possible one.
    pub fn noop(&mut self, total_bytes: usize) -> Appended {
        let payload = match total_bytes.saturating_sub(RECORD_HEADER_BYTES) {
            0 => 0,
            body @ ..=257 => body.saturating_sub(2).max(1),
            body => body.saturating_sub(5).max(256),
        };
        self.record(RMID_XLOG, 0x20, &vec![0x5a; payload])
    }

    /// Ends the segment with a switch record and zeros. At the start of a segment it writes nothing, as a server does.
    pub fn switch(&mut self) -> Appended {
        if self.ctx.segment_size.offset_of(self.position) == 0 {
            let (at, record_start) = (self.position, self.prev);
            return Appended { range: at..at, record_start, bytes: Vec::new() };
        }
        let mut appended = self.append(&Record::new(RMID_XLOG, INFO_XLOG_SWITCH, &[], self.prev));
        let left = u64::from(self.ctx.segment_size.bytes());
        let left = left - u64::from(self.ctx.segment_size.offset_of(self.position));
        if left < u64::from(self.ctx.segment_size.bytes()) {
            appended.bytes.resize(appended.bytes.len() + left as usize, 0);
            self.position = self.position.advance(left);
            appended.range.end = self.position;
        }
        appended
    }

    /// Writes what a server leaves that crashes inside a record of `total_bytes`, at the `pages`th page boundary in it,
    /// and what it writes after the restart: a page that ends the partial record, and an overwrite record on it.
    /// `range` begins with the partial record, `record_start` is that of the overwrite record.
    ///
    /// # Panics
    /// When the record does not cross so many page boundaries, or `pages` is zero.
    pub fn overwrite_contrecord(&mut self, total_bytes: usize, pages: usize) -> Appended {
        let partial = self.clone().noop(total_bytes);
        let mut boundary = partial.record_start.advance(1).align_up(PAGE_BYTES as u64);
        boundary =
            boundary.advance(pages.checked_sub(1).expect("a page boundary") as u64 * PAGE_BYTES as u64);
        assert!(boundary < partial.range.end, "the record does not reach {boundary}");

        let mut bytes = partial.bytes;
        bytes.truncate(boundary.bytes_since(partial.range.start) as usize);
        self.position = boundary;
        self.begin_page(&mut bytes, PageFlags::FIRST_IS_OVERWRITE_CONTRECORD, 0);
        let mut body = partial.record_start.0.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 8]); // the time of the restart
        let record = Record::new(RMID_XLOG, INFO_XLOG_OVERWRITE_CONTRECORD, &body, self.prev);
        let second = self.append(&record);
        bytes.extend_from_slice(&second.bytes);
        Appended { range: partial.range.start..second.range.end, record_start: second.record_start, bytes }
    }

    /// Writes a record, with the headers of the pages that it begins.
    fn append(&mut self, record: &Record) -> Appended {
        let from = self.position;
        let mut bytes = Vec::with_capacity(record.bytes.len() + 2 * PAGE_HEADER_ROOM);
        if self.page_offset() == 0 {
            self.begin_page(&mut bytes, PageFlags::NONE, 0);
        }
        let record_start = self.position;
        let mut left = &record.bytes[..];
        loop {
            let (now, later) = left.split_at(left.len().min(PAGE_BYTES - self.page_offset()));
            bytes.extend_from_slice(now);
            self.position = self.position.advance(now.len() as u64);
            left = later;
            if left.is_empty() {
                break;
            }
            self.begin_page(&mut bytes, PageFlags::FIRST_IS_CONTRECORD, left.len() as u32);
        }
        let end = self.position.align_up(RECORD_ALIGNMENT_BYTES);
        bytes.resize(end.bytes_since(from) as usize, 0);
        self.position = end;
        self.prev = record_start;
        Appended { range: from..end, record_start, bytes }
    }

    /// Writes the header of the page at `position`.
    fn begin_page(&mut self, bytes: &mut Vec<u8>, flags: PageFlags, remaining_bytes: u32) {
        let segment_size = self.ctx.segment_size;
        let long = (segment_size.offset_of(self.position) == 0).then_some(LongHeader {
            system_id: self.ctx.system_id,
            segment_bytes: segment_size.bytes(),
            page_bytes: PAGE_BYTES as u32,
        });
        let header = PageHeader {
            magic: self.magic,
            flags,
            tli: self.tli,
            address: self.position,
            remaining_bytes,
            long,
        };
        header.encode(bytes);
        self.position = self.position.advance(page_header_bytes(segment_size, self.position) as u64);
    }

    fn page_offset(&self) -> usize {
        self.position.0 as usize % PAGE_BYTES
    }
}

/// Room for the headers of the pages that a short record may touch.
const PAGE_HEADER_ROOM: usize = 64;

/// The bytes of a record, checksum included.
struct Record {
    bytes: Vec<u8>,
}

impl Record {
    fn new(rmid: u8, info: u8, payload: &[u8], prev: Lsn) -> Self {
        let mut bytes = vec![0; RECORD_HEADER_BYTES];
        match payload.len() {
            0 => {}
            short @ 1..=255 => bytes.extend_from_slice(&[MARK_DATA_SHORT, short as u8]),
            long => {
                bytes.push(MARK_DATA_LONG);
                bytes.extend_from_slice(&(long as u32).to_le_bytes());
            }
        }
        bytes.extend_from_slice(payload);
        assert!(bytes.len() <= XLOG_RECORD_BYTES_MAX as usize, "a record of {} bytes", bytes.len());

        let mut header =
            RecordHeader { total_bytes: bytes.len() as u32, xid: 0, prev, info, rmid, checksum: 0 };
        let body = crc32c::crc32c(&bytes[RECORD_HEADER_BYTES..]);
        header.checksum = record_checksum(&header.encode(), body);
        bytes[..RECORD_HEADER_BYTES].copy_from_slice(&header.encode());
        Self { bytes }
    }
}
