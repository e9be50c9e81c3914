//! [`Segments`]: the segment files of one log: what they are called, how one comes into being, how it is read.
//!
//! A file is the segment's WAL, all of it, then one page with [footers](crate::footer). It gets its name only when
//! every byte of it is written and synced, so there is no short file and no file whose first `fdatasync` would have to
//! write down where its blocks are. The PostgreSQL timeline in a name is always 1: WAL of several PostgreSQL timelines
//! lies in one log, and which is where is told by the term history.
//!
//! Not here: the order in which files are made and removed ([`crate::writer`], [`crate::recover`]).

use std::collections::BTreeSet;
use std::io;

use consensus::Lineage;
use wal_format::SegmentName;
use wal_types::{Lsn, SegmentNumber, Tli};

use crate::disk::{Disk, DiskFile, unlink_if_there};
use crate::error::{Corruption, StoreError};
use crate::footer::{FOOTER_PAGE_BYTES, Footer};

/// What files are called before they have a name of their own. A crash may leave them; nobody misses them.
pub(crate) const UNFINISHED_SUFFIX: &str = ".unfinished";
const NEW_SEGMENT: &str = "segment.unfinished";
const COPY_BYTES: usize = 64 * 1024;
static ZEROS: [u8; COPY_BYTES] = [0; COPY_BYTES];

/// The segment files of one log.
#[derive(Clone, Debug)]
pub(crate) struct Segments<D> {
    pub(crate) disk: D,
    pub(crate) lineage: Lineage,
}

impl<D: Disk> Segments<D> {
    /// What the file of a segment is called.
    pub(crate) fn name(&self, segment: SegmentNumber) -> String {
        SegmentName { tli: Tli::FIRST, segment, size: self.lineage.segment_size }.to_string()
    }

    /// Which segments have a file.
    pub(crate) fn list(&self) -> io::Result<BTreeSet<SegmentNumber>> {
        let number = |name: String| {
            SegmentName::parse(&name, self.lineage.segment_size)
                .ok()
                .filter(|parsed| parsed.tli == Tli::FIRST)
                .map(|parsed| parsed.segment)
        };
        Ok(self.disk.list()?.into_iter().filter_map(number).collect())
    }

    pub(crate) fn number_of(&self, lsn: Lsn) -> SegmentNumber {
        self.lineage.segment_size.segment_of(lsn)
    }

    pub(crate) fn start_of(&self, segment: SegmentNumber) -> Lsn {
        self.lineage.segment_size.start_of(segment)
    }

    /// Where the WAL in a segment's file ends and the footers begin.
    pub(crate) fn wal_bytes(&self) -> u64 {
        self.lineage.segment_size.bytes().into()
    }

    pub(crate) fn offset_of(&self, lsn: Lsn) -> u64 {
        self.lineage.segment_size.offset_of(lsn).into()
    }

    /// Opens a segment's file, which must have the length that it was given.
    pub(crate) fn open(&self, segment: SegmentNumber) -> Result<D::File, StoreError> {
        let file = self.disk.open(&self.name(segment)).map_err(StoreError::io("open a segment"))?;
        let found = file.len().map_err(StoreError::io("look at a segment"))?;
        let expected = self.wal_bytes() + FOOTER_PAGE_BYTES;
        if found != expected {
            return Err(Corruption::SegmentLength { segment, expected, found }.into());
        }
        Ok(file)
    }

    /// A segment's newest footer.
    pub(crate) fn footer(&self, segment: SegmentNumber, file: &D::File) -> Result<Footer, StoreError> {
        let mut page = [0; FOOTER_PAGE_BYTES as usize];
        file.read_at(self.wal_bytes(), &mut page).map_err(StoreError::io("read a footer"))?;
        Ok(Footer::newest(&page, &self.lineage, segment).ok_or(Corruption::Footer(segment))?)
    }

    /// Writes a footer; durable with the next `sync_data`.
    pub(crate) fn write_footer(&self, file: &D::File, footer: &Footer) -> Result<(), StoreError> {
        let (at, slot) = footer.encode();
        file.write_at(self.wal_bytes() + at, &slot).map_err(StoreError::io("write a footer"))
    }

    /// Fills `buffer` with WAL from `from` on, which must lie in one segment.
    pub(crate) fn read(&self, from: Lsn, buffer: &mut [u8]) -> Result<(), StoreError> {
        debug_assert!(self.offset_of(from) + buffer.len() as u64 <= self.wal_bytes());
        let file = self.open(self.number_of(from))?;
        file.read_at(self.offset_of(from), buffer).map_err(StoreError::io("read WAL"))
    }

    /// Writes and syncs a file of zeros that can become any segment. It has no segment's name yet. What a failure
    /// leaves of it is removed.
    pub(crate) fn prepare(&self, name: &str, footer: &Footer) -> Result<D::File, StoreError> {
        unlink_if_there(&self.disk, name).map_err(StoreError::io("remove an unfinished file"))?;
        self.write_zeros(name, footer).map_err(|error| {
            // Already failing: what matters is the first error, and the file has no name that anybody reads.
            let _ = unlink_if_there(&self.disk, name);
            StoreError::io("preallocate a segment")(error)
        })
    }

    fn write_zeros(&self, name: &str, footer: &Footer) -> io::Result<D::File> {
        let file = self.disk.create(name)?;
        let end = self.wal_bytes() + FOOTER_PAGE_BYTES;
        let mut at = 0;
        while at < end {
            let part = (end - at).min(ZEROS.len() as u64) as usize;
            file.write_at(at, &ZEROS[..part])?;
            at += part as u64;
        }
        let (at, slot) = footer.encode();
        file.write_at(self.wal_bytes() + at, &slot)?;
        file.sync_data()?;
        Ok(file)
    }

    /// Preallocates a segment: durably there, nothing in it, nothing acknowledged.
    pub(crate) fn create(&self, segment: SegmentNumber, footer: &Footer) -> Result<(), StoreError> {
        self.prepare(NEW_SEGMENT, footer)?;
        self.rename_durably(NEW_SEGMENT, segment)
    }

    /// Writes the segment's WAL up to `upto`, and nothing else, to a file of zeros, with `footer`, and syncs it.
    pub(crate) fn fill(&self, blank: &D::File, upto: Lsn, footer: &Footer) -> Result<(), StoreError> {
        let bytes = upto.bytes_since(self.start_of(footer.segment));
        debug_assert!(bytes <= self.wal_bytes());
        let old = self.open(footer.segment)?;
        let mut buffer = vec![0; (bytes as usize).min(COPY_BYTES)];
        let mut at = 0;
        while at < bytes {
            let part = &mut buffer[..((bytes - at) as usize).min(COPY_BYTES)];
            old.read_at(at, part).map_err(StoreError::io("read WAL"))?;
            blank.write_at(at, part).map_err(StoreError::io("copy WAL"))?;
            at += part.len() as u64;
        }
        let mut page = [0; FOOTER_PAGE_BYTES as usize];
        let (slot_at, slot) = footer.encode();
        page[slot_at as usize..slot_at as usize + slot.len()].copy_from_slice(&slot);
        blank.write_at(self.wal_bytes(), &page).map_err(StoreError::io("write a footer"))?;
        blank.sync_data().map_err(StoreError::io("sync a segment"))
    }

    /// Builds a segment's file anew: its bytes up to `upto`, then zeros. What the page cache shows of the old file may
    /// not be on disk, and syncing that file again would not put it there.
    pub(crate) fn rebuild(&self, upto: Lsn, footer: &Footer) -> Result<(), StoreError> {
        let blank = self.prepare(NEW_SEGMENT, footer)?;
        self.fill(&blank, upto, footer)?;
        self.rename_durably(NEW_SEGMENT, footer.segment)
    }

    pub(crate) fn rename_durably(&self, from: &str, segment: SegmentNumber) -> Result<(), StoreError> {
        self.disk.rename(from, &self.name(segment)).map_err(StoreError::io("name a segment"))?;
        self.disk.sync_dir().map_err(StoreError::io("sync the directory"))
    }

    /// Durably removes a segment's file. One at a time: were two removals to reach the disk the other way round, the
    /// footer of the higher one would claim bytes that the lower one had.
    pub(crate) fn remove(&self, segment: SegmentNumber) -> Result<(), StoreError> {
        self.disk.unlink(&self.name(segment)).map_err(StoreError::io("remove a segment"))?;
        self.disk.sync_dir().map_err(StoreError::io("sync the directory"))
    }
}
