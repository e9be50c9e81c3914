//! Replication slots: names under which a log keeps WAL for a reader that is away.
//!
//! | file | content |
//! |---|---|
//! | `slot` | one slot, and which names slots may have |
//! | `slot_set` | the permanent slots of a timeline, and the ids of dropped ones |
//! | `codec` | the bytes of a slot set, and the two-slot frame around them; sans-IO |
//! | `file` | the file `slots` beside `control` |
//! | `timeline_slots` | the slots of a timeline as sessions and the shard see them |
//! | `active_reader` | a connected reader, as one sees it that wants its slot |
//! | `slot_use` | a reader that has a slot: its position, and who may displace it |
//! | `error` | why a slot command is refused |
//!
//! A slot holds WAL from its position on, up to the limit of [`Retention`](crate::Retention). Beyond the limit the slot
//! is lost on this safekeeper, and its reader gets PostgreSQL's error 58P01.

mod active_reader;
mod codec;
mod error;
mod file;
mod slot;
mod slot_set;
mod slot_use;
mod timeline_slots;

pub(crate) use error::SlotError;
pub(crate) use slot::{Slot, WalStatus};
pub(crate) use slot_use::SlotUse;
pub(crate) use timeline_slots::{NewSlot, SlotView, TemporarySlot, TimelineSlots};
