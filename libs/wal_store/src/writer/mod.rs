//! [`Writer`]: writes, flushes and truncates the end of the log.
//!
//! There is room before a message is decided (`has_room`, `reserve_truncation`), so that the later steps, which may not
//! fail, need none. New segments are written by other threads ([`crate::work`]). After an error of `write`, `flush` or `truncate` only a recovery can tell what the disk holds: the
//! writer must be dropped, and nothing that it wrote may be acknowledged.
//!
//! Every byte is written before its segment is synced, and of two segments the older is synced first.

mod truncation;

use std::collections::BTreeSet;

use wal_types::{Lsn, SegmentNumber, Term};

use crate::blank_segment::BlankSegment;
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
    /// The segment whose blank file another thread writes, and whether WAL waits for it.
    preparing: Option<(SegmentNumber, bool)>,
    /// WAL waits for the next segment.
    lacks_segment: bool,
    /// The file of a removed segment waits to become the next one.
    recyclable: bool,
}

/// What became of a blank segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// The log has one segment more.
    Added,
    /// The log was truncated meanwhile and needs another segment.
    Useless,
    /// The disk has no room, and no WAL waits for the segment yet.
    Full,
    /// The disk has no room, and WAL waits for the segment.
    FullAndWalWaits,
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
            preparing: None,
            lacks_segment: false,
            recyclable: false,
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

    /// True when there is a segment for every byte below `upto`. Otherwise the next one is asked for, and
    /// [`Writer::next_blank`] returns it.
    pub(crate) fn has_room(&mut self, upto: Lsn) -> bool {
        self.lacks_segment = upto > self.end && upto > self.files_upto();
        !self.lacks_segment
    }

    /// Opens the segments for all bytes below `upto`, which exist: a write after the decision needs no descriptor.
    pub(crate) fn open_segments(&mut self, upto: Lsn) -> Result<(), StoreError> {
        if upto <= self.end {
            return Ok(());
        }
        for number in self.segments.number_of(self.end)..=self.segments.number_of(Lsn(upto.0 - 1)) {
            self.open_segment(number)?;
        }
        Ok(())
    }

    /// The blank segment that another thread has to write now, if any: one that WAL waits for, or one that it will need.
    /// That is the next one once the current one is filled to `spare_at_percent`, or the first one; `None` for a log that
    /// receives no WAL.
    pub(crate) fn next_blank(
        &mut self,
        spare_at_percent: Option<u64>,
        term: Term,
    ) -> Option<BlankSegment<D>> {
        let filled = self.segments.offset_of(self.end);
        let is_filled_to = |percent| filled == 0 || filled * 100 > percent * self.segments.wal_bytes();
        let is_last = self.files_upto() == self.end.align_up(self.segments.wal_bytes());
        let needs_spare = is_last && spare_at_percent.is_some_and(is_filled_to);
        if self.preparing.is_some() || !(self.lacks_segment || needs_spare) {
            return None;
        }

        let number = self.segments.number_of(self.files_upto());
        self.preparing = Some((number, std::mem::take(&mut self.lacks_segment)));
        let recycle = std::mem::take(&mut self.recyclable);
        // Nothing in the new segment is acknowledged, and the segments below have their own footers.
        let footer = Footer::first(&self.segments.lineage, number, term, Lsn::INVALID);
        Some(BlankSegment { segments: self.segments.clone(), footer, recycle })
    }

    /// Takes the blank segment that [`Writer::next_blank`] asked for, after it was written. A truncation may have changed
    /// which segment is the next one; then the file is removed.
    pub(crate) fn adopt_blank(&mut self, written: Result<(), StoreError>) -> Result<Adopted, StoreError> {
        let prepared = self.preparing.take();
        match written {
            Err(error) if error.is_no_room() => {
                let wal_waits = prepared.is_some_and(|(_, wal_waits)| wal_waits);
                return Ok(if wal_waits { Adopted::FullAndWalWaits } else { Adopted::Full });
            }
            other => other?,
        }
        let next = self.segments.number_of(self.files_upto());
        if prepared.is_none_or(|(number, _)| number != next) {
            return self.segments.remove_prepared().map(|()| Adopted::Useless);
        }
        self.segments.adopt(next)?;
        self.present.insert(next);
        Ok(Adopted::Added)
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

    /// Removes the segments below the beginning of the log. If the log receives WAL, the file of one becomes its next
    /// segment: writing over a file needs no room, and no new blocks.
    pub(crate) fn remove_old_segments(&mut self, receives_wal: bool) -> Result<(), StoreError> {
        let kept = self.present.split_off(&self.segments.number_of(self.segments.oldest_lsn));
        let mut old = std::mem::replace(&mut self.present, kept);
        if receives_wal
            && !self.recyclable
            && let Some(last) = old.pop_last()
        {
            self.segments.set_aside(last)?;
            self.recyclable = true;
        }
        self.segments.remove_all(old.into_iter())
    }

    /// Removes the file that waits to become the next segment: a log without news needs none.
    pub(crate) fn remove_set_aside(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.recyclable) { self.segments.remove_set_aside() } else { Ok(()) }
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
