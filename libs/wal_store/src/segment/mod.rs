//! [`Segments`]: the segment files of one log: names, positions and reads. [`files`] creates, renames and removes them.
//!
//! ```text
//! segment file │ WAL of the whole segment, zeros behind the end of the log │ footer page of 4 KiB │
//! ```
//!
//! A file gets its name only when every byte of it is written and synced. So there is no short file, and no file whose
//! first `fdatasync` would have to write metadata for new blocks. The PostgreSQL timeline in a name is always 1: one log
//! holds the WAL of several PostgreSQL timelines, and the term history says which is where.
//!
//! Not here: the order in which files are made and removed ([`crate::writer`], [`crate::recover`]).

mod files;

use std::collections::BTreeSet;
use std::io;

use consensus::Lineage;
use wal_format::SegmentName;
use wal_types::{Lsn, SegmentNumber, Tli};

use crate::disk::{Disk, DiskFile};
use crate::error::{Corruption, StoreError};
use crate::footer::{FOOTER_PAGE_BYTES, Footer};

/// Ending of the names of files that are not finished. A crash may leave them; a recovery removes them.
pub(crate) const UNFINISHED_SUFFIX: &str = ".unfinished";
/// Bytes that are read or written at once.
const COPY_BYTES: usize = 64 * 1024;

/// What to do about a part of a segment's file that the disk refuses to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnreadablePolicy {
    /// Return an error: a later read may succeed.
    Fail,
    /// Treat the part as absent: it was tried often enough.
    TreatAsLost,
}

/// The segment files of one log. Opens a file for each call and keeps none.
#[derive(Clone, Debug)]
pub(crate) struct Segments<D> {
    pub(crate) disk: D,
    pub(crate) lineage: Lineage,
    /// Where the log begins now; the start of a segment.
    pub(crate) oldest_lsn: Lsn,
    pub(crate) unreadable: UnreadablePolicy,
}

impl<D: Disk> Segments<D> {
    /// Name of a segment's file.
    pub(crate) fn name(&self, segment: SegmentNumber) -> String {
        SegmentName { tli: Tli::FIRST, segment, size: self.lineage.segment_size }.to_string()
    }

    /// Segments that have a file.
    pub(crate) fn list(&self) -> io::Result<BTreeSet<SegmentNumber>> {
        let number = |name: String| {
            SegmentName::parse(&name, self.lineage.segment_size)
                .ok()
                .filter(|parsed| parsed.tli == Tli::FIRST)
                .map(|parsed| parsed.segment)
        };
        Ok(self.disk.list()?.into_iter().filter_map(number).collect())
    }

    /// The segment that holds `lsn`.
    pub(crate) fn number_of(&self, lsn: Lsn) -> SegmentNumber {
        self.lineage.segment_size.segment_of(lsn)
    }

    /// First position of a segment.
    pub(crate) fn start_of(&self, segment: SegmentNumber) -> Lsn {
        self.lineage.segment_size.start_of(segment)
    }

    /// Bytes of WAL in a segment's file: the offset of the footer page.
    pub(crate) fn wal_bytes(&self) -> u64 {
        self.lineage.segment_size.bytes().into()
    }

    /// Length of a segment's file: its WAL and the footer page.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.wal_bytes() + FOOTER_PAGE_BYTES
    }

    /// Offset of `lsn` in its segment's file.
    pub(crate) fn offset_of(&self, lsn: Lsn) -> u64 {
        self.lineage.segment_size.offset_of(lsn).into()
    }

    /// End of the last segment of a log that ends at `end`.
    pub(crate) fn files_upto(&self, end: Lsn) -> Lsn {
        end.align_up(self.wal_bytes()).max(self.oldest_lsn)
    }

    /// Opens a segment's file. A file of the wrong length is [`Corruption::SegmentLength`].
    pub(crate) fn open(&self, segment: SegmentNumber) -> Result<D::File, StoreError> {
        let file = self.disk.open(&self.name(segment)).map_err(StoreError::io("open a segment"))?;
        let found = file.len().map_err(StoreError::io("read the length of a segment"))?;
        let expected = self.file_bytes();
        if found != expected {
            return Err(Corruption::SegmentLength { segment, expected, found }.into());
        }
        Ok(file)
    }

    /// Reads a segment's newest footer. [`Corruption::Footer`] when both slots are damaged.
    pub(crate) fn footer(&self, segment: SegmentNumber, file: &D::File) -> Result<Footer, StoreError> {
        let mut page = [0; FOOTER_PAGE_BYTES as usize];
        file.read_at(self.wal_bytes(), &mut page).map_err(StoreError::unreadable("read a footer"))?;
        Ok(Footer::newest(&page, &self.lineage, segment).ok_or(Corruption::Footer(segment))?)
    }

    /// Writes a footer into its slot; durable with the next `sync_data`.
    pub(crate) fn write_footer(&self, file: &D::File, footer: &Footer) -> Result<(), StoreError> {
        let (at, slot) = footer.encode();
        file.write_at(self.wal_bytes() + at, &slot).map_err(StoreError::io("write a footer"))
    }

    /// Fills `buffer` with WAL from `from` on. The range must lie in one segment.
    pub(crate) fn read(&self, from: Lsn, buffer: &mut [u8]) -> Result<(), StoreError> {
        debug_assert!(self.offset_of(from) + buffer.len() as u64 <= self.wal_bytes());
        let file = self.open(self.number_of(from))?;
        file.read_at(self.offset_of(from), buffer).map_err(StoreError::unreadable("read WAL"))
    }

    /// CRC-32C of the log between two positions, over any number of segments.
    pub(crate) fn checksum(&self, from: Lsn, to: Lsn) -> Result<u32, StoreError> {
        let mut buffer = vec![0; COPY_BYTES.min(self.wal_bytes() as usize)];
        let (mut at, mut checksum) = (from, 0);
        while at < to {
            let left_in_segment = self.wal_bytes() - self.offset_of(at);
            let count = left_in_segment.min(to.bytes_since(at)).min(buffer.len() as u64) as usize;
            self.read(at, &mut buffer[..count])?;
            checksum = crc32c::crc32c_append(checksum, &buffer[..count]);
            at = at.advance(count as u64);
        }
        Ok(checksum)
    }

    /// True when the segment's file holds only zeros behind `end`.
    pub(crate) fn is_zero_behind(&self, segment: SegmentNumber, end: Lsn) -> Result<bool, StoreError> {
        let file = self.open(segment)?;
        let mut at = end.bytes_since(self.start_of(segment));
        let mut buffer = vec![0; COPY_BYTES.min((self.wal_bytes() - at) as usize)];
        while at < self.wal_bytes() {
            let part = &mut buffer[..((self.wal_bytes() - at) as usize).min(COPY_BYTES)];
            match file.read_at(at, part) {
                Ok(()) => {}
                Err(_) if self.unreadable == UnreadablePolicy::TreatAsLost => return Ok(false),
                Err(error) => return Err(StoreError::unreadable("read WAL")(error)),
            }
            if part.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            at += part.len() as u64;
        }
        Ok(true)
    }
}
