//! [`SlotSet`]: the permanent slots of one timeline, and the ids of slots that were dropped. Pure.

use std::collections::BTreeMap;

use wal_types::Lsn;

use super::slot::{Slot, SlotId};

/// Slots of a timeline. Each may hold WAL up to the limit, so there are few.
pub(crate) const SLOTS_MAX: usize = 32;

/// Ids of dropped slots that are remembered. The oldest is forgotten first: a safekeeper that was away for so many drops
/// may bring that slot back, and it can be dropped again.
pub(super) const TOMBSTONES_MAX: usize = 256;

/// The permanent slots of one timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotSet {
    /// By name.
    pub(super) slots: BTreeMap<String, Slot>,
    /// Ids of dropped slots, the oldest first.
    pub(super) tombstones: Vec<SlotId>,
}

impl SlotSet {
    /// The slot of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Slot> {
        self.slots.get(name)
    }

    /// All slots, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values()
    }

    /// How many slots there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Adds a slot. The caller has checked its name and the number of slots.
    pub(super) fn insert(&mut self, slot: Slot) {
        self.slots.insert(slot.name.clone(), slot);
    }

    /// Raises the position of a slot; a lower one changes nothing.
    pub(super) fn raise(&mut self, id: SlotId, to: Lsn) {
        if let Some(slot) = self.by_id(id) {
            slot.restart_lsn = slot.restart_lsn.max(to);
        }
    }

    /// Records when the slot was last in use, in seconds since 1970.
    pub(super) fn touch(&mut self, id: SlotId, now: u64) {
        if let Some(slot) = self.by_id(id) {
            slot.last_active = slot.last_active.max(now);
        }
    }

    /// Removes a slot and remembers its id.
    pub(super) fn drop_slot(&mut self, id: SlotId) {
        self.slots.retain(|_, slot| slot.id != id);
        self.tombstones.retain(|dropped| *dropped != id);
        self.tombstones.push(id);
        let surplus = self.tombstones.len().saturating_sub(TOMBSTONES_MAX);
        self.tombstones.drain(..surplus);
    }

    /// Puts a slot back that could not be dropped durably.
    pub(super) fn restore(&mut self, slot: Slot) {
        self.tombstones.retain(|dropped| *dropped != slot.id);
        self.insert(slot);
    }

    /// The lowest position from which a slot reserves WAL.
    pub(super) fn lowest(&self) -> Option<Lsn> {
        self.iter().map(|slot| slot.restart_lsn).filter(|lsn| lsn.is_valid()).min()
    }

    fn by_id(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.slots.values_mut().find(|slot| slot.id == id)
    }
}

#[cfg(test)]
pub(super) fn example(name: &str, number: u8, restart_lsn: u64) -> Slot {
    Slot {
        id: SlotId([number; 16]),
        name: name.into(),
        owner: "standby".into(),
        created: 1_700_000_000,
        last_active: 1_700_000_060,
        restart_lsn: Lsn(restart_lsn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_position_only_rises() {
        let mut set = SlotSet::default();
        set.insert(example("a", 1, 0));
        set.insert(example("b", 2, 500));
        assert_eq!(set.lowest(), Some(Lsn(500)), "a reserves nothing yet");
        set.raise(SlotId([1; 16]), Lsn(300));
        set.raise(SlotId([2; 16]), Lsn(400));
        assert_eq!((set.lowest(), set.get("b").unwrap().restart_lsn), (Some(Lsn(300)), Lsn(500)));
    }

    #[test]
    fn dropped_slots_are_remembered_up_to_limit() {
        let mut set = SlotSet::default();
        for number in 0..=TOMBSTONES_MAX {
            let id = SlotId((number as u128).to_be_bytes());
            set.insert(Slot { id, ..example("a", 0, 8) });
            set.drop_slot(id);
        }
        assert_eq!((set.len(), set.tombstones.len()), (0, TOMBSTONES_MAX));
        assert_eq!(set.tombstones.first(), Some(&SlotId(1_u128.to_be_bytes())), "the oldest goes first");
    }
}
