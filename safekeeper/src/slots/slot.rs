//! [`Slot`]: one replication slot of a log, and the names that slots may have.

use std::fmt;

use wal_store::Snapshot;
use wal_types::Lsn;

/// Longest name of a slot in bytes, as in PostgreSQL.
pub(super) const NAME_BYTES_MAX: usize = 63;

/// Longest user name, in bytes, that can own a slot. PostgreSQL's roles have 63.
pub(super) const OWNER_BYTES_MAX: usize = 128;

/// Random id of one slot: a slot that is dropped and created anew under the same name is another slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotId(pub(crate) [u8; 16]);

/// One replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) id: SlotId,
    pub(crate) name: String,
    /// The user that created it. Only this user reads with it and drops it.
    pub(crate) owner: String,
    /// Creation, in seconds since 1970.
    pub(crate) created: u64,
    /// When a reader last began or ended, in seconds since 1970.
    pub(crate) last_active: u64,
    /// WAL is kept from here on. Zero until the slot reserves WAL. Never falls.
    pub(crate) restart_lsn: Lsn,
}

/// What a slot still finds on this safekeeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalStatus {
    /// It has not reserved WAL yet.
    Unreserved,
    /// All WAL from its position on is here.
    Reserved,
    /// WAL that it needs was removed.
    Lost,
}

impl Slot {
    /// What is left of the WAL that this slot needs.
    pub(crate) fn wal_status(&self, snapshot: &Snapshot) -> WalStatus {
        if !self.restart_lsn.is_valid() {
            WalStatus::Unreserved
        } else if self.restart_lsn < snapshot.oldest_lsn {
            WalStatus::Lost
        } else {
            WalStatus::Reserved
        }
    }
}

/// True for a name that a slot may have.
pub(super) fn is_slot_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_names_are_those_of_postgresql() {
        for name in ["a", "rs1", "pg_receivewal_7", &"x".repeat(63)] {
            assert!(is_slot_name(name), "{name}");
        }
        for name in ["", "A", "a-b", "a b", "ä", "a\"b", &"x".repeat(64)] {
            assert!(!is_slot_name(name), "{name}");
        }
    }
}
