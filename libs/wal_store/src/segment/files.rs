//! Segment files: creation, copies, names and removal.

use std::io;

use wal_types::{Lsn, SegmentNumber};

use super::{COPY_BYTES, Segments};
use crate::disk::{Disk, DiskFile, unlink_if_there};
use crate::error::StoreError;
use crate::footer::{FOOTER_PAGE_BYTES, Footer};

/// Name of a new segment's file until it is finished.
const NEW_SEGMENT: &str = "segment.unfinished";
static ZEROS: [u8; COPY_BYTES] = [0; COPY_BYTES];

/// Part of the name of a damaged file. Such files are kept, and nothing is read from them.
const QUARANTINED: &str = ".quarantined.";
/// Damaged files that are kept, at most: an operator would not look at more.
const QUARANTINED_FILES_MAX: usize = 64;

impl<D: Disk> Segments<D> {
    /// Writes and syncs a blank file under a name that is no segment's. A failure removes what it wrote.
    pub(crate) fn create_blank(&self, name: &str, footer: &Footer) -> Result<D::File, StoreError> {
        unlink_if_there(&self.disk, name).map_err(StoreError::io("remove an unfinished file"))?;
        self.write_zeros(name, footer).map_err(|error| {
            // The first error is the one to report, and a file of this name is never read.
            let _ = unlink_if_there(&self.disk, name);
            StoreError::io("preallocate a segment")(error)
        })
    }

    fn write_zeros(&self, name: &str, footer: &Footer) -> io::Result<D::File> {
        let file = self.disk.create(name)?;
        self.write_blank(&file, footer)?;
        Ok(file)
    }

    /// Overwrites a file with zeros and one footer, and syncs it.
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

    /// Turns the file of `old`, which is not needed any more, into the file of another segment.
    ///
    /// The file loses its name before its content, and gets the new name after the new content. False when there was no
    /// room, or the file had a wrong length; then it is removed.
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
            // A file system that copies on write needs room even for this.
            Err(StoreError::Full { .. }) => {
                self.disk.unlink(NEW_SEGMENT).map_err(StoreError::io("remove an unfinished file"))?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Preallocates a segment: its blank file is durable, with a footer that covers nothing.
    pub(crate) fn create(&self, segment: SegmentNumber, footer: &Footer) -> Result<(), StoreError> {
        self.create_blank(NEW_SEGMENT, footer)?;
        self.rename_durably(NEW_SEGMENT, segment)
    }

    /// Copies the segment's WAL up to `upto` into a blank file, writes `footer`, and syncs the file.
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

    /// Replaces a segment's file by a new one: the WAL up to `upto`, then zeros. Bytes that the page cache shows of the old
    /// file may not be on the disk, and another sync of that file would not write them.
    pub(crate) fn rebuild(&self, upto: Lsn, footer: &Footer) -> Result<(), StoreError> {
        let blank = self.create_blank(NEW_SEGMENT, footer)?;
        self.copy_wal(&blank, upto, footer)?;
        self.rename_durably(NEW_SEGMENT, footer.segment)
    }

    /// Gives a file the name of a segment, durably.
    pub(crate) fn rename_durably(&self, from: &str, segment: SegmentNumber) -> Result<(), StoreError> {
        self.disk.rename(from, &self.name(segment)).map_err(StoreError::io("name a segment"))?;
        self.disk.sync_dir().map_err(StoreError::io("sync the directory"))
    }

    /// [`Segments::rebuild`] that quarantines the old file.
    pub(crate) fn rebuild_and_quarantine(&self, upto: Lsn, footer: &Footer) -> Result<(), StoreError> {
        let blank = self.create_blank(NEW_SEGMENT, footer)?;
        self.copy_wal(&blank, upto, footer)?;
        self.quarantine(footer.segment)?;
        self.rename_durably(NEW_SEGMENT, footer.segment)
    }

    /// Gives a damaged file a name that nothing reads; durable with the next sync of the directory. Deletes it when
    /// [`QUARANTINED_FILES_MAX`] are kept already.
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

    /// Names of the quarantined files.
    pub(crate) fn quarantined_names(&self) -> Result<Vec<String>, StoreError> {
        let names = self.disk.list().map_err(StoreError::io("list the directory"))?;
        Ok(names.into_iter().filter(|name| name.contains(QUARANTINED)).collect())
    }

    /// Durably removes segments that are not needed any more, in any order, with one sync of the directory.
    pub(crate) fn remove_all(&self, segments: impl Iterator<Item = SegmentNumber>) -> Result<(), StoreError> {
        let mut removed = false;
        for segment in segments {
            self.disk.unlink(&self.name(segment)).map_err(StoreError::io("remove a segment"))?;
            removed = true;
        }
        if removed { self.disk.sync_dir().map_err(StoreError::io("sync the directory")) } else { Ok(()) }
    }

    /// Durably removes one segment's file. Each removal has its own sync: if two removals reached the disk in the other
    /// order, the footer of the higher segment would cover bytes that the lower one had held.
    pub(crate) fn remove(&self, segment: SegmentNumber) -> Result<(), StoreError> {
        self.disk.unlink(&self.name(segment)).map_err(StoreError::io("remove a segment"))?;
        self.disk.sync_dir().map_err(StoreError::io("sync the directory"))
    }
}
