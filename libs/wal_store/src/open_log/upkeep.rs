//! Periodic work on an open log: persists the commit position, removes old WAL, prepares the next segment.

use std::time::Duration;

use wal_types::Lsn;

use super::{EffectSink, OpenLog};
use crate::control_codec::Control;
use crate::disk::Disk;
use crate::error::StoreError;

/// Longest time that a commit position stays in memory only.
const COMMIT_PERSIST_INTERVAL: Duration = Duration::from_secs(1);
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

        if self.receives_wal {
            let term = self.acceptor.state().term;
            match self.writer.prepare_spare(term) {
                Ok(()) => {}
                // The append that needs the segment will report the full disk.
                Err(error) if error.is_no_room() => {}
                Err(error) => return Err(error),
            }

            self.persist_files_upto(self.writer.files_upto())?;
            if now.saturating_sub(self.appended_at) >= FOOTER_IDLE {
                self.receives_wal = false;
                self.writer.flush_footer(self.acceptor.flush_lsn(), term)?;
            }
        }
        Ok(())
    }

    /// Persists what [`OpenLog::tick`] would persist in the end if no more WAL arrived.
    pub(crate) fn checkpoint_for_shutdown(&mut self, sink: &mut impl EffectSink) -> Result<(), StoreError> {
        let effect = self.acceptor.checkpoint();
        self.execute(effect.into_iter().collect(), sink)?;
        self.receives_wal = false;
        self.writer.flush_footer(self.acceptor.flush_lsn(), self.acceptor.state().term)
    }

    /// True when no tick has anything to do until a message or a new `keep_from` comes.
    pub(crate) fn is_idle(&self) -> bool {
        let has_news =
            self.unflushed || self.appended || self.receives_wal || self.acceptor.needs_checkpoint();
        !has_news
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
        self.writer.remove_old_segments(self.receives_wal, self.acceptor.state().term)
    }
}
