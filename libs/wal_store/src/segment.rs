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

/// What files are called whose content is damaged. They are kept, and nothing is read from them.
const QUARANTINED: &str = ".quarantined.";
/// Damaged files that are kept; of more than these nobody will look at each.
const QUARANTINED_FILES_MAX: usize = 64;

/// What a part of a segment's file is that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnreadablePolicy {
    /// An error: it may be readable the next time.
    Fail,
    /// It was tried often enough: as if it were not there.
    TreatAsLost,
}

/// The segment files of one log.
#[derive(Clone, Debug)]
pub(crate) struct Segments<D> {
    pub(crate) disk: D,
    pub(crate) lineage: Lineage,
    /// Where the log begins.
    pub(crate) oldest_lsn: Lsn,
    pub(crate) unreadable: UnreadablePolicy,
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

    /// End of the segment that a log that ends at `end` ends in.
    pub(crate) fn files_upto(&self, end: Lsn) -> Lsn {
        end.align_up(self.wal_bytes()).max(self.oldest_lsn)
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
        file.read_at(self.wal_bytes(), &mut page).map_err(StoreError::unreadable("read a footer"))?;
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
        file.read_at(self.offset_of(from), buffer).map_err(StoreError::unreadable("read WAL"))
    }

    /// CRC-32C of a part of the log.
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

    /// Writes and syncs a file of zeros that can become any segment. It has no segment's name yet. What a failure
    /// leaves of it is removed.
    pub(crate) fn create_blank(&self, name: &str, footer: &Footer) -> Result<D::File, StoreError> {
        unlink_if_there(&self.disk, name).map_err(StoreError::io("remove an unfinished file"))?;
        self.write_zeros(name, footer).map_err(|error| {
            // Already failing: what matters is the first error, and the file has no name that anybody reads.
            let _ = unlink_if_there(&self.disk, name);
            StoreError::io("preallocate a segment")(error)
        })
    }

    fn write_zeros(&self, name: &str, footer: &Footer) -> io::Result<D::File> {
        let file = self.disk.create(name)?;
        self.write_blank(&file, footer)?;
        Ok(file)
    }

    /// Makes a file that of a segment with nothing in it.
    fn write_blank(&self, file: &D::File, footer: &Footer) -> io::Result<()> {
        let end = self.wal_bytes() + FOOTER_PAGE_BYTES;
        let mut at = 0;
        while at < end {
            let part = (end - at).min(ZEROS.len() as u64) as usize;
            file.write_at(at, &ZEROS[..part])?;
            at += part as u64;
        }
        let (at, slot) = footer.encode();
        file.write_at(self.wal_bytes() + at, &slot)?;
        file.sync_data()
    }

    /// Makes another segment's file of that of `old`, of which nothing is needed any more. It loses its name before its
    /// content, and gets the new one after it. False when there was no room, or no file of the right length; then it is
    /// just gone.
    pub(crate) fn recycle(&self, old: SegmentNumber, footer: &Footer) -> Result<bool, StoreError> {
        debug_assert!(old < footer.segment);
        let file = match self.open(old) {
            Ok(file) => file,
            Err(StoreError::Corrupt(_)) => return self.remove_all([old].into_iter()).map(|()| false),
            Err(error) => return Err(error),
        };
        self.disk.rename(&self.name(old), NEW_SEGMENT).map_err(StoreError::io("rename a segment"))?;
        match self.write_blank(&file, footer).map_err(StoreError::io("recycle a segment")) {
            Ok(()) => self.rename_durably(NEW_SEGMENT, footer.segment).map(|()| true),
            // Where nothing is overwritten in place even this needs room.
            Err(StoreError::Full { .. }) => {
                self.disk.unlink(NEW_SEGMENT).map_err(StoreError::io("remove an unfinished file"))?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Preallocates a segment: durably there, nothing in it, nothing acknowledged.
    pub(crate) fn create(&self, segment: SegmentNumber, footer: &Footer) -> Result<(), StoreError> {
        self.create_blank(NEW_SEGMENT, footer)?;
        self.rename_durably(NEW_SEGMENT, segment)
    }

    /// Writes the segment's WAL up to `upto`, and nothing else, to a file of zeros, with `footer`, and syncs it.
    pub(crate) fn copy_wal(&self, blank: &D::File, upto: Lsn, footer: &Footer) -> Result<(), StoreError> {
        let bytes = upto.bytes_since(self.start_of(footer.segment));
        debug_assert!(bytes <= self.wal_bytes());
        let old = self.open(footer.segment)?;
        let mut buffer = vec![0; (bytes as usize).min(COPY_BYTES)];
        let mut at = 0;
        while at < bytes {
            let part = &mut buffer[..((bytes - at) as usize).min(COPY_BYTES)];
            old.read_at(at, part).map_err(StoreError::unreadable("read WAL"))?;
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
        let blank = self.create_blank(NEW_SEGMENT, footer)?;
        self.copy_wal(&blank, upto, footer)?;
        self.rename_durably(NEW_SEGMENT, footer.segment)
    }

    pub(crate) fn rename_durably(&self, from: &str, segment: SegmentNumber) -> Result<(), StoreError> {
        self.disk.rename(from, &self.name(segment)).map_err(StoreError::io("name a segment"))?;
        self.disk.sync_dir().map_err(StoreError::io("sync the directory"))
    }

    /// The same, and the old file is put aside.
    pub(crate) fn rebuild_and_quarantine(&self, upto: Lsn, footer: &Footer) -> Result<(), StoreError> {
        let blank = self.create_blank(NEW_SEGMENT, footer)?;
        self.copy_wal(&blank, upto, footer)?;
        self.quarantine(footer.segment)?;
        self.rename_durably(NEW_SEGMENT, footer.segment)
    }

    /// Gives a damaged file a name that no other has; durable with the next sync of the directory.
    pub(crate) fn quarantine(&self, segment: SegmentNumber) -> Result<(), StoreError> {
        let name = self.name(segment);
        let taken = self.quarantined_names()?;
        if taken.len() >= QUARANTINED_FILES_MAX {
            return self.disk.unlink(&name).map_err(StoreError::io("remove a segment"));
        }
        let mut names = (1..=QUARANTINED_FILES_MAX).map(|number| format!("{name}{QUARANTINED}{number}"));
        let free = names.find(|name| !taken.contains(name)).expect("more numbers than names that are taken");
        self.disk.rename(&name, &free).map_err(StoreError::io("put a damaged segment aside"))
    }

    /// Names of damaged files.
    pub(crate) fn quarantined_names(&self) -> Result<Vec<String>, StoreError> {
        let names = self.disk.list().map_err(StoreError::io("list the directory"))?;
        Ok(names.into_iter().filter(|name| name.contains(QUARANTINED)).collect())
    }

    /// Durably removes segments of which nothing is needed any more, in any order.
    pub(crate) fn remove_all(&self, segments: impl Iterator<Item = SegmentNumber>) -> Result<(), StoreError> {
        let mut removed = false;
        for segment in segments {
            self.disk.unlink(&self.name(segment)).map_err(StoreError::io("remove a segment"))?;
            removed = true;
        }
        if removed { self.disk.sync_dir().map_err(StoreError::io("sync the directory")) } else { Ok(()) }
    }

    /// Durably removes a segment's file. One at a time: were two removals to reach the disk the other way round, the
    /// footer of the higher one would claim bytes that the lower one had.
    pub(crate) fn remove(&self, segment: SegmentNumber) -> Result<(), StoreError> {
        self.disk.unlink(&self.name(segment)).map_err(StoreError::io("remove a segment"))?;
        self.disk.sync_dir().map_err(StoreError::io("sync the directory"))
    }
}
