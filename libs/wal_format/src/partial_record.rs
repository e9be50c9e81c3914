//! [`PartialRecord`] and [`Continuation`]: the record that a scan is in, as far as it was fed.
//!
//! Part of the scanner. Here is what a record says of itself; what pages say of it, and what is behind it, is the
//! scanner's.

use wal_types::Lsn;

use crate::page::{u32_at, u64_at};
use crate::record::{RECORD_HEADER_BYTES, RecordError, RecordHeader, check_total_bytes, record_checksum};

/// Length of the field that says how long the record is.
const LENGTH_BYTES: u32 = 4;

/// A record that begins within the scan. Its body is not kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartialRecord {
    start: Lsn,
    header: [u8; RECORD_HEADER_BYTES],
    /// Bytes that were fed, of header and body; none means that we are between records.
    have: u32,
    /// Of the body so far.
    checksum: u32,
    /// Where the page says that it replaces another record.
    overwrite: Option<Overwrite>,
}

/// What an overwriting record has to be (`xl_overwrite_contrecord` in PostgreSQL's `access/xlog_internal.h`): the server
/// that recovers stops at any other.
#[derive(Clone, Copy, Debug)]
struct Overwrite {
    /// Where the record begins that was cut off, if the scan has seen it.
    cut_off: Option<Lsn>,
    /// As far as it was fed.
    body: [u8; OVERWRITE_BODY_BYTES],
}

/// Mark and length of the main data, the position of what was cut off, the time.
const OVERWRITE_BODY_BYTES: usize = 18;
const OVERWRITE_DATA_HEADER: [u8; 2] = [255, 16];

/// What some bytes made of a [`PartialRecord`].
pub(crate) enum RecordProgress {
    /// More are to come.
    Partial,
    /// All of it was fed, and its checksum is right.
    Whole { is_switch: bool },
    /// There is no record: its length is zero.
    ZeroLength,
    /// It is no record, or not the one that belongs here.
    Wrong(RecordError),
}

impl PartialRecord {
    /// No byte yet of the record that begins at `start`, or, if a page does, behind that page's header.
    pub(crate) const fn at(start: Lsn) -> Self {
        Self { start, header: [0; RECORD_HEADER_BYTES], have: 0, checksum: 0, overwrite: None }
    }

    /// The same, where a page says that what began at `cut_off` ends before it.
    pub(crate) const fn overwriting(start: Lsn, cut_off: Option<Lsn>) -> Self {
        let overwrite = Overwrite { cut_off, body: [0; OVERWRITE_BODY_BYTES] };
        Self { overwrite: Some(overwrite), ..Self::at(start) }
    }

    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    /// The header as far as it was fed.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header[..RECORD_HEADER_BYTES.min(self.have as usize)]
    }

    /// Bytes still to come; none between records. The length is never cut by a page boundary, where this is asked.
    pub(crate) fn remaining(&self) -> u32 {
        if self.have == 0 { 0 } else { u32_at(&self.header, 0) - self.have }
    }

    /// Takes bytes that are at `position`, at most up to the end of the header or of the record. `prev` is where the
    /// record before begins, if that is known.
    pub(crate) fn consume(
        &mut self,
        position: Lsn,
        bytes: &[u8],
        prev: Option<Lsn>,
    ) -> (usize, RecordProgress) {
        if self.have == 0 {
            self.start = position;
        }
        if (self.have as usize) < RECORD_HEADER_BYTES {
            return self.consume_header(bytes, prev);
        }
        let consumed = bytes.len().min(self.remaining() as usize);
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes[..consumed]);
        if let Some(overwrite) = &mut self.overwrite {
            let have = self.have as usize - RECORD_HEADER_BYTES;
            overwrite.body[have..have + consumed].copy_from_slice(&bytes[..consumed]);
        }
        self.have += consumed as u32;
        (consumed, self.progress())
    }

    fn consume_header(&mut self, bytes: &[u8], prev: Option<Lsn>) -> (usize, RecordProgress) {
        let have = self.have as usize;
        let consumed = bytes.len().min(RECORD_HEADER_BYTES - have);
        self.header[have..have + consumed].copy_from_slice(&bytes[..consumed]);
        self.have += consumed as u32;
        if have < LENGTH_BYTES as usize && self.have >= LENGTH_BYTES {
            // As soon as it is here: the next page's header is checked against it.
            let total_bytes = u32_at(&self.header, 0);
            if total_bytes == 0 {
                return (consumed, RecordProgress::ZeroLength);
            }
            if let Err(problem) = check_total_bytes(total_bytes) {
                return (consumed, RecordProgress::Wrong(problem));
            }
        }
        if self.have as usize == RECORD_HEADER_BYTES
            && let Err(problem) = self.check_header(prev)
        {
            return (consumed, RecordProgress::Wrong(problem));
        }
        (consumed, self.progress())
    }

    fn check_header(&self, prev: Option<Lsn>) -> Result<(), RecordError> {
        let header = RecordHeader::parse(&self.header);
        header.check()?;
        let found = header.prev;
        match prev {
            Some(expected) if found != expected => Err(RecordError::Prev { expected, found }),
            None if found >= self.start => Err(RecordError::PrevNotBefore(found)),
            _ => self.check_kind(&header),
        }
    }

    /// Page and record tell of a record that was cut off, or neither does.
    fn check_kind(&self, header: &RecordHeader) -> Result<(), RecordError> {
        let has_length = header.total_bytes as usize == RECORD_HEADER_BYTES + OVERWRITE_BODY_BYTES;
        match self.overwrite {
            Some(_) if !header.is_overwrite() || !has_length => Err(RecordError::NotAnOverwrite),
            None if header.is_overwrite() => Err(RecordError::OverwritesNothing),
            _ => Ok(()),
        }
    }

    fn check_overwrite(&self) -> Result<(), RecordError> {
        let Some(Overwrite { cut_off, body }) = self.overwrite else { return Ok(()) };
        if body[..2] != OVERWRITE_DATA_HEADER {
            return Err(RecordError::NotAnOverwrite);
        }
        let named = Lsn(u64_at(&body, 2));
        let is_right = cut_off.map_or(named < self.start, |cut_off| named == cut_off);
        if is_right { Ok(()) } else { Err(RecordError::Overwrites(named)) }
    }

    fn progress(&self) -> RecordProgress {
        if (self.have as usize) < RECORD_HEADER_BYTES || self.remaining() > 0 {
            return RecordProgress::Partial;
        }
        let header = RecordHeader::parse(&self.header);
        let (computed, stored) = (record_checksum(&self.header, self.checksum), header.checksum);
        if computed != stored {
            return RecordProgress::Wrong(RecordError::Checksum { computed, stored });
        }
        match self.check_overwrite() {
            Ok(()) => RecordProgress::Whole { is_switch: header.is_switch() },
            Err(problem) => RecordProgress::Wrong(problem),
        }
    }
}

/// A switch is as long as its header, of which at least 8 bytes are on the page where it begins.
const SWITCH_CONTINUATION_BYTES_MAX: u32 = 16;

/// The rest of a record that began before the scan. There is nothing to check it by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Continuation {
    left: u32,
    /// Its last bytes, if it is as short as the rest of a switch.
    tail: Option<[u8; 8]>,
}

impl Continuation {
    /// `left` bytes are to come.
    pub(crate) fn new(left: u32) -> Self {
        Self { left, tail: (left <= SWITCH_CONTINUATION_BYTES_MAX).then_some([0; 8]) }
    }

    /// Bytes still to come.
    pub(crate) fn remaining(&self) -> u32 {
        self.left
    }

    /// Takes bytes, at most up to the record's end; says how many.
    pub(crate) fn consume(&mut self, bytes: &[u8]) -> usize {
        let consumed = bytes.len().min(self.left as usize);
        self.left -= consumed as u32;
        if let Some(tail) = &mut self.tail {
            for byte in &bytes[..consumed] {
                tail.rotate_left(1);
                tail[7] = *byte;
            }
        }
        consumed
    }

    /// A scan may begin in the header of a segment switch: the rest of it opens the segment, and zeros fill it. The
    /// last 8 bytes are then info, resource manager, two unused bytes, checksum. They may as well be the end of an
    /// ordinary record behind which the log ends. The zeros tell nothing, so neither end counts until more comes: a
    /// record right behind, or the next segment.
    pub(crate) fn may_be_switch(&self) -> bool {
        let Some(tail) = self.tail else { return false };
        let mut header = [0; RECORD_HEADER_BYTES];
        header[RECORD_HEADER_BYTES - 8..].copy_from_slice(&tail);
        RecordHeader::parse(&header).is_switch() && tail[2..4] == [0, 0]
    }
}
