//! Work on an open log beside messages: persists the commit position, removes old WAL, gets the next segment.

use std::time::Duration;

use consensus::Effect;
use wal_types::Lsn;

use super::{EffectSink, OpenLog, SnapshotParts};
use crate::blank_segment::BlankSegment;
use crate::control_codec::Control;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::work::RESERVE_RETRY;
use crate::writer::Adopted;

/// Longest time that a commit position stays in memory only. A start then reads as much more of the log; nothing that was
/// promised depends on it. It is persisted sooner with each new segment, and when a term begins.
const COMMIT_PERSIST_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time that the last batch of an idle log has no footer that covers it.
const FOOTER_IDLE: Duration = Duration::from_secs(1);

impl<D: Disk> OpenLog<D> {
    /// Does what is due. Called between batches, so that no reply waits for it.
    pub(crate) fn tick(
        &mut self,
        now: Duration,
        keep_from: Lsn,
        sink: &mut impl EffectSink,
    ) -> Result<(), StoreError> {
        self.ticked_at = now;
        if std::mem::take(&mut self.appended) {
            self.appended_at = now;
            self.receives_wal = true;
        }

        let state = self.acceptor.state();
        let segment_bytes = u64::from(self.acceptor.lineage().segment_size.bytes());
        let unpersisted = state.commit_lsn.bytes_since(self.acceptor.persisted_commit_lsn());
        if now.saturating_sub(self.checkpoint_at) >= COMMIT_PERSIST_INTERVAL || unpersisted >= segment_bytes {
            self.checkpoint_at = now;
            let effect = self.acceptor.checkpoint();
            self.execute(effect.into_iter().collect(), sink)?;
        }

        if !self.has_handles() {
            // The rest opens files. It is done at a later tick.
            return Ok(());
        }
        self.remove_old(keep_from, sink)?;

        if self.receives_wal && now.saturating_sub(self.appended_at) >= FOOTER_IDLE {
            self.receives_wal = false;
            self.writer.flush_footer(self.acceptor.flush_lsn(), self.acceptor.state().term)?;
            self.writer.remove_set_aside()?;
        }
        if self.next_tick().is_none() {
            self.close_files();
        }
        Ok(())
    }

    /// Closes the files of an idle log. Everything in them is synced; they are opened again when they are written.
    pub(super) fn close_files(&mut self) {
        if !self.writer.is_dirty() {
            self.writer.close_files();
            self.control.close();
        }
    }

    /// The blank segment that another thread has to write now, if any.
    pub(crate) fn next_blank(&mut self) -> Option<BlankSegment<D>> {
        let receives_wal = self.receives_wal || self.appended;
        let has_room = self.no_room_until.is_none_or(|until| until <= self.ticked_at);
        let spare_at_percent = (receives_wal && has_room).then_some(self.spare_at_percent);
        self.writer.next_blank(spare_at_percent, self.acceptor.state().term)
    }

    /// Takes the blank segment of [`OpenLog::next_blank`]. The same write of the control file persists that it exists, and
    /// the commit position. False when the disk is full: the message that needs the segment asks again.
    pub(crate) fn adopt_blank(&mut self, written: Result<(), StoreError>) -> Result<bool, StoreError> {
        match self.writer.adopt_blank(written)? {
            Adopted::Added => {}
            Adopted::Useless => return Ok(true),
            full @ (Adopted::Full | Adopted::FullAndWalWaits) => {
                self.disk_full |= full == Adopted::FullAndWalWaits;
                self.no_room_until = Some(self.ticked_at + RESERVE_RETRY);
                return Ok(false);
            }
        }
        (self.disk_full, self.no_room_until) = (false, None);
        let state = match self.acceptor.checkpoint() {
            Some(Effect::Persist(state)) => state,
            _ => self.control.content().state.clone(),
        };
        let files_upto = self.writer.files_upto();
        self.control.store(Control { state, files_upto, ..self.control.content().clone() })?;
        self.parts = SnapshotParts::of(&self.acceptor);
        Ok(true)
    }

    /// Persists what [`OpenLog::tick`] would persist in the end if no more WAL arrived.
    pub(crate) fn checkpoint_for_shutdown(&mut self, sink: &mut impl EffectSink) -> Result<(), StoreError> {
        let effect = self.acceptor.checkpoint();
        self.execute(effect.into_iter().collect(), sink)?;
        self.receives_wal = false;
        self.writer.flush_footer(self.acceptor.flush_lsn(), self.acceptor.state().term)
    }

    /// When the next tick has something to do; `None` when that is not before a message or a new `keep_from` comes.
    pub(crate) fn next_tick(&self) -> Option<Duration> {
        let at_once = (self.unflushed || self.appended).then_some(Duration::ZERO);
        let footer = self.receives_wal.then(|| self.appended_at + FOOTER_IDLE);
        let checkpoint =
            self.acceptor.needs_checkpoint().then(|| self.checkpoint_at + COMMIT_PERSIST_INTERVAL);
        [at_once, footer, checkpoint].into_iter().flatten().min()
    }

    /// Removes old WAL. The new beginning of the log is persisted and published to readers before the first file is
    /// touched: a file that vanished before that would look like a loss.
    fn remove_old(&mut self, keep_from: Lsn, sink: &mut impl EffectSink) -> Result<(), StoreError> {
        let control = self.control.content();
        let oldest = self.removal.new_oldest(self.writer.segments(), control, keep_from)?;
        let Some(oldest_lsn) = oldest else { return Ok(()) };

        self.control.store(Control { oldest_lsn, ..control.clone() })?;
        self.writer.set_oldest_lsn(oldest_lsn);
        self.acceptor.removed_below(oldest_lsn);
        sink.publish(self.snapshot());
        self.writer.remove_old_segments(self.receives_wal)
    }
}
