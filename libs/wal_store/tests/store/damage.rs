//! Bits rot and files vanish. WAL that was not acknowledged may go. If acknowledged WAL is gone, the node keeps the
//! good part of its log and counts as lost.

use std::time::Duration;

use consensus::Loss;
use wal_store::{Corruption, Disk, DiskFile, Health, ModelDisk, StoreError};
use wal_types::{Lsn, Term};

use crate::common::{Proposer, SEGMENT_BYTES, START, create, open, send, try_open};
use crate::damaged_log::{
    CONTROL_SLOT_BYTES, acknowledged_log, check_lost, check_whole, rot, rot_footer, segment_name,
};
use crate::log_checks::check_dead_tail;

fn corruption(disk: &ModelDisk) -> Corruption {
    match try_open(disk) {
        Err(StoreError::Corrupt(what)) => what,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened"),
    }
}

/// Damage in any acknowledged record costs the WAL above it.
#[test]
fn rotten_acknowledged_record_makes_the_node_lost() {
    let (disk, proposer) = acknowledged_log(true);
    for record in proposer.ends.windows(2) {
        let disk = disk.fork();
        rot(&disk, Lsn(record[0].0 + 200));
        if record[1] > proposer.commit_lsn.align_down(SEGMENT_BYTES) {
            check_lost(&disk, &proposer, record[0], proposer.end());
            assert_eq!(open(&disk).snapshot().commit_lsn, proposer.commit_lsn.min(record[0]));
        }
    }
}

#[test]
fn rotten_unacknowledged_record_is_a_torn_tail() {
    let (disk, proposer) = acknowledged_log(false);
    // The last batch is durable, but no footer covers it yet: a crash could have left this.
    let last = proposer.ends[proposer.ends.len() - 2];
    rot(&disk, Lsn(last.0 + 200));
    let replica = open(&disk);
    assert_eq!((replica.snapshot().flush_lsn, replica.snapshot().lost), (last, None));
    check_dead_tail(&disk, last);
    // The batch before it was acknowledged when the last one was written.
    let (disk, _) = acknowledged_log(false);
    let end = proposer.ends[proposer.ends.len() - 5];
    rot(&disk, Lsn(end.0 + 200));
    let snapshot = open(&disk).snapshot();
    assert_eq!((snapshot.health, snapshot.flush_lsn), (Health::Lost, end));
}

/// A start reports its log in votes, so all of it counts as acknowledged from then on.
#[test]
fn open_counts_its_log_as_acknowledged() {
    let (disk, proposer) = acknowledged_log(false);
    assert_eq!(open(&disk).snapshot().flush_lsn, proposer.end());
    let last = proposer.ends[proposer.ends.len() - 2];
    rot(&disk, Lsn(last.0 + 200));
    check_lost(&disk, &proposer, last, proposer.end());
}

#[test]
fn checkpoint_for_shutdown_covers_everything_acknowledged() {
    let (disk, mut proposer) = acknowledged_log(false);
    let mut replica = open(&disk);
    proposer = Proposer::after(&proposer, 2, proposer.ends.len() - 1);
    let start = proposer.end();
    proposer.lead(&mut replica, start);
    proposer.write(&[2; 500]);
    proposer.commit_lsn = proposer.end();
    send(&mut replica, proposer.appends());
    let _ = replica.checkpoint_for_shutdown();
    assert_eq!(replica.snapshot().persisted_commit_lsn, proposer.end());
    drop(replica);
    rot(&disk, Lsn(start.0 + 200));
    let snapshot = open(&disk).snapshot();
    assert_eq!((snapshot.health, snapshot.flush_lsn), (Health::Lost, start));
    assert_eq!(snapshot.lost, Some(Loss { term: Term(2), acked_upto: proposer.end() }));
}

/// One bad footer slot is a torn write; two may hide what was acknowledged.
#[test]
fn footer_pair_damage_makes_the_node_lost() {
    let (disk, proposer) = acknowledged_log(true);
    let last = proposer.end().0 / SEGMENT_BYTES;
    for slot in 0..2 {
        let disk = disk.fork();
        rot_footer(&disk, last, slot);
        check_whole(&disk, &proposer);
    }
    rot_footer(&disk, last, 0);
    rot_footer(&disk, last, 1);
    check_lost(&disk, &proposer, proposer.end(), Lsn((last + 1) * SEGMENT_BYTES));
    // In a full segment behind which more was acknowledged they can hide nothing.
    let (disk, _) = acknowledged_log(true);
    rot_footer(&disk, last - 1, 0);
    rot_footer(&disk, last - 1, 1);
    check_whole(&disk, &proposer);
    check_whole(&disk, &proposer);
}

/// A segment that vanished is missed, even the last one.
#[test]
fn vanished_segment_makes_the_node_lost() {
    let (disk, proposer) = acknowledged_log(true);
    let last = proposer.end().0 / SEGMENT_BYTES;
    assert!(last >= 3);
    for segment in 1..=last {
        let disk = disk.fork();
        disk.unlink(&segment_name(segment)).unwrap();
        let snapshot = open(&disk).snapshot();
        let acked_upto = if segment == last { Lsn((last + 1) * SEGMENT_BYTES) } else { proposer.end() };
        let below = proposer.ends.iter().rfind(|end| end.0 <= segment * SEGMENT_BYTES).unwrap();
        assert_eq!(snapshot.lost, Some(Loss { term: Term(1), acked_upto }), "segment {segment}");
        check_lost(&disk, &proposer, *below, acked_upto);
    }
}

/// Old WAL that vanished and that no member needs costs only itself.
#[test]
fn vanished_old_wal_moves_the_log_start() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    for _ in 0..40 {
        proposer.write(&[1; 2000]);
    }
    proposer.commit_lsn = proposer.end();
    proposer.horizon_lsn = proposer.ends[30];
    send(&mut replica, proposer.appends());
    send(&mut replica, vec![proposer.heartbeat()]);
    for now in 1..9 {
        let _ = replica.run_tick(Duration::from_secs(now));
    }
    drop(replica);
    let needed = proposer.horizon_lsn.0 / SEGMENT_BYTES;
    for segment in 1..needed {
        let disk = disk.fork();
        disk.unlink(&segment_name(segment)).unwrap();
        for _ in 0..2 {
            let snapshot = open(&disk).snapshot();
            assert_eq!((snapshot.health, snapshot.flush_lsn), (Health::Healthy, proposer.end()));
            assert_eq!(snapshot.oldest_lsn, Lsn((segment + 1) * SEGMENT_BYTES));
        }
    }
    disk.unlink(&segment_name(needed)).unwrap();
    assert_eq!(open(&disk).snapshot().health, Health::Lost);
}

#[test]
fn segment_of_wrong_length_is_quarantined() {
    let (disk, proposer) = acknowledged_log(true);
    let last = proposer.end().0 / SEGMENT_BYTES;
    disk.open(&segment_name(last)).unwrap().write_at(SEGMENT_BYTES + 4096, &[0]).unwrap();
    let below = proposer.ends.iter().rfind(|end| end.0 <= last * SEGMENT_BYTES).unwrap();
    check_lost(&disk, &proposer, *below, Lsn((last + 1) * SEGMENT_BYTES));
    let kept = format!("{}.quarantined.1", segment_name(last));
    assert!(open(&disk).snapshot().quarantined.contains(&kept));
}

#[test]
fn quarantined_files_keep_every_byte() {
    let (disk, proposer) = acknowledged_log(true);
    let read = |disk: &ModelDisk, name: &str| {
        let file = disk.open(name).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    };
    let at = proposer.ends[proposer.ends.len() - 9];
    rot(&disk, Lsn(at.0 + 200));
    let last = proposer.end().0 / SEGMENT_BYTES;
    let files: Vec<_> =
        (at.0 / SEGMENT_BYTES..=last).map(|number| read(&disk, &segment_name(number))).collect();
    assert!(files.len() > 1);
    let snapshot = open(&disk).snapshot();
    assert_eq!(snapshot.quarantined.len(), files.len());
    for (name, file) in snapshot.quarantined.iter().zip(files) {
        assert!(read(&disk, name) == file, "{name}");
    }
}

#[test]
fn control_file_needs_one_whole_slot() {
    let (disk, _) = acknowledged_log(true);
    for slot in 0..2 {
        for byte in [0, 9, 17, 21, 30, 60, 150] {
            let disk = disk.fork();
            disk.flip_bit("control", (slot * CONTROL_SLOT_BYTES + byte) * 8).unwrap();
            let replica = open(&disk);
            assert_eq!(replica.snapshot().term, Term(1), "slot {slot}, byte {byte}");
            drop(replica);
            // The start has rewritten the bad slot.
            disk.flip_bit("control", ((1 - slot) * CONTROL_SLOT_BYTES + byte) * 8).unwrap();
            assert_eq!(open(&disk).snapshot().term, Term(1));
        }
    }
    disk.flip_bit("control", 30 * 8).unwrap();
    disk.flip_bit("control", (CONTROL_SLOT_BYTES + 30) * 8).unwrap();
    assert_eq!(corruption(&disk), Corruption::ControlFile);
}

#[test]
fn older_control_file_is_noticed_by_footers() {
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
fn wiped_disk_holds_no_timeline() {
    let (disk, _) = acknowledged_log(true);
    disk.wipe();
    assert!(matches!(try_open(&disk), Err(StoreError::Missing)));
}
