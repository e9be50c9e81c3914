//! [`PartialRecord`] and [`Continuation`]: parse the record that a scan is in, as far as it was fed.
//!
//! Part of the scanner. Only the record's own bytes are checked here; the scanner checks pages, and what is behind it.

use wal_types::Lsn;

use crate::page::{u32_at, u64_at};
use crate::record::{RECORD_HEADER_BYTES, RecordError, RecordHeader, check_total_bytes, record_checksum};

/// Length of the field `xl_tot_len`, the first of a record.
const LENGTH_BYTES: u32 = 4;

/// A record that begins within the scan. Keeps its header and a running checksum, not its body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartialRecord {
    /// Position of the first byte.
    start: Lsn,
    /// The header, as far as it was fed.
    header: [u8; RECORD_HEADER_BYTES],
    /// Bytes of header and body that were fed; zero between records.
    have: u32,
    /// CRC-32C of the body so far.
    checksum: u32,
    /// Set when the page says that this record overwrites a partial one.
    overwrite: Option<Overwrite>,
}

/// What an overwrite record has to contain (`xl_overwrite_contrecord` in PostgreSQL's `access/xlog_internal.h`). A server
/// that recovers stops at any other record there.
#[derive(Clone, Copy, Debug)]
struct Overwrite {
    /// Start of the record that was left partial, if the scan has seen it.
    partial_start: Option<Lsn>,
    /// The body, as far as it was fed.
    body: [u8; OVERWRITE_BODY_BYTES],
}

/// Mark and length of the main data, start of the partial record, time.
const OVERWRITE_BODY_BYTES: usize = 18;
const OVERWRITE_DATA_HEADER: [u8; 2] = [255, 16];

/// State of a [`PartialRecord`] after some bytes.
pub(crate) enum RecordProgress {
    /// The record needs more bytes.
    Partial,
    /// The record is complete, and its checksum is right.
    Whole { is_switch: bool },
    /// The length is zero: no record begins here.
    ZeroLength,
    /// The bytes are not a record, or not the one that belongs here.
    Wrong(RecordError),
}

impl PartialRecord {
    /// A record of which no byte was fed. It begins at `start`, or behind the header of a page that begins there.
    pub(crate) const fn at(start: Lsn) -> Self {
        Self { start, header: [0; RECORD_HEADER_BYTES], have: 0, checksum: 0, overwrite: None }
    }

    /// [`PartialRecord::at`] on a page that ends the partial record at `partial_start`.
    pub(crate) const fn overwriting(start: Lsn, partial_start: Option<Lsn>) -> Self {
        let overwrite = Overwrite { partial_start, body: [0; OVERWRITE_BODY_BYTES] };
        Self { overwrite: Some(overwrite), ..Self::at(start) }
    }

    /// Position of the first byte.
    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    /// The header, as far as it was fed.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header[..RECORD_HEADER_BYTES.min(self.have as usize)]
    }

    /// Bytes that are missing; zero between records. Asked at page boundaries, which never split the length field.
    pub(crate) fn remaining(&self) -> u32 {
        if self.have == 0 { 0 } else { u32_at(&self.header, 0) - self.have }
    }

    /// Consumes bytes at `position`, at most up to the end of the header or of the record; returns how many. `prev` is the
    /// start of the record before, if that is known.
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
            // Checked at once, because the next page's header is checked against the length.
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

    /// Checks that page and record agree whether the record overwrites a partial one.
    fn check_kind(&self, header: &RecordHeader) -> Result<(), RecordError> {
        let has_length = header.total_bytes as usize == RECORD_HEADER_BYTES + OVERWRITE_BODY_BYTES;
        match self.overwrite {
            Some(_) if !header.is_overwrite() || !has_length => Err(RecordError::NotAnOverwrite),
            None if header.is_overwrite() => Err(RecordError::OverwritesNothing),
            _ => Ok(()),
        }
    }

    /// Checks that an overwrite record names the partial record.
    fn check_overwrite(&self) -> Result<(), RecordError> {
        let Some(Overwrite { partial_start, body }) = self.overwrite else { return Ok(()) };
        if body[..2] != OVERWRITE_DATA_HEADER {
            return Err(RecordError::NotAnOverwrite);
        }
        let named = Lsn(u64_at(&body, 2));
        let is_right = partial_start.map_or(named < self.start, |partial_start| named == partial_start);
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

/// A switch is as long as its header, and at least 8 bytes of that are on the page where it begins.
const SWITCH_CONTINUATION_BYTES_MAX: u32 = 16;

/// The rest of a record that began before the scan. Its checksum was before the scan, so it cannot be checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Continuation {
    /// Bytes that are missing.
    left: u32,
    /// The last bytes, if the rest is short enough to be that of a switch.
    tail: Option<[u8; 8]>,
}

impl Continuation {
    /// A rest of `left` bytes.
    pub(crate) fn new(left: u32) -> Self {
        Self { left, tail: (left <= SWITCH_CONTINUATION_BYTES_MAX).then_some([0; 8]) }
    }

    /// Bytes that are missing.
    pub(crate) fn remaining(&self) -> u32 {
        self.left
    }

    /// Consumes bytes, at most up to the end of the record; returns how many.
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

    /// True when the rest may be that of a segment switch.
    ///
    /// A scan may begin in the header of a switch: the rest of the header opens the segment, and zeros fill the segment.
    /// The last 8 bytes are then info, resource manager, two unused bytes and checksum. They may as well be the end of
    /// an ordinary record behind which the log ends. The zeros do not decide it, so neither end counts until more bytes
    /// come: a record right behind, or the next segment.
    pub(crate) fn may_be_switch(&self) -> bool {
        let Some(tail) = self.tail else { return false };
        let mut header = [0; RECORD_HEADER_BYTES];
        header[RECORD_HEADER_BYTES - 8..].copy_from_slice(&tail);
        RecordHeader::parse(&header).is_switch() && tail[2..4] == [0, 0]
    }
}
