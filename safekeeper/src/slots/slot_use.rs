//! [`SlotUse`]: a reader that has a slot. One reader has it at a time on this safekeeper.
//!
//! A second reader of the same slot is often the first one after its network broke: the old connection would hold the slot
//! until its timeouts. So the old reader is asked for a sign of life, and loses the slot when it gives none.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use wal_types::Lsn;

use super::active_reader::ActiveReader;
use super::error::SlotError;
use super::slot::SlotId;
use super::timeline_slots::{TimelineSlots, unix_seconds};

/// Time in which the reader of a slot has to answer when another one wants its slot.
const SIGN_OF_LIFE_WITHIN: Duration = Duration::from_secs(5);

/// A slot in use. Dropping it gives the slot back.
#[derive(Debug)]
pub(crate) struct SlotUse {
    slots: Arc<TimelineSlots>,
    id: SlotId,
    reader: Arc<ActiveReader>,
}

impl SlotUse {
    /// Takes the slot for a reader that begins at `start`. Waits up to five seconds for a sign of life of a reader that has
    /// it.
    pub(crate) async fn acquire(
        slots: &Arc<TimelineSlots>,
        name: &str,
        user: &str,
        application_name: &str,
        start: Lsn,
    ) -> Result<Self, SlotError> {
        let other = match Self::try_acquire(slots, name, user, application_name, start)? {
            Ok(acquired) => return Ok(acquired),
            Err(other) => other,
        };
        let asked_at = Instant::now();
        let sign_of_life = async {
            loop {
                let (heard, released) = (other.heard.notified(), slots.released.notified());
                other.asked.notify_one();
                if *other.last_heard.lock() > asked_at {
                    return Err(SlotError::Active(name.to_owned()));
                }
                tokio::select! {
                    () = heard => {}
                    () = released => {
                        if let Ok(acquired) = Self::try_acquire(slots, name, user, application_name, start)? {
                            return Ok(acquired);
                        }
                    }
                }
            }
        };
        if let Ok(result) = timeout(SIGN_OF_LIFE_WITHIN, sign_of_life).await {
            return result;
        }

        tracing::info!(
            slot = name,
            "reader is silent and another one wants its slot, closing its connection"
        );
        slots.state.lock().active.retain(|_, reader| !Arc::ptr_eq(reader, &other));
        other.displaced.notify_one();
        Self::try_acquire(slots, name, user, application_name, start)?
            .map_err(|_| SlotError::Active(name.to_owned()))
    }

    /// Takes the slot, or returns the reader that has it.
    fn try_acquire(
        slots: &Arc<TimelineSlots>,
        name: &str,
        user: &str,
        application_name: &str,
        start: Lsn,
    ) -> Result<Result<Self, Arc<ActiveReader>>, SlotError> {
        let mut state = slots.state.lock();
        state.check_usable()?;
        let slot = state.find(name).ok_or_else(|| SlotError::Missing(name.to_owned()))?;
        if slot.owner != user {
            return Err(SlotError::NotOwner(name.to_owned()));
        }
        let id = slot.id;
        let is_reserved = slot.restart_lsn.is_valid();
        if let Some(other) = state.active.get(&id) {
            return Ok(Err(Arc::clone(other)));
        }

        let reader = Arc::new(ActiveReader::new(application_name));
        state.active.insert(id, Arc::clone(&reader));
        state.current.touch(id, unix_seconds());
        drop(state);
        let acquired = Self { slots: Arc::clone(slots), id, reader };
        if !is_reserved {
            acquired.raise(start);
        }
        Ok(Ok(acquired))
    }

    /// Records that the reader has sent something.
    pub(crate) fn record_heard(&self) {
        self.reader.record_heard();
    }

    /// Records the flush position of the reader. Positions above the committed WAL count as its end.
    pub(crate) fn record_flushed(&self, flush: Lsn) {
        if flush.is_valid() {
            self.raise(flush);
        }
    }

    /// Waits until another reader wants to know whether this one lives. Cancel-safe.
    pub(crate) async fn asked(&self) {
        self.reader.asked.notified().await;
    }

    /// Waits until the slot was taken away. Cancel-safe.
    pub(crate) async fn displaced(&self) {
        self.reader.displaced.notified().await;
    }

    fn raise(&self, to: Lsn) {
        let snapshot = self.slots.snapshot();
        let to = to.min(snapshot.commit_lsn);
        let mut state = self.slots.state.lock();
        state.current.raise(self.id, to);
        if let Some(slot) = state.temporary.values_mut().find(|slot| slot.id == self.id) {
            slot.restart_lsn = slot.restart_lsn.max(to);
        }
        drop(state);
        if self.slots.needs_write(&snapshot) {
            write_later(&self.slots);
        }
    }
}

impl Drop for SlotUse {
    /// Gives the slot back, however the reader ends.
    fn drop(&mut self) {
        let mut state = self.slots.state.lock();
        if state.active.get(&self.id).is_some_and(|reader| Arc::ptr_eq(reader, &self.reader)) {
            state.active.remove(&self.id);
        }
        state.current.touch(self.id, unix_seconds());
        drop(state);
        self.slots.released.notify_waiters();
        write_later(&self.slots);
    }
}

/// Writes the slots on a blocking thread. A failure leaves older positions in the file, which keep more WAL.
fn write_later(slots: &Arc<TimelineSlots>) {
    let slots = Arc::clone(slots);
    if tokio::runtime::Handle::try_current().is_ok() {
        spawn_blocking(move || {
            if let Err(error) = slots.write() {
                tracing::warn!(%error, "positions of replication slots were not written");
            }
        });
    }
}
