//! Segment files: creation, copies, names and removal.

use std::io;

use wal_types::{Lsn, SegmentNumber};

use super::{COPY_BYTES, Segments};
use crate::disk::{Disk, DiskFile, unlink_if_there};
use crate::error::StoreError;
use crate::footer::{FOOTER_PAGE_BYTES, Footer};

/// Name of a new segment's file until it is finished.
const NEW_SEGMENT: &str = "segment.unfinished";
/// Name of the next segment's file while another thread writes it, and until the log takes it.
const PREPARED: &str = "prepared.unfinished";
/// Name of the file of a removed segment that will become the next one.
const RECYCLED: &str = "recycled.unfinished";
/// Bytes of a blank file that are written before they are synced. A whole segment of dirty pages would delay the syncs of
/// every log on the disk.
const BLANK_STEP_BYTES: u64 = 1024 * 1024;
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

    /// [`Segments::create_blank`] for a log that neither votes nor serves before it has the file: a recovery or a truncation.
    /// On a full disk it takes room that was set aside, unless less than `leave` files would be left.
    pub(crate) fn create_blank_or_reserved(
        &self,
        name: &str,
        footer: &Footer,
        leave: usize,
    ) -> Result<D::File, StoreError> {
        let full = match self.create_blank(name, footer) {
            Err(error @ StoreError::Full { .. }) => error,
            other => return other,
        };
        let reserved = self.disk.create_from_reserve(name, self.file_bytes(), leave);
        let Some(file) = reserved.map_err(StoreError::io("take a file of the reserve"))? else {
            return Err(full);
        };
        self.write_blank(&file, footer).map_err(StoreError::io("clear a file of the reserve"))?;
        Ok(file)
    }

    fn write_zeros(&self, name: &str, footer: &Footer) -> io::Result<D::File> {
        let file = self.disk.create(name)?;
        self.write_blank(&file, footer)?;
        Ok(file)
    }

    /// Overwrites a file with zeros and one footer, and syncs it.
    fn write_blank(&self, file: &D::File, footer: &Footer) -> io::Result<()> {
        let end = self.file_bytes();
        let mut at = 0;
        while at < end {
            let part = (end - at).min(ZEROS.len() as u64) as usize;
            file.write_at(at, &ZEROS[..part])?;
            at += part as u64;
            if at.is_multiple_of(BLANK_STEP_BYTES) {
                file.sync_data()?;
            }
        }
        let (at, slot) = footer.encode();
        file.write_at(self.wal_bytes() + at, &slot)?;
        file.sync_data()
    }

    /// Takes the file of a removed segment out of the log, to become the next segment.
    ///
    /// The name may come back after a power failure. Nothing reads it then: it lies below the beginning of the log.
    pub(crate) fn set_aside(&self, old: SegmentNumber) -> Result<(), StoreError> {
        self.disk.rename(&self.name(old), RECYCLED).map_err(StoreError::io("rename a segment"))
    }

    /// Removes the file that waits to become the next segment, if there is one.
    pub(crate) fn remove_set_aside(&self) -> Result<(), StoreError> {
        unlink_if_there(&self.disk, RECYCLED).map_err(StoreError::io("remove an unfinished file"))
    }

    /// Writes the next segment's blank file, for [`Segments::adopt`]. With `recycle` it writes over the file of a removed
    /// segment, which needs no room.
    ///
    /// The old WAL is overwritten with zeros, although a scan refuses most of it: its page headers name lower positions,
    /// and so do the back links of its records. Two kinds of bytes are under no such check, the rest of a partial record
    /// and the rest of a switched segment, so old ones could pass for new ones. A footer in both slots would be needed to
    /// tell. And "only zeros are behind the end" is what recovery relies on.
    pub(crate) fn prepare(&self, footer: &Footer, recycle: bool) -> Result<(), StoreError> {
        if recycle && self.write_over_set_aside(footer)? {
            return Ok(());
        }
        self.disk.ensure_room().map_err(StoreError::io("preallocate a segment"))?;
        self.create_blank(PREPARED, footer).map(drop)
    }

    /// False when the file has a wrong length, or the file system needs room even to write over it. It is removed then.
    fn write_over_set_aside(&self, footer: &Footer) -> Result<bool, StoreError> {
        let recycle = || {
            let file = self.disk.open(RECYCLED)?;
            if file.len()? != self.wal_bytes() + FOOTER_PAGE_BYTES {
                return Ok(false);
            }
            self.disk.rename(RECYCLED, PREPARED)?;
            self.write_blank(&file, footer)?;
            Ok(true)
        };
        match recycle().map_err(StoreError::io("recycle a segment")) {
            Ok(true) => Ok(true),
            Ok(false) | Err(StoreError::Full { .. }) => self.remove_set_aside().map(|()| false),
            Err(error) => Err(error),
        }
    }

    /// Gives the blank file of [`Segments::prepare`] its name, durably.
    pub(crate) fn adopt(&self, segment: SegmentNumber) -> Result<(), StoreError> {
        self.rename_durably(PREPARED, segment)
    }

    /// Removes the blank file of [`Segments::prepare`].
    pub(crate) fn remove_prepared(&self) -> Result<(), StoreError> {
        unlink_if_there(&self.disk, PREPARED).map_err(StoreError::io("remove an unfinished file"))
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
        let blank = self.create_blank_or_reserved(NEW_SEGMENT, footer, 0)?;
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
        // The damaged file keeps its room, so the last file of the reserve stays for others.
        let blank = self.create_blank_or_reserved(NEW_SEGMENT, footer, 1)?;
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
