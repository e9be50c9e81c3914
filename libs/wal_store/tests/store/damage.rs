//! Bits rot and files vanish. What nobody relied on may go; whatever was acknowledged and is gone must be told: the node
//! keeps what is good, and is lost.

use std::time::Duration;

use consensus::Loss;
use wal_store::{Corruption, Disk, DiskFile, Health, ModelDisk, Replica, StoreError, UNREADABLE_TRIES_MAX};
use wal_types::{Lsn, Term};

use crate::common::{NODE, Proposer, SEGMENT_BYTES, START, create, nothing_survives, open, send, try_open};
use crate::world::read_log;

const CONTROL_SLOT_BYTES: usize = 32 * 1024;
pub(crate) const FOOTER_SLOT_BYTES: usize = 2048;

/// A log over three segments: the first half committed, all of it acknowledged, and idle when `idle` is set.
pub(crate) fn acknowledged_log(idle: bool) -> (ModelDisk, Proposer) {
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

pub(crate) fn segment_name(segment: u64) -> String {
    format!("0000000100000000{segment:08X}")
}

/// Turns a bit of the WAL at `lsn` over.
pub(crate) fn rot(disk: &ModelDisk, lsn: Lsn) {
    let bit = (lsn.0 % SEGMENT_BYTES) as usize * 8 + 3;
    disk.flip_bit(&segment_name(lsn.0 / SEGMENT_BYTES), bit).unwrap();
}

pub(crate) fn rot_footer(disk: &ModelDisk, segment: u64, slot: usize) {
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

/// The log of a node that lost something: it ends at `end`, begins as the proposer wrote it, and says how far it may
/// have been acknowledged. Starting once more changes nothing.
fn check_lost(disk: &ModelDisk, proposer: &Proposer, end: Lsn, acked_upto: Lsn) {
    for start in 0..2 {
        let replica = open(disk);
        let snapshot = replica.snapshot();
        assert_eq!(snapshot.health, Health::Lost, "start {start}");
        assert_eq!(snapshot.lost, Some(Loss { term: Term(1), acked_upto }), "start {start}");
        assert_eq!(snapshot.flush_lsn, end, "start {start}");
        assert!(snapshot.commit_lsn <= end && snapshot.horizon_lsn <= end);
        assert!(proposer.log[..end.bytes_since(START) as usize] == read_log(&replica));
        crate::world::check_dead_tail(disk, end);
    }
}

fn check_whole(disk: &ModelDisk, proposer: &Proposer) {
    let replica = open(disk);
    assert_eq!((replica.snapshot().health, replica.snapshot().lost), (Health::Healthy, None));
    assert!(read_log(&replica) == proposer.log);
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
    // The last batch is durable, but no footer says so yet: a crash could have left this.
    let last = proposer.ends[proposer.ends.len() - 2];
    rot(&disk, Lsn(last.0 + 200));
    let replica = open(&disk);
    assert_eq!((replica.snapshot().flush_lsn, replica.snapshot().lost), (last, None));
    crate::world::check_dead_tail(&disk, last);
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
    // In a segment that is full, and behind which more was acknowledged, they can hide nothing.
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
        let _ = replica.tick(Duration::from_secs(now));
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
    // All but what is in the bad page.
    assert!(end <= record && record.0 - end.0 < 8192, "{end}, {record}");
    check_lost(&disk, &proposer, end, proposer.end());
    // Waiting is right when it can be read again.
    let bytes = vec![0; 512];
    let name = segment_name(record.0 / SEGMENT_BYTES);
    let mut good = bytes.clone();
    let sector = (record.0 % SEGMENT_BYTES + 1024) / 512 * 512;
    let at = sector + (record.0 / SEGMENT_BYTES - 1) * SEGMENT_BYTES;
    good.copy_from_slice(&proposer.log[at as usize..at as usize + 512]);
    unchanged.open(&name).unwrap().write_at(sector, &good).unwrap();
    check_whole(&unchanged, &proposer);
}

/// The footers know of everything but the last batch. A disk that cannot read there hides whether it was acknowledged.
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
    // In the page behind the one that the footers know of.
    let sector = known.align_up(4096);
    disk.spoil_sector(&segment_name(sector.0 / SEGMENT_BYTES), (sector.0 % SEGMENT_BYTES) as usize).unwrap();
    let replica = Replica::open_after_read_errors(disk.clone(), NODE, UNREADABLE_TRIES_MAX).unwrap();
    let snapshot = replica.snapshot();
    assert!(snapshot.flush_lsn < proposer.end());
    assert_eq!(snapshot.health, Health::Lost, "its log ends at {}", snapshot.flush_lsn);
    drop(replica);
    assert_eq!(open(&disk).snapshot().health, Health::Lost, "and it is written down");
}

/// A running replica waits half a minute for a sector that it cannot read.
#[test]
fn replica_waits_for_an_unreadable_sector() {
    let (disk, proposer) = acknowledged_log(true);
    let mut replica = open(&disk);
    let at = proposer.ends[12];
    disk.spoil_sector(&segment_name(at.0 / SEGMENT_BYTES), (at.0 % SEGMENT_BYTES) as usize + 1024).unwrap();
    // Anything that makes it recover.
    let next = Proposer::first(2);
    disk.fail(wal_store::Fault::Sync, 0);
    let _ = replica.run(vec![next.greet(), next.vote()]);
    let mut seconds = 0;
    while replica.snapshot().health != Health::Lost {
        assert!(seconds <= 2 * u64::from(UNREADABLE_TRIES_MAX), "it never gives up");
        assert_eq!(replica.snapshot().health, Health::Failed);
        let _ = replica.tick(Duration::from_secs(seconds));
        seconds += 1;
    }
    assert!(seconds >= u64::from(UNREADABLE_TRIES_MAX), "{seconds}");
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
    // That may pass: it is no damage yet.
    assert!(matches!(try_open(&disk), Err(StoreError::Io { .. })));
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

#[test]
fn wiped_disk_holds_no_timeline() {
    let (disk, _) = acknowledged_log(true);
    disk.wipe();
    assert!(matches!(try_open(&disk), Err(StoreError::Missing)));
}
