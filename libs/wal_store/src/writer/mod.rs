//! [`Writer`]: writes, flushes and truncates the end of the log.
//!
//! Room is reserved before a message is decided (`reserve`, `reserve_truncation`), so that the later steps, which may not
//! fail, need none. After an error of `write`, `flush` or `truncate` only a recovery can tell what the disk holds: the
//! writer must be dropped, and nothing that it wrote may be acknowledged.
//!
//! Every byte is written before its segment is synced, and of two segments the older is synced first.

mod truncation;

use std::collections::BTreeSet;

use wal_types::{Lsn, SegmentNumber, Term};

use crate::disk::{Disk, DiskFile};
use crate::error::{Misuse, StoreError};
use crate::footer::Footer;
use crate::segment::{Segments, UnreadablePolicy};

/// The end of the log, and the files that are written there.
pub(crate) struct Writer<D: Disk> {
    segments: Segments<D>,
    /// Segments whose files are durable.
    present: BTreeSet<SegmentNumber>,
    /// Open files, ascending. All but the last one are closed by the next flush.
    open: Vec<OpenSegment<D::File>>,
    /// End of the last byte that was written.
    end: Lsn,
    /// Highest position that is covered by a footer which this writer has synced.
    covered_upto: Lsn,
    /// The file for the next truncation exists.
    truncation_reserved: bool,
}

/// One open file.
struct OpenSegment<F> {
    number: SegmentNumber,
    file: F,
    /// The newest footer that was written or read.
    footer: Footer,
    /// Bytes were written since the last sync.
    dirty: bool,
}

impl<D: Disk> Writer<D> {
    /// A writer at the end of a recovered log. Only zeros may be behind `end`.
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

    /// The files, for reads.
    pub(crate) fn segments(&self) -> &Segments<D> {
        &self.segments
    }

    /// Ends [`UnreadablePolicy::TreatAsLost`]: the log is recovered, and from now on a failed read is an error.
    pub(crate) fn require_readable(&mut self) {
        self.segments.unreadable = UnreadablePolicy::Fail;
    }

    /// End of the last segment that has a file.
    pub(crate) fn files_upto(&self) -> Lsn {
        let last = self.present.last();
        last.map_or(self.segments.oldest_lsn, |&last| self.segments.start_of(last + 1))
    }

    /// Changes the lineage, when the cluster becomes known.
    pub(crate) fn set_lineage(&mut self, lineage: consensus::Lineage) {
        self.segments.lineage = lineage;
    }

    /// End of the last byte that was written.
    pub(crate) fn end(&self) -> Lsn {
        self.end
    }

    /// Highest position that is covered by a footer which this writer has synced; zero before the first.
    pub(crate) fn covered_upto(&self) -> Lsn {
        self.covered_upto
    }

    /// True when bytes were written that are not synced.
    pub(crate) fn is_dirty(&self) -> bool {
        self.open.iter().any(|segment| segment.dirty)
    }

    /// Creates the segments for all bytes below `upto`, as far as they are missing, and opens them: a write after the
    /// decision needs neither space nor a descriptor.
    pub(crate) fn reserve(&mut self, upto: Lsn, term: Term) -> Result<(), StoreError> {
        if upto <= self.end {
            return Ok(());
        }
        let last = self.segments.number_of(Lsn(upto.0 - 1));
        for number in self.segments.number_of(self.end)..=last {
            self.ensure_segment(number, term)?;
            self.open_segment(number)?;
        }
        Ok(())
    }

    /// Preallocates the next segment when the current one is half full, so that no append waits for it. Only for a log
    /// that receives WAL: an idle one needs no spare.
    pub(crate) fn prepare_spare(&mut self, term: Term) -> Result<(), StoreError> {
        if self.segments.offset_of(self.end) <= self.segments.wal_bytes() / 2 {
            return Ok(());
        }
        self.ensure_segment(self.segments.number_of(self.end) + 1, term)
    }

    /// Creates a segment if it is missing.
    fn ensure_segment(&mut self, number: SegmentNumber, term: Term) -> Result<(), StoreError> {
        if !self.present.contains(&number) {
            // Nothing in the new segment is acknowledged, and the segments below have their own footers.
            let footer = Footer::first(&self.segments.lineage, number, term, Lsn::INVALID);
            self.segments.create(number, &footer)?;
            self.present.insert(number);
        }
        Ok(())
    }

    /// The highest segment, if no byte was ever written to it.
    fn spare(&self) -> Option<SegmentNumber> {
        self.present.last().copied().filter(|&last| self.segments.start_of(last) >= self.end)
    }

    /// Appends bytes that begin at the end of the log. Durable with the next flush.
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

    /// The open file of a segment.
    fn open_segment(&mut self, number: SegmentNumber) -> Result<&mut OpenSegment<D::File>, StoreError> {
        let at = match self.open.binary_search_by_key(&number, |segment| segment.number) {
            Ok(at) => at,
            Err(at) => {
                if !self.present.contains(&number) {
                    return Err(Misuse::SegmentNotReserved(number).into());
                }
                let file = self.segments.open(number)?;
                let footer = self.segments.footer(number, &file)?;
                self.open.insert(at, OpenSegment { number, file, footer, dirty: false });
                at
            }
        };
        Ok(&mut self.open[at])
    }

    /// Makes everything that was written durable, together with a footer that covers `acked_upto`, the position that was
    /// acknowledged before. A footer never covers bytes of its own batch.
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

    /// Writes a footer that covers `acked_upto`, unless a synced one does. For an idle log, whose last batch no footer
    /// covers yet. Everything must be flushed.
    pub(crate) fn flush_footer(&mut self, acked_upto: Lsn, term: Term) -> Result<(), StoreError> {
        debug_assert!(!self.is_dirty());
        if acked_upto <= self.segments.oldest_lsn {
            return Ok(());
        }
        let number = self.segments.number_of(Lsn(acked_upto.0 - 1));
        if self.open.last().is_none_or(|last| last.number != number) {
            self.open.clear();
        }
        // A footer that was read may be in the page cache only, so only footers that this writer synced count.
        let unsynced = self.covered_upto < acked_upto;
        let segment = self.open_segment(number)?;
        if unsynced || segment.footer.acked_upto < acked_upto {
            segment.dirty = true;
            self.flush(acked_upto, term)?;
        }
        Ok(())
    }

    /// Covers everything up to `acked_upto` in **both** footer slots. Where WAL is under no checksum only a footer says
    /// that it is complete, and one of the slots may rot.
    pub(crate) fn cover(&mut self, acked_upto: Lsn, term: Term) -> Result<(), StoreError> {
        for _ in 0..2 {
            self.flush_footer(acked_upto, term)?;
            // Makes the next footer go out, too: it takes the other slot.
            self.covered_upto = Lsn::INVALID;
        }
        self.covered_upto = acked_upto;
        Ok(())
    }

    /// Moves the beginning of the log. The control file and the readers must have the new one already.
    pub(crate) fn set_oldest_lsn(&mut self, oldest_lsn: Lsn) {
        self.segments.oldest_lsn = oldest_lsn;
    }

    /// Removes the segments below the beginning of the log. If the log receives WAL and has no spare segment, one of them
    /// becomes the spare.
    pub(crate) fn remove_old_segments(&mut self, receives_wal: bool, term: Term) -> Result<(), StoreError> {
        let kept = self.present.split_off(&self.segments.number_of(self.segments.oldest_lsn));
        let mut old = std::mem::replace(&mut self.present, kept);
        if receives_wal
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

    /// Removes the segments above the end of the log: preallocated ones, and ones whose records a crash took.
    pub(crate) fn remove_segments_behind_end(&mut self) -> Result<(), StoreError> {
        self.remove_segments_from(self.end)
    }

    /// Closes all files, because some were replaced under their names.
    pub(crate) fn close_files(&mut self) {
        self.open.clear();
    }
}
