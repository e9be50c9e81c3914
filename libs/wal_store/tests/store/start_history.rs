//! The history file at the start of a log: kept, checked, and never a reason not to vote.

use wal_store::disk::{Disk, DiskFile};
use wal_store::{InvalidLineage, ModelDisk, Replica, StoreError};
use wal_types::Tli;

use crate::common::{COPY, lineage, nothing_survives, open};

const TEXT: &[u8] = b"1\t0/3000000\tno recovery target specified\n";

fn create(disk: &ModelDisk, tli: Tli, text: &[u8]) -> Result<(), StoreError> {
    Replica::create_with_history(
        disk,
        COPY,
        [5; 16],
        consensus::Lineage { start_tli: tli, ..lineage() },
        text,
    )
}

#[test]
fn start_history_survives_a_power_failure() {
    let disk = ModelDisk::new();
    create(&disk, Tli(2), TEXT).unwrap();
    let snapshot = open(&disk.crash(&mut nothing_survives)).snapshot();
    assert_eq!(snapshot.start_history.as_deref(), Some(TEXT));
    assert!(snapshot.lineage.start_history.is_some() && snapshot.lineage.birth.is_none());
}

/// Timeline 1 has no history, and a text has a limit.
#[test]
fn impossible_start_history_is_refused() {
    let long = vec![b'x'; consensus::START_HISTORY_BYTES_MAX + 1];
    for (tli, text) in [(Tli::FIRST, TEXT), (Tli(2), &long[..])] {
        let refused = create(&ModelDisk::new(), tli, text);
        assert!(matches!(refused, Err(StoreError::InvalidLineage(InvalidLineage::StartHistory))));
    }
}

/// A damaged text is not served; the log itself is.
#[test]
fn damaged_start_history_costs_no_vote() {
    let disk = ModelDisk::new();
    create(&disk, Tli(2), TEXT).unwrap();
    disk.open("start_history").unwrap().write_at(3, b"4").unwrap();
    assert_eq!(open(&disk).snapshot().start_history, None);
    disk.unlink("start_history").unwrap();
    assert_eq!(open(&disk).snapshot().health, wal_store::Health::Healthy);
}
