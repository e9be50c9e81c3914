//! Truncation of the log: reserves room for it, and carries it out so that a crash at any step leaves a valid log.

use wal_types::{Lsn, SegmentNumber, Term};

use super::Writer;
use crate::disk::{Disk, unlink_if_there};
use crate::error::StoreError;
use crate::footer::Footer;

/// Name of the file that a truncation writes, until it replaces its segment.
const TRUNCATED: &str = "cut.unfinished";

impl<D: Disk> Writer<D> {
    /// Prepares the file for the segment that a truncation to `at` writes. Uses the spare segment, which the truncation
    /// would remove, if there is one: a full disk must not keep a node from following its proposer.
    pub(crate) fn reserve_truncation(&mut self, at: Lsn, term: Term) -> Result<(), StoreError> {
        if self.truncation_reserved || self.segments.offset_of(at) == 0 {
            return Ok(());
        }
        match self.spare_for_truncation(at) {
            Some(spare) => {
                let disk = &self.segments.disk;
                disk.rename(&self.segments.name(spare), TRUNCATED)
                    .map_err(StoreError::io("rename a segment"))?;
                self.present.remove(&spare);
                self.segments.disk.sync_dir().map_err(StoreError::io("sync the directory"))?;
            }
            None => {
                let number = self.segments.number_of(at);
                let footer = Footer::first(&self.segments.lineage, number, term, Lsn::INVALID);
                self.segments.create_blank_or_reserved(TRUNCATED, &footer, 0)?;
            }
        }
        self.truncation_reserved = true;
        Ok(())
    }

    /// The spare segment that the next [`Writer::reserve_truncation`] would use, if any.
    pub(crate) fn spare_for_truncation(&self, at: Lsn) -> Option<SegmentNumber> {
        let wants_one = !self.truncation_reserved && self.segments.offset_of(at) != 0;
        self.spare().filter(|_| wants_one)
    }

    /// Durably removes every byte at and above `at`. [`Writer::reserve_truncation`] was called.
    ///
    /// A crash at any step leaves the old log, perhaps shorter, or the truncated one: the new file is whole before the
    /// first segment is removed, segments are removed from the highest down, and the truncated one is replaced by a
    /// rename. Nothing is overwritten in place: the rest of a dead tail in a file could be found again behind new records
    /// of the same layout.
    pub(crate) fn truncate(&mut self, at: Lsn, term: Term) -> Result<(), StoreError> {
        // The footers that hold the acknowledged position may be removed with their segments.
        self.flush_footer(at, term)?;
        self.open.clear();

        let last = self.segments.number_of(at);
        let within = self.segments.offset_of(at) != 0;
        if within {
            self.reserve_truncation(at, term)?;
            let blank = self.segments.disk.open(TRUNCATED).map_err(StoreError::io("open a blank segment"))?;
            self.segments.copy_wal(&blank, at, &Footer::first(&self.segments.lineage, last, term, at))?;
        }

        self.remove_segments_from(at)?;
        if within {
            self.segments.rename_durably(TRUNCATED, last)?;
        } else {
            unlink_if_there(&self.segments.disk, TRUNCATED)
                .map_err(StoreError::io("remove a blank segment"))?;
        }

        self.truncation_reserved = false;
        self.covered_upto = self.covered_upto.min(at);
        self.end = at;
        Ok(())
    }

    /// Removes segments from the highest down to `at`: a crash in between leaves no hole.
    pub(super) fn remove_segments_from(&mut self, at: Lsn) -> Result<(), StoreError> {
        while let Some(&last) = self.present.last()
            && self.segments.start_of(last) >= at
        {
            self.segments.remove(last)?;
            self.present.remove(&last);
        }
        Ok(())
    }
}
