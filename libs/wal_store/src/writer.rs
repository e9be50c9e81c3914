//! [`Writer`]: the growing end of the log.
//!
//! Room is made before anybody decides anything (`reserve`, `reserve_truncation`), so that the steps that may not fail have
//! no need of it. A failure of `write`, `flush` or `cut` leaves a state that only a recovery from the disk can tell:
//! the writer must be thrown away, and nothing that it wrote may be acknowledged.
//!
//! Every byte is written before its segment is synced, and of two segments the older is synced first.

use std::collections::BTreeSet;

use wal_types::{Lsn, SegmentNumber, Term};

use crate::disk::{Disk, DiskFile, unlink_if_there};
use crate::error::{Misuse, StoreError};
use crate::footer::Footer;
use crate::segment::{Segments, UnreadablePolicy};

/// A blank file for the segment that a cut writes.
const TRUNCATED: &str = "cut.unfinished";

/// The growing end of the log.
pub(crate) struct Writer<D: Disk> {
    segments: Segments<D>,
    /// Segments whose files are durably there.
    present: BTreeSet<SegmentNumber>,
    /// Files that are written, ascending. What is not the last one is closed at the next flush.
    open: Vec<OpenSegment<D::File>>,
    end: Lsn,
    /// Highest position that a durable footer says was acknowledged.
    covered_upto: Lsn,
    truncation_reserved: bool,
}

struct OpenSegment<F> {
    number: SegmentNumber,
    file: F,
    footer: Footer,
    dirty: bool,
}

impl<D: Disk> Writer<D> {
    /// At the end of a recovered log: nothing but zeros is behind `end`.
    pub(crate) fn new(segments: Segments<D>, present: BTreeSet<SegmentNumber>, end: Lsn) -> Self {
        Self {
            segments,
            present,
            open: Vec::new(),
            end,
            covered_upto: Lsn::INVALID,
            truncation_reserved: false,
        }
    }

    pub(crate) fn segments(&self) -> &Segments<D> {
        &self.segments
    }

    /// The log was recovered: from now on a read that fails is an error.
    pub(crate) fn require_readable(&mut self) {
        self.segments.unreadable = UnreadablePolicy::Fail;
    }

    /// End of the last segment that has a file.
    pub(crate) fn files_upto(&self) -> Lsn {
        let last = self.present.last();
        last.map_or(self.segments.oldest_lsn, |&last| self.segments.start_of(last + 1))
    }

    /// The cluster became known.
    pub(crate) fn set_lineage(&mut self, lineage: consensus::Lineage) {
        self.segments.lineage = lineage;
    }

    /// Behind the last byte that was written.
    pub(crate) fn end(&self) -> Lsn {
        self.end
    }

    /// Highest position of which a durable footer says that all below was complete; zero when none was written yet.
    pub(crate) fn covered_upto(&self) -> Lsn {
        self.covered_upto
    }

    /// True when something was written that is not synced.
    pub(crate) fn is_dirty(&self) -> bool {
        self.open.iter().any(|segment| segment.dirty)
    }

    /// Makes sure that there are segments for all bytes below `upto`.
    pub(crate) fn reserve(&mut self, upto: Lsn, term: Term) -> Result<(), StoreError> {
        if upto <= self.end {
            return Ok(());
        }
        let last = self.segments.number_of(Lsn(upto.0 - 1));
        for number in self.segments.number_of(self.end)..=last {
            self.ensure_segment(number, term)?;
        }
        Ok(())
    }

    /// Preallocates the next segment when the one that is written is half full, so that the change costs an append
    /// nothing. For a log that is being written; an idle one needs none.
    pub(crate) fn prepare_spare(&mut self, term: Term) -> Result<(), StoreError> {
        if self.segments.offset_of(self.end) <= self.segments.wal_bytes() / 2 {
            return Ok(());
        }
        self.ensure_segment(self.segments.number_of(self.end) + 1, term)
    }

    fn ensure_segment(&mut self, number: SegmentNumber, term: Term) -> Result<(), StoreError> {
        if !self.present.contains(&number) {
            // Nothing is acknowledged in it, and what is below has footers of its own.
            let footer = Footer::first(&self.segments.lineage, number, term, Lsn::INVALID);
            self.segments.create(number, &footer)?;
            self.present.insert(number);
        }
        Ok(())
    }

    /// Makes sure that there is room for the segment that a cut at `at` writes. A spare segment, which the cut would
    /// remove, serves: a full disk must not keep a node from following its proposer.
    pub(crate) fn reserve_truncation(&mut self, at: Lsn, term: Term) -> Result<(), StoreError> {
        if self.truncation_reserved || self.segments.offset_of(at) == 0 {
            return Ok(());
        }
        match self.spare_for_truncation(at) {
            Some(spare) => {
                let disk = &self.segments.disk;
                disk.rename(&self.segments.name(spare), TRUNCATED)
                    .map_err(StoreError::io("rename a segment"))?;
                disk.sync_dir().map_err(StoreError::io("sync the directory"))?;
                self.present.remove(&spare);
            }
            None => {
                let number = self.segments.number_of(at);
                let footer = Footer::first(&self.segments.lineage, number, term, Lsn::INVALID);
                self.segments.create_blank(TRUNCATED, &footer)?;
            }
        }
        self.truncation_reserved = true;
        Ok(())
    }

    /// The spare segment that the next [`Writer::reserve_truncation`] takes away, if it takes one.
    pub(crate) fn spare_for_truncation(&self, at: Lsn) -> Option<SegmentNumber> {
        let wants_one = !self.truncation_reserved && self.segments.offset_of(at) != 0;
        self.spare().filter(|_| wants_one)
    }

    /// The highest segment, if nothing was ever written to it.
    fn spare(&self) -> Option<SegmentNumber> {
        self.present.last().copied().filter(|&last| self.segments.start_of(last) >= self.end)
    }

    /// Writes at the end. Durable with the next flush.
    pub(crate) fn write(&mut self, at: Lsn, wal: &[u8]) -> Result<(), StoreError> {
        if at != self.end {
            return Err(Misuse::WriteNotAtEnd { at, end: self.end }.into());
        }
        let mut left = wal;
        while !left.is_empty() {
            let offset = self.segments.offset_of(self.end);
            let (now, later) = left.split_at(left.len().min((self.segments.wal_bytes() - offset) as usize));
            let segment = self.open_segment(self.segments.number_of(self.end))?;
            segment.dirty = true;
            segment.file.write_at(offset, now).map_err(StoreError::io("write WAL"))?;
            self.end = self.end.advance(now.len() as u64);
            left = later;
        }
        Ok(())
    }

    fn open_segment(&mut self, number: SegmentNumber) -> Result<&mut OpenSegment<D::File>, StoreError> {
        if self.open.last().is_none_or(|last| last.number != number) {
            if !self.present.contains(&number) {
                return Err(Misuse::SegmentNotReserved(number).into());
            }
            let file = self.segments.open(number)?;
            let footer = self.segments.footer(number, &file)?;
            self.open.push(OpenSegment { number, file, footer, dirty: false });
        }
        Ok(self.open.last_mut().expect("pushed above, or there before"))
    }

    /// Makes everything that was written durable, and with it that `acked_upto` was acknowledged before. No byte of
    /// a batch can take part in what its own footer promises.
    pub(crate) fn flush(&mut self, acked_upto: Lsn, term: Term) -> Result<(), StoreError> {
        for segment in self.open.iter_mut().filter(|segment| segment.dirty) {
            segment.footer.sequence += 1;
            segment.footer.term = term;
            segment.footer.acked_upto = acked_upto;
            self.segments.write_footer(&segment.file, &segment.footer)?;
        }
        for segment in self.open.iter_mut().filter(|segment| segment.dirty) {
            segment.file.sync_data().map_err(StoreError::io("sync a segment"))?;
            segment.dirty = false;
        }
        self.covered_upto = self.covered_upto.max(acked_upto);
        self.open.drain(..self.open.len().saturating_sub(1));
        Ok(())
    }

    /// Tells the footers of an idle log that its last batch was acknowledged, too. Everything must be flushed.
    pub(crate) fn flush_footer(&mut self, acked_upto: Lsn, term: Term) -> Result<(), StoreError> {
        debug_assert!(!self.is_dirty());
        if acked_upto <= self.segments.oldest_lsn {
            return Ok(());
        }
        let number = self.segments.number_of(Lsn(acked_upto.0 - 1));
        if self.open.last().is_none_or(|last| last.number != number) {
            self.open.clear();
        }
        // What a footer was read to say may be in the page cache only: this writer believes its own syncs.
        let unsynced = self.covered_upto < acked_upto;
        let segment = self.open_segment(number)?;
        if unsynced || segment.footer.acked_upto < acked_upto {
            segment.dirty = true;
            self.flush(acked_upto, term)?;
        }
        Ok(())
    }

    /// Says in **both** footers that everything up to `acked_upto` is complete. Where WAL is under no checksum they alone
    /// say so, and one of them may rot.
    pub(crate) fn cover(&mut self, acked_upto: Lsn, term: Term) -> Result<(), StoreError> {
        for _ in 0..2 {
            self.flush_footer(acked_upto, term)?;
            // The next one goes to the other slot.
            self.covered_upto = Lsn::INVALID;
        }
        self.covered_upto = acked_upto;
        Ok(())
    }

    /// Durably removes every byte at and above `at`; [`Writer::reserve_truncation`] was called. Each state on the way is the
    /// old log, perhaps shorter, or the cut one: the new file is whole before the first segment goes, segments go from
    /// the highest down, and the one that is cut is replaced at once. Nothing is overwritten in place: what is left of
    /// a dead tail in a file could be found again behind new records of the same layout.
    pub(crate) fn truncate(&mut self, at: Lsn, term: Term) -> Result<(), StoreError> {
        // The footers that say how far the log was acknowledged may go with the segments.
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

    /// The log begins at `oldest_lsn`, durably, and readers know it.
    pub(crate) fn set_oldest_lsn(&mut self, oldest_lsn: Lsn) {
        self.segments.oldest_lsn = oldest_lsn;
    }

    /// Removes the segments below the beginning. For a log that is being written, and has no spare segment, one of them
    /// becomes the spare.
    pub(crate) fn remove_old_segments(&mut self, is_written: bool, term: Term) -> Result<(), StoreError> {
        let kept = self.present.split_off(&self.segments.number_of(self.segments.oldest_lsn));
        let mut old = std::mem::replace(&mut self.present, kept);
        if is_written
            && self.spare().is_none()
            && let Some(&next) = self.present.last()
            && let Some(&last) = old.last()
        {
            let next = next + 1;
            let footer = Footer::first(&self.segments.lineage, next, term, Lsn::INVALID);
            old.remove(&last);
            if self.segments.recycle(last, &footer)? {
                self.present.insert(next);
            }
        }
        self.segments.remove_all(old.into_iter())
    }

    /// Removes what was preallocated, or lost its last records in a crash.
    pub(crate) fn remove_segments_behind_end(&mut self) -> Result<(), StoreError> {
        self.remove_segments_from(self.end)
    }

    /// Files were replaced under their names.
    pub(crate) fn close_files(&mut self) {
        self.open.clear();
    }

    fn remove_segments_from(&mut self, at: Lsn) -> Result<(), StoreError> {
        while let Some(&last) = self.present.last()
            && self.segments.start_of(last) >= at
        {
            self.segments.remove(last)?;
            self.present.remove(&last);
        }
        Ok(())
    }
}
