//! Sectors that cannot be read: waited for, then treated as lost.

use std::time::Duration;

use wal_store::{Disk, DiskFile, Health, Replica, StoreError, UNREADABLE_TRIES_MAX};
use wal_types::Term;

use crate::common::{NODE, Proposer, SEGMENT_BYTES, nothing_survives, open, send, try_open};
use crate::damaged_log::{CONTROL_SLOT_BYTES, acknowledged_log, check_lost, check_whole, segment_name};
use crate::log_checks::read_log;

#[test]
fn unreadable_sector_counts_as_lost_after_tries() {
    let (disk, proposer) = acknowledged_log(true);
    let record = proposer.ends[12];
    disk.spoil_sector(&segment_name(record.0 / SEGMENT_BYTES), (record.0 % SEGMENT_BYTES) as usize + 1024)
        .unwrap();
    for tries in 0..UNREADABLE_TRIES_MAX {
        let opened = Replica::open_after_read_errors(disk.clone(), NODE, tries);
        assert!(matches!(opened, Err(StoreError::Unreadable { .. })), "try {tries}");
    }
    let unchanged = disk.fork();
    let replica = Replica::open_after_read_errors(disk.clone(), NODE, UNREADABLE_TRIES_MAX).unwrap();
    drop(replica);
    let end = open(&disk).snapshot().flush_lsn;
    // Everything but the unreadable page is left.
    assert!(end <= record && record.0 - end.0 < 8192, "{end}, {record}");
    check_lost(&disk, &proposer, end, proposer.end());
    // If the sector can be read again nothing is lost.
    let bytes = vec![0; 512];
    let name = segment_name(record.0 / SEGMENT_BYTES);
    let mut good = bytes.clone();
    let sector = (record.0 % SEGMENT_BYTES + 1024) / 512 * 512;
    let at = sector + (record.0 / SEGMENT_BYTES - 1) * SEGMENT_BYTES;
    good.copy_from_slice(&proposer.log[at as usize..at as usize + 512]);
    unchanged.open(&name).unwrap().write_at(sector, &good).unwrap();
    check_whole(&unchanged, &proposer);
}

/// The footers cover everything but the last batch. A disk that cannot read there hides whether it was acknowledged.
#[test]
fn unreadable_sector_behind_last_footer_is_lost() {
    let (disk, first) = acknowledged_log(true);
    let known = first.end();
    let mut proposer = Proposer::after(&first, 2, first.ends.len() - 1);
    let mut replica = open(&disk);
    proposer.lead(&mut replica, known);
    proposer.write(&[7; 9000]);
    for append in proposer.appends() {
        send(&mut replica, vec![append]);
    }
    assert_eq!(replica.snapshot().flush_lsn, proposer.end());
    drop(replica);
    let disk = disk.crash(&mut nothing_survives);
    // In the page behind the one that the footers cover.
    let sector = known.align_up(4096);
    disk.spoil_sector(&segment_name(sector.0 / SEGMENT_BYTES), (sector.0 % SEGMENT_BYTES) as usize).unwrap();
    let replica = Replica::open_after_read_errors(disk.clone(), NODE, UNREADABLE_TRIES_MAX).unwrap();
    let snapshot = replica.snapshot();
    assert!(snapshot.flush_lsn < proposer.end());
    assert_eq!(snapshot.health, Health::Lost, "its log ends at {}", snapshot.flush_lsn);
    drop(replica);
    assert_eq!(open(&disk).snapshot().health, Health::Lost, "the loss is persisted");
}

/// A running replica waits half a minute for a sector that it cannot read.
#[test]
fn replica_waits_for_an_unreadable_sector() {
    let (disk, proposer) = acknowledged_log(true);
    let mut replica = open(&disk);
    let at = proposer.ends[12];
    disk.spoil_sector(&segment_name(at.0 / SEGMENT_BYTES), (at.0 % SEGMENT_BYTES) as usize + 1024).unwrap();
    // Makes the replica recover.
    let next = Proposer::first(2);
    disk.fail(wal_store::Fault::Sync, 0);
    let _ = replica.run(vec![next.greet(), next.vote()]);
    let mut seconds = 0;
    while replica.snapshot().health != Health::Lost {
        assert!(seconds <= 2 * u64::from(UNREADABLE_TRIES_MAX), "the replica never gives up");
        assert_eq!(replica.snapshot().health, Health::Failed);
        let _ = replica.run_tick(Duration::from_secs(seconds));
        seconds += 1;
    }
    assert!(seconds >= u64::from(UNREADABLE_TRIES_MAX), "{seconds}");
}

#[test]
fn unreadable_control_slot_counts_as_torn() {
    let (disk, _) = acknowledged_log(true);
    for slot in 0..2 {
        let disk = disk.fork();
        disk.spoil_sector("control", slot * CONTROL_SLOT_BYTES).unwrap();
        let opened = try_open(&disk).map(|replica| replica.snapshot().term);
        assert!(matches!(opened, Ok(Term(1))), "slot {slot}");
    }
    for slot in 0..2 {
        disk.spoil_sector("control", slot * CONTROL_SLOT_BYTES).unwrap();
    }
    // Not damage yet: a later read may succeed.
    assert!(matches!(try_open(&disk), Err(StoreError::Io { .. })));
}

#[test]
fn read_error_at_open_loses_nothing() {
    for after in 0..20 {
        let (disk, proposer) = acknowledged_log(true);
        disk.fail(wal_store::Fault::Read, after);
        match try_open(&disk) {
            Ok(replica) => drop(replica),
            Err(StoreError::Io { .. } | StoreError::Unreadable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let disk = disk.kill();
        assert_eq!(read_log(&open(&disk)), proposer.log);
    }
}
