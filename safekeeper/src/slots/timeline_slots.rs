//! [`TimelineSlots`]: the slots of one timeline: created, read, dropped and held. Shared by sessions, HTTP and the shard.
//!
//! What is in memory may be ahead of the file: a position is written only now and then. The shard keeps WAL for both, so
//! after a crash every slot still finds its WAL. The state is locked for moments only and never while a disk works, because
//! the shard asks it at each tick.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;
use wal_store::{RealDisk, Snapshot, SnapshotCell};
use wal_types::Lsn;

use super::active_reader::ActiveReader;
use super::error::SlotError;
use super::file::{SlotFile, SlotFileError};
use super::slot::{NAME_BYTES_MAX, OWNER_BYTES_MAX, Slot, SlotId, is_slot_name};
use super::slot_set::{SLOTS_MAX, SlotSet};

/// Shortest time between two writes of positions. A crash in between keeps more WAL than needed.
const POSITION_WRITE_INTERVAL: Duration = Duration::from_secs(10);

/// The slots of one timeline.
#[derive(Debug)]
pub(crate) struct TimelineSlots {
    pub(super) state: Mutex<State>,
    /// Held while the file is written; never taken by the shard.
    file: Mutex<Option<SlotFile<RealDisk>>>,
    snapshots: SnapshotCell,
    /// Notified when a reader gives its slot back.
    pub(super) released: Notify,
}

/// What is known in memory.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Permanent slots as they are now.
    pub(super) current: SlotSet,
    /// Permanent slots as the file has them.
    durable: SlotSet,
    /// Slots of single connections, by name.
    pub(super) temporary: BTreeMap<String, Slot>,
    /// Readers that have a slot, by the slot's id.
    pub(super) active: BTreeMap<SlotId, Arc<ActiveReader>>,
    /// Why the file cannot be used.
    unusable: Option<String>,
    written_at: Option<Instant>,
}

/// A slot that a client asks for.
#[derive(Clone, Debug)]
pub(crate) struct NewSlot {
    pub(crate) name: String,
    pub(crate) owner: String,
    /// Reserve WAL at once, and not only when a reader begins.
    pub(crate) reserve_wal: bool,
}

/// One slot, as the list shows it.
#[derive(Clone, Debug)]
pub(crate) struct SlotView {
    pub(crate) slot: Slot,
    pub(crate) is_temporary: bool,
    /// `application_name` of the reader that has it.
    pub(crate) active_by: Option<String>,
}

/// A slot that ends with its connection. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct TemporarySlot {
    slots: Arc<TimelineSlots>,
    name: String,
    id: SlotId,
}

impl TimelineSlots {
    /// Reads the slots of a timeline. A damaged file leaves the timeline without usable slots, and all WAL is kept up to the
    /// limit. An error of the disk may pass, and the caller tries again.
    pub(crate) fn load(disk: RealDisk, snapshots: SnapshotCell) -> io::Result<Arc<Self>> {
        let (file, state) = match SlotFile::load(disk) {
            Ok((file, set)) => (Some(file), State { current: set.clone(), durable: set, ..State::default() }),
            Err(SlotFileError::Io(error)) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "replication slots cannot be used, WAL is kept up to --slot-keep");
                (None, State { unusable: Some(error.to_string()), ..State::default() })
            }
        };
        let (state, file) = (Mutex::new(state), Mutex::new(file));
        Ok(Arc::new(Self { state, file, snapshots, released: Notify::new() }))
    }

    /// The position from which a slot holds WAL, before the limit is applied. `None` when no slot holds any.
    pub(crate) fn hold_from(&self) -> Option<Lsn> {
        let state = self.state.lock();
        if state.unusable.is_some() {
            return Some(Lsn::INVALID);
        }
        let temporary = state.temporary.values().map(|slot| slot.restart_lsn).filter(|lsn| lsn.is_valid());
        [state.current.lowest(), state.durable.lowest()].into_iter().flatten().chain(temporary).min()
    }

    /// Creates a permanent slot. It is durable when this returns. Blocks.
    ///
    /// `wal_keep_bytes` is the retention below the commit position: a slot that reserves WAL begins that far below.
    pub(crate) fn create(&self, new: &NewSlot, wal_keep_bytes: u64) -> Result<(), SlotError> {
        let mut state = self.state.lock();
        let slot = self.new_slot(&state, new, wal_keep_bytes)?;
        let id = slot.id;
        state.current.insert(slot);
        drop(state);

        self.write().inspect_err(|_| self.state.lock().current.drop_slot(id))?;
        tracing::info!(slot = new.name, owner = new.owner, "replication slot created");
        Ok(())
    }

    /// Creates a slot that lives as long as the returned value.
    pub(crate) fn create_temporary(
        self: &Arc<Self>,
        new: &NewSlot,
        wal_keep_bytes: u64,
    ) -> Result<TemporarySlot, SlotError> {
        let mut state = self.state.lock();
        let slot = self.new_slot(&state, new, wal_keep_bytes)?;
        let id = slot.id;
        state.temporary.insert(new.name.clone(), slot);
        Ok(TemporarySlot { slots: Arc::clone(self), name: new.name.clone(), id })
    }

    /// The slot of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Slot> {
        self.state.lock().find(name).cloned()
    }

    /// All slots, permanent ones first.
    pub(crate) fn list(&self) -> Vec<SlotView> {
        let state = self.state.lock();
        let view = |slot: &Slot, is_temporary| SlotView {
            slot: slot.clone(),
            is_temporary,
            active_by: state.active.get(&slot.id).map(|reader| reader.application_name.clone()),
        };
        let permanent = state.current.iter().map(|slot| view(slot, false));
        permanent.chain(state.temporary.values().map(|slot| view(slot, true))).collect()
    }

    /// Drops a permanent slot that no reader has. Durable when this returns. Blocks.
    pub(crate) fn drop_slot(&self, name: &str, user: &str) -> Result<(), SlotError> {
        let mut state = self.state.lock();
        state.check_usable()?;
        let Some(slot) = state.current.get(name).cloned() else {
            let is_temporary = state.temporary.contains_key(name);
            let name = name.to_owned();
            return Err(if is_temporary { SlotError::Active(name) } else { SlotError::Missing(name) });
        };
        if slot.owner != user {
            return Err(SlotError::NotOwner(slot.name));
        }
        if state.active.contains_key(&slot.id) {
            return Err(SlotError::Active(slot.name));
        }
        state.current.drop_slot(slot.id);
        drop(state);

        self.write().inspect_err(|_| self.state.lock().current.restore(slot))?;
        tracing::info!(slot = name, "replication slot dropped");
        Ok(())
    }

    /// Waits until a reader gives a slot back. Called with what the caller saw before; a release in between is not missed.
    pub(crate) fn next_release(&self) -> tokio::sync::futures::Notified<'_> {
        self.released.notified()
    }

    /// Makes the slots durable, if the file has others. Blocks.
    pub(super) fn write(&self) -> io::Result<()> {
        let mut file = self.file.lock();
        let current = {
            let mut state = self.state.lock();
            if state.current == state.durable {
                return Ok(());
            }
            state.written_at = Some(Instant::now());
            state.current.clone()
        };
        let Some(file) = file.as_mut() else { return Err(io::ErrorKind::InvalidData.into()) };
        file.store(&current)?;
        self.state.lock().durable = current;
        Ok(())
    }

    /// True when a position has moved to another segment since it was written, and the last write is some time ago.
    pub(super) fn needs_write(&self, snapshot: &Snapshot) -> bool {
        let state = self.state.lock();
        let size = snapshot.lineage.segment_size;
        let moved = state.current.iter().any(|slot| {
            let written = state.durable.get(&slot.name).map_or(Lsn::INVALID, |written| written.restart_lsn);
            size.segment_of(written) != size.segment_of(slot.restart_lsn)
        });
        moved && state.written_at.is_none_or(|at| at.elapsed() >= POSITION_WRITE_INTERVAL)
    }

    /// The newest snapshot of the log.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.current()
    }

    /// The caller holds the lock of the state: a tick of the shard that does not see the slot yet has a snapshot that is not
    /// newer than the one here, and so it removes no WAL above the slot's position.
    fn new_slot(&self, state: &State, new: &NewSlot, wal_keep_bytes: u64) -> Result<Slot, SlotError> {
        state.check_usable()?;
        let NewSlot { name, owner, reserve_wal } = new.clone();
        if name.len() > NAME_BYTES_MAX {
            return Err(SlotError::NameTooLong(name));
        }
        if !is_slot_name(&name) {
            return Err(SlotError::Name(name));
        }
        if owner.len() > OWNER_BYTES_MAX {
            return Err(SlotError::OwnerTooLong);
        }
        if state.find(&name).is_some() {
            return Err(SlotError::Exists(name));
        }
        if state.current.len() + state.temporary.len() >= SLOTS_MAX {
            return Err(SlotError::TooMany);
        }

        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(io::Error::from)?;
        let now = unix_seconds();
        let restart_lsn =
            if reserve_wal { reserved_from(&self.snapshot(), wal_keep_bytes) } else { Lsn::INVALID };
        Ok(Slot { id: SlotId(id), name, owner, created: now, last_active: now, restart_lsn })
    }
}

impl State {
    pub(super) fn find(&self, name: &str) -> Option<&Slot> {
        self.current.get(name).or_else(|| self.temporary.get(name))
    }

    pub(super) fn check_usable(&self) -> Result<(), SlotError> {
        match &self.unusable {
            Some(reason) => Err(SlotError::Unusable(reason.clone())),
            None => Ok(()),
        }
    }
}

impl Drop for TemporarySlot {
    /// The slot ends with its connection, however that ends.
    fn drop(&mut self) {
        let mut state = self.slots.state.lock();
        if state.temporary.get(&self.name).is_some_and(|slot| slot.id == self.id) {
            state.temporary.remove(&self.name);
        }
    }
}

impl TemporarySlot {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Where a slot begins that reserves WAL at once: a backup of a standby begins minutes below the commit position, so it is
/// the beginning of what is kept anyway.
fn reserved_from(snapshot: &Snapshot, wal_keep_bytes: u64) -> Lsn {
    let kept = Lsn(snapshot.commit_lsn.0.saturating_sub(wal_keep_bytes));
    kept.align_down(snapshot.lineage.segment_size.bytes().into()).max(snapshot.oldest_lsn)
}

/// The time now, in seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
