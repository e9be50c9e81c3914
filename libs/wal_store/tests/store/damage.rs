//! Bits rot and files vanish. What nobody relied on may go; whatever was acknowledged and is gone must be told.

use std::time::Duration;

use wal_store::{Corruption, Disk, DiskFile, ModelDisk, StoreError};
use wal_types::{Lsn, Term};

use crate::common::{Proposer, SEGMENT_BYTES, START, create, open, send, try_open};
use crate::world::read_log;

const CONTROL_SLOT_BYTES: usize = 32 * 1024;
const FOOTER_SLOT_BYTES: usize = 2048;

/// A log over three segments: the first half committed, all of it acknowledged, and idle when `idle` is set.
fn acknowledged_log(idle: bool) -> (ModelDisk, Proposer) {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    for _ in 0..20 {
        proposer.write(&[1; 2000]);
    }
    proposer.commit_lsn = proposer.ends[5];
    for append in proposer.appends_of(4000) {
        send(&mut replica, vec![append]);
    }
    send(&mut replica, vec![proposer.heartbeat()]);
    let _ = replica.tick(Duration::from_secs(1));
    if idle {
        let _ = replica.tick(Duration::from_secs(9));
    }
    (disk, proposer)
}

fn segment_name(segment: u64) -> String {
    format!("0000000100000000{segment:08X}")
}

/// Turns a bit of the WAL at `lsn` over.
fn rot(disk: &ModelDisk, lsn: Lsn) {
    let bit = (lsn.0 % SEGMENT_BYTES) as usize * 8 + 3;
    disk.flip_bit(&segment_name(lsn.0 / SEGMENT_BYTES), bit).unwrap();
}

fn rot_footer(disk: &ModelDisk, segment: u64, slot: usize) {
    let bit = (SEGMENT_BYTES as usize + slot * FOOTER_SLOT_BYTES + 60) * 8;
    disk.flip_bit(&segment_name(segment), bit).unwrap();
}

fn corruption(disk: &ModelDisk) -> Corruption {
    match try_open(disk) {
        Err(StoreError::Corrupt(what)) => what,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened"),
    }
}

#[test]
fn rot_in_any_record_that_was_acknowledged_is_told() {
    let (disk, proposer) = acknowledged_log(true);
    for record in proposer.ends.windows(2) {
        let disk = disk.fork();
        rot(&disk, Lsn(record[0].0 + 200));
        let (end, commit_lsn) = (record[0], proposer.commit_lsn);
        match corruption(&disk) {
            // What is below the segment of the commit position is read at a start only if a record reaches up from it.
            Corruption::BelowCommit { commit_lsn: known, .. } if end < commit_lsn => {
                assert_eq!(known, commit_lsn);
            }
            Corruption::BelowAcknowledged { end: found, acked_upto, .. } if end >= commit_lsn => {
                assert_eq!((found, acked_upto), (end, proposer.end()));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn rot_in_what_was_not_acknowledged_is_a_torn_tail() {
    let (disk, proposer) = acknowledged_log(false);
    // The last batch is durable, but no footer says so yet: a crash could have left this.
    let last = proposer.ends[proposer.ends.len() - 2];
    rot(&disk, Lsn(last.0 + 200));
    let replica = open(&disk);
    assert_eq!(replica.snapshot().flush_lsn, last);
    crate::world::check_dead_tail(&disk, last);
    // The batch before it was acknowledged when the last one was written.
    let (disk, _) = acknowledged_log(false);
    rot(&disk, Lsn(proposer.ends[proposer.ends.len() - 5].0 + 200));
    assert!(matches!(corruption(&disk), Corruption::BelowAcknowledged { .. }));
}

#[test]
fn what_a_start_found_counts_as_acknowledged_because_a_vote_tells_it() {
    let (disk, proposer) = acknowledged_log(false);
    assert_eq!(open(&disk).snapshot().flush_lsn, proposer.end());
    let last = proposer.ends[proposer.ends.len() - 2];
    rot(&disk, Lsn(last.0 + 200));
    let expected = (last, proposer.end());
    assert!(matches!(
        corruption(&disk),
        Corruption::BelowAcknowledged { end, acked_upto, .. } if (end, acked_upto) == expected
    ));
}

#[test]
fn one_bad_footer_is_a_torn_write_two_are_damage() {
    let (disk, proposer) = acknowledged_log(true);
    let last = proposer.end().0 / SEGMENT_BYTES;
    for slot in 0..2 {
        let disk = disk.fork();
        rot_footer(&disk, last, slot);
        assert_eq!(read_log(&open(&disk)), proposer.log);
    }
    rot_footer(&disk, last, 0);
    rot_footer(&disk, last, 1);
    assert_eq!(corruption(&disk), Corruption::Footer(last));
}

#[test]
fn either_control_slot_is_enough_none_is_not() {
    let (disk, _) = acknowledged_log(true);
    for slot in 0..2 {
        for byte in [0, 9, 17, 21, 30, 60, 150] {
            let disk = disk.fork();
            disk.flip_bit("control", (slot * CONTROL_SLOT_BYTES + byte) * 8).unwrap();
            let replica = open(&disk);
            assert_eq!(replica.snapshot().term, Term(1), "slot {slot}, byte {byte}");
            drop(replica);
            // And the bad slot was mended.
            disk.flip_bit("control", ((1 - slot) * CONTROL_SLOT_BYTES + byte) * 8).unwrap();
            assert_eq!(open(&disk).snapshot().term, Term(1));
        }
    }
    disk.flip_bit("control", 30 * 8).unwrap();
    disk.flip_bit("control", (CONTROL_SLOT_BYTES + 30) * 8).unwrap();
    assert_eq!(corruption(&disk), Corruption::ControlFile);
}

#[test]
fn an_older_control_file_is_told_by_the_terms_in_the_footers() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut older = vec![0; 2 * CONTROL_SLOT_BYTES];
    disk.open("control").unwrap().read_at(0, &mut older).unwrap();
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(4);
    proposer.lead(&mut replica, START);
    proposer.write(b"one");
    send(&mut replica, proposer.appends());
    drop(replica);
    disk.open("control").unwrap().write_at(0, &older).unwrap();
    assert_eq!(corruption(&disk), Corruption::TermAhead { segment: 1, found: Term(4), known: Term(0) });
}

#[test]
fn a_segment_that_vanished_is_told() {
    let (disk, proposer) = acknowledged_log(true);
    let last = proposer.end().0 / SEGMENT_BYTES;
    assert!(last >= 3);
    for segment in 1..last {
        let disk = disk.fork();
        disk.unlink(&segment_name(segment)).unwrap();
        corruption(&disk);
    }
}

#[test]
fn a_segment_of_another_length_is_told() {
    let (disk, proposer) = acknowledged_log(true);
    let last = proposer.end().0 / SEGMENT_BYTES;
    disk.open(&segment_name(last)).unwrap().write_at(SEGMENT_BYTES + 4096, &[0]).unwrap();
    assert!(matches!(corruption(&disk), Corruption::SegmentLength { .. }));
}

#[test]
fn a_read_error_at_a_start_is_no_verdict_on_the_log() {
    for after in 0..20 {
        let (disk, proposer) = acknowledged_log(true);
        disk.fail(wal_store::Fault::Read, after);
        match try_open(&disk) {
            Ok(replica) => drop(replica),
            Err(StoreError::Io { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let disk = disk.kill();
        assert_eq!(read_log(&open(&disk)), proposer.log);
    }
}

#[test]
fn a_wiped_disk_holds_no_timeline() {
    let (disk, _) = acknowledged_log(true);
    disk.wipe();
    assert!(matches!(try_open(&disk), Err(StoreError::Missing)));
}
