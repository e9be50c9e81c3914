//! Removal of old WAL: what is committed and not kept.

use std::time::Duration;

use wal_store::{Disk, DiskFile, Health, ModelDisk, ReadError, ReadMode, ReadOutcome, Replica, StoreError};
use wal_types::{Lsn, SegmentNumber};

use crate::both_disks::on_both_disks;
use crate::common::{
    NODE, Proposer, SEGMENT_BYTES, START, configuration, create, nothing_survives, open, run, send,
};
use crate::damaged_log::segment_name;
use crate::log_checks::{check_dead_tail, read_log};

on_both_disks! {
    removal_follows_keep_from_and_commit => check_removal;
    removal_recycles_an_old_segment => check_recycling;
}

fn segments<D: Disk>(disk: &D) -> Vec<SegmentNumber> {
    let name =
        |name: String| (name.len() == 24).then(|| SegmentNumber::from_str_radix(&name[16..], 16).unwrap());
    disk.list().unwrap().into_iter().filter_map(name).collect()
}

/// A log of records of 2000 bytes.
fn log<D: Disk>(disk: &D, records: usize) -> (Replica<D>, Proposer) {
    create(disk);
    let mut replica = open(disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    write(&mut replica, &mut proposer, records);
    (replica, proposer)
}

fn write<D: Disk>(replica: &mut Replica<D>, proposer: &mut Proposer, records: usize) {
    for _ in 0..records {
        proposer.write(&[1; 2000]);
    }
    send(replica, proposer.appends());
}

/// Commits everything; all members have it up to `horizon_lsn`.
fn commit<D: Disk>(replica: &mut Replica<D>, proposer: &mut Proposer, horizon_lsn: Lsn) {
    proposer.commit_lsn = proposer.end();
    proposer.horizon_lsn = horizon_lsn;
    send(replica, vec![proposer.heartbeat()]);
}

/// Ticks long enough for all periodic work, and until the log counts as idle.
fn idle<D: Disk>(replica: &mut Replica<D>, from_second: u64) {
    for second in 0..4 {
        let _ = replica.run_tick(Duration::from_secs(from_second + 2 * second));
    }
}

fn check_removal<D: Disk>(disk: D) {
    let (mut replica, mut proposer) = log(&disk, 60);
    idle(&mut replica, 0);
    let all = segments(&disk);
    replica.set_keep_from(Lsn::MAX);
    idle(&mut replica, 10);
    assert_eq!(segments(&disk), all, "nothing is committed");
    let horizon = proposer.ends[40];
    commit(&mut replica, &mut proposer, horizon);
    replica.set_keep_from(proposer.ends[20]);
    idle(&mut replica, 20);
    let kept = |lsn: Lsn| all.iter().copied().filter(|&n| n >= lsn.0 / SEGMENT_BYTES).collect::<Vec<_>>();
    assert_eq!(segments(&disk), kept(proposer.ends[20]), "a reader wants it");
    // A member is away: the horizon stands still, and what is kept for it has a limit.
    let beyond = proposer.ends[45];
    assert!(beyond.0 / SEGMENT_BYTES > horizon.0 / SEGMENT_BYTES);
    replica.set_keep_from(beyond);
    idle(&mut replica, 30);
    assert_eq!(segments(&disk), kept(beyond), "a member that is away does not hold it");

    let oldest = Lsn(beyond.0 / SEGMENT_BYTES * SEGMENT_BYTES);
    assert_eq!(replica.snapshot().oldest_lsn, oldest);
    let mut reader = replica.reader(ReadMode::Committed);
    let early = reader.read(Lsn(oldest.0 - 1), &mut [0; 9]);
    assert!(matches!(early, Err(ReadError::TooOld { oldest: told, .. }) if told == oldest));
    assert_eq!(reader.read(oldest, &mut [0; 9]).unwrap(), ReadOutcome::Bytes(9));
    let left = &proposer.log[oldest.bytes_since(START) as usize..];
    assert!(read_log(&replica) == left);
    drop(replica);
    let mut replica = open(&disk);
    assert_eq!((replica.snapshot().oldest_lsn, replica.snapshot().health), (oldest, Health::Healthy));
    assert!(read_log(&replica) == left);

    // All members have everything: the last committed record stays.
    let mut proposer = Proposer::after(&proposer, 2, proposer.ends.len() - 1);
    let end = proposer.end();
    proposer.lead(&mut replica, end);
    write(&mut replica, &mut proposer, 1);
    let end = proposer.end();
    commit(&mut replica, &mut proposer, end);
    replica.set_keep_from(Lsn::MAX);
    idle(&mut replica, 0);
    let oldest = replica.snapshot().oldest_lsn;
    assert_eq!(oldest.0, proposer.ends[proposer.ends.len() - 2].0 / SEGMENT_BYTES * SEGMENT_BYTES);
    drop(replica);
    assert!(read_log(&open(&disk)) == proposer.log[oldest.bytes_since(START) as usize..]);
    check_dead_tail(&disk, end);
}

fn check_recycling<D: Disk>(disk: D) {
    let (mut replica, mut proposer) = log(&disk, 30);
    replica.set_keep_from(Lsn::MAX);
    let end = proposer.end();
    commit(&mut replica, &mut proposer, end);
    let _ = replica.run_tick(Duration::from_secs(2));
    let last = proposer.end().0 / SEGMENT_BYTES;
    assert_eq!(segments(&disk), [last, last + 1], "the old ones are gone, and there is a spare");
    check_dead_tail(&disk, proposer.end());
    // Nothing of the old segment is left in the spare one.
    write(&mut replica, &mut proposer, 12);
    assert_eq!(segments(&disk), [last, last + 1, last + 2][..segments(&disk).len()]);
    let oldest = replica.snapshot().oldest_lsn;
    drop(replica);
    let replica = open(&disk);
    assert_eq!((replica.snapshot().flush_lsn, replica.snapshot().health), (proposer.end(), Health::Healthy));
    assert!(read_log(&replica) == proposer.log[oldest.bytes_since(START) as usize..]);
    check_dead_tail(&disk, proposer.end());
}

#[test]
fn recycling_needs_no_disk_space() {
    let disk = ModelDisk::new();
    let (mut replica, mut proposer) = log(&disk, 30);
    replica.set_keep_from(Lsn::MAX);
    let end = proposer.end();
    commit(&mut replica, &mut proposer, end);
    // The disk is full, and the next segment is there all the same.
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let _ = replica.run_tick(Duration::from_secs(2));
    write(&mut replica, &mut proposer, 7);
    assert_eq!(replica.snapshot().flush_lsn, proposer.end());
}

#[test]
fn removal_waits_for_set_keep_from() {
    let disk = ModelDisk::new();
    let (mut replica, mut proposer) = log(&disk, 30);
    let end = proposer.end();
    commit(&mut replica, &mut proposer, end);
    idle(&mut replica, 0);
    assert_eq!(replica.snapshot().oldest_lsn, START);
    assert!(read_log(&replica) == proposer.log);
}

/// The segment in which the last committed record begins stays, however long that record is.
#[test]
fn removal_keeps_the_last_committed_record_start() {
    for tail in 0..3 {
        let disk = ModelDisk::new();
        let (mut replica, mut proposer) = log(&disk, 10);
        let begin = proposer.end();
        match tail {
            0 => proposer.write(&[7; 5 * SEGMENT_BYTES as usize]),
            1 => proposer.switch(),
            // A switch whose record is over the boundary of two segments.
            _ => {
                let left = SEGMENT_BYTES - proposer.end().0 % SEGMENT_BYTES;
                proposer.write(&vec![7; left as usize - 60]);
                proposer.switch();
            }
        }
        send(&mut replica, proposer.appends());
        let end = proposer.end();
        commit(&mut replica, &mut proposer, end);
        replica.set_keep_from(Lsn::MAX);
        idle(&mut replica, 0);
        assert!(replica.snapshot().oldest_lsn <= begin.align_up(SEGMENT_BYTES));
        drop(replica);
        let disk = disk.crash(&mut nothing_survives);
        for _ in 0..2 {
            let snapshot = open(&disk).snapshot();
            assert_eq!((snapshot.health, snapshot.flush_lsn), (Health::Healthy, end), "tail {tail}");
        }
    }
}

#[test]
fn log_survives_many_removals_and_restarts() {
    let mut disk = ModelDisk::new();
    let (mut replica, mut proposer) = log(&disk, 3);
    let mut second = 0;
    for round in 0..40 {
        if round % 5 == 4 {
            proposer.switch();
        }
        write(&mut replica, &mut proposer, 1 + round % 11);
        let end = proposer.end();
        commit(&mut replica, &mut proposer, end);
        replica.set_keep_from(Lsn::MAX);
        for _ in 0..2 + round % 3 {
            second += 1;
            let _ = replica.run_tick(Duration::from_secs(second));
        }
        assert!(segments(&disk).len() <= 5, "{:?}", segments(&disk));
        if round % 7 == 6 {
            drop(replica);
            disk = disk.crash(&mut nothing_survives);
            replica = open(&disk);
            second = 0;
            proposer = Proposer::after(&proposer, proposer.term.0 + 1, proposer.ends.len() - 1);
            proposer.lead(&mut replica, end);
        }
        let snapshot = replica.snapshot();
        assert_eq!((snapshot.health, snapshot.flush_lsn), (Health::Healthy, end), "round {round}");
        let left = &proposer.log[snapshot.oldest_lsn.bytes_since(START) as usize..];
        assert!(read_log(&replica) == left, "round {round}");
    }
    assert!(replica.snapshot().oldest_lsn > Lsn(START.0 + 10 * SEGMENT_BYTES));
}

#[test]
fn checksum_of_removed_wal_is_none() {
    let disk = ModelDisk::new();
    let (mut replica, mut proposer) = log(&disk, 30);
    let end = proposer.end();
    commit(&mut replica, &mut proposer, end);
    replica.set_keep_from(Lsn::MAX);
    idle(&mut replica, 0);
    let request = consensus::ChecksumRequest {
        generation: configuration().generation,
        term: proposer.term,
        from: START,
        to: proposer.ends[3],
    };
    let asked = proposer.message(consensus::ProposerMessage::Checksum(request));
    let output = run(&mut replica, vec![asked]);
    let Some((_, consensus::AcceptorMessage::Checksum(answer))) = output.replies.first() else {
        panic!("no reply")
    };
    assert_eq!(answer.crc32c, None);
}

#[test]
fn crash_in_removal_removes_nothing_else() {
    for receives_wal in [false, true] {
        for step in 0.. {
            let disk = ModelDisk::new();
            let (mut replica, mut proposer) = log(&disk, 30);
            let end = proposer.end();
            commit(&mut replica, &mut proposer, end);
            let _ = replica.run_tick(Duration::from_secs(2));
            if !receives_wal {
                idle(&mut replica, 10);
            }
            replica.set_keep_from(Lsn::MAX);
            disk.crash_after(step);
            let _ = replica.run_tick(Duration::from_secs(if receives_wal { 2 } else { 40 }));
            let has_crashed = disk.has_crashed();
            drop(replica);
            for outcome in 0..8 {
                let mut random = crate::common::random(step * 100 + outcome);
                let disk = disk.fork().crash(&mut random);
                let replica = open(&disk);
                let snapshot = replica.snapshot();
                assert_eq!((snapshot.health, snapshot.flush_lsn), (Health::Healthy, end), "step {step}");
                let left = &proposer.log[snapshot.oldest_lsn.bytes_since(START) as usize..];
                assert!(read_log(&replica) == left, "step {step}");
                check_dead_tail(&disk, end);
                assert_eq!(
                    segments(&disk).first(),
                    Some(&(snapshot.oldest_lsn.0 / SEGMENT_BYTES)),
                    "step {step}"
                );
            }
            if !has_crashed {
                assert!(step > 5, "{step} steps");
                break;
            }
        }
    }
}

#[test]
fn segment_below_the_log_start_is_removed() {
    let disk = ModelDisk::new();
    let (mut replica, mut proposer) = log(&disk, 30);
    let end = proposer.end();
    commit(&mut replica, &mut proposer, end);
    replica.set_keep_from(Lsn::MAX);
    idle(&mut replica, 0);
    drop(replica);
    disk.create(&segment_name(1)).unwrap().write_at(0, b"left by a crash").unwrap();
    assert_eq!(open(&disk).snapshot().health, Health::Healthy);
    assert!(!segments(&disk).contains(&1));
    let oldest = open(&disk).snapshot().oldest_lsn;
    disk.unlink(&segment_name(oldest.0 / SEGMENT_BYTES)).unwrap();
    assert!(!matches!(Replica::open(disk.clone(), NODE), Err(StoreError::Corrupt(_))));
}
