//! Readers that run while the owner truncates and removes the files that they read.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use wal_store::{Disk, ModelDisk, ReadError, ReadMode, ReadOutcome, Replica};
use wal_types::{Lsn, Term};

use crate::both_disks::on_both_disks;
use crate::common::{Proposer, SEGMENT_BYTES, START, create, open, send};
use crate::interrupted::{Interrupted, Moment};

on_both_disks! {
    reader_gets_committed_wal_by_segment => check_committed;
    reader_reopens_files_after_a_truncation => check_cut_between_reads;
}

fn check_committed<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    for _ in 0..30 {
        proposer.write(&[1; 2000]);
    }
    send(&mut replica, proposer.appends());
    let mut reader = replica.reader(ReadMode::Committed);
    let mut buffer = vec![0; 3 * SEGMENT_BYTES as usize];
    assert_eq!(reader.read(START, &mut buffer).unwrap(), ReadOutcome::Nothing, "nothing is committed");

    proposer.commit_lsn = proposer.ends[20];
    send(&mut replica, vec![proposer.heartbeat()]);
    let mut log = Vec::new();
    loop {
        let from = START.advance(log.len() as u64);
        match reader.read(from, &mut buffer).unwrap() {
            ReadOutcome::Bytes(count) => {
                assert!(from.0 % SEGMENT_BYTES + count as u64 <= SEGMENT_BYTES, "no footer is handed out");
                log.extend_from_slice(&buffer[..count]);
            }
            ReadOutcome::Nothing => break,
            ReadOutcome::Changed => panic!("the files changed during the read"),
        }
    }
    assert_eq!(log, proposer.log[..proposer.commit_lsn.bytes_since(START) as usize]);

    let early = reader.read(Lsn(START.0 - 8), &mut buffer);
    assert!(matches!(early, Err(ReadError::TooOld { oldest: START, .. })));
    let mut other_term = replica.reader(ReadMode::Flushed(Term(2)));
    assert!(matches!(other_term.read(START, &mut buffer), Err(ReadError::OtherTerm { .. })));
}

fn check_cut_between_reads<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut first = Proposer::first(1);
    first.lead(&mut replica, START);
    for _ in 0..6 {
        first.write(&[1; 1000]);
    }
    first.commit_lsn = first.ends[2];
    send(&mut replica, first.appends());
    let mut reader = replica.reader(ReadMode::Committed);
    let mut buffer = [0; 4000];
    assert_eq!(reader.read(first.ends[1], &mut buffer[..16]).unwrap(), ReadOutcome::Bytes(16));

    let mut second = Proposer::after(&first, 2, 2);
    second.lead(&mut replica, second.end());
    for _ in 0..4 {
        second.write(&[2; 1000]);
    }
    second.commit_lsn = second.end();
    send(&mut replica, second.appends());
    let from = second.ends[2];
    let ReadOutcome::Bytes(count) = reader.read(from, &mut buffer).unwrap() else { panic!("committed") };
    let expected = &second.log[from.bytes_since(START) as usize..];
    assert_eq!(buffer[..count], expected[..count]);
}

type Owner = Arc<Mutex<Replica<Interrupted>>>;

/// A log of term 1 with a dead tail to come, and the log of term 2 that replaces it.
fn two_logs(disk: &Interrupted) -> (Owner, Proposer, Proposer) {
    create(disk);
    let mut replica = open(disk);
    let mut first = Proposer::first(1);
    first.lead(&mut replica, START);
    for _ in 0..12 {
        first.write(&[1; 1500]);
    }
    first.commit_lsn = first.ends[2];
    send(&mut replica, first.appends());
    let mut second = Proposer::after(&first, 2, 2);
    for _ in 0..12 {
        second.write(&[2; 1500]);
    }
    (Arc::new(Mutex::new(replica)), first, second)
}

/// Truncates to the common part, and writes the log of term 2.
fn truncate_and_grow(owner: &Owner, second: &Proposer) {
    let (mut replica, mut second) = (owner.lock().unwrap(), second.clone());
    let start = second.ends[2];
    second.lead(&mut replica, start);
    second.commit_lsn = second.end();
    send(&mut replica, second.appends());
}

/// A truncation in the middle of a read never lets dead bytes out.
#[test]
fn reader_drops_bytes_of_a_truncated_file() {
    for moment in [Moment::BeforeOpen, Moment::AfterOpen, Moment::BeforeRead, Moment::AfterRead] {
        let disk = Interrupted::new();
        let (owner, first, second) = two_logs(&disk);
        let mut reader = owner.lock().unwrap().reader(ReadMode::Flushed(Term(1)));
        let (truncater, after) = (owner.clone(), second.clone());
        disk.interrupt(moment, move || truncate_and_grow(&truncater, &after));
        let mut buffer = [0; 4000];
        let result = reader.read(first.ends[3], &mut buffer);
        let dropped = matches!(result, Ok(ReadOutcome::Changed) | Err(ReadError::OtherTerm { .. }));
        assert!(dropped, "{moment:?}: {result:?}");
    }
}

#[test]
fn reader_drops_file_opened_during_truncation() {
    let disk = Interrupted::new();
    let (owner, first, second) = two_logs(&disk);
    let reader = Arc::new(Mutex::new(owner.lock().unwrap().reader(ReadMode::Committed)));
    // The counter has risen, but the old file still has its name: the reader opens the old file.
    let (early, from) = (reader.clone(), first.ends[0]);
    let read = Arc::new(Mutex::new(None));
    let result = read.clone();
    disk.interrupt(Moment::BeforeRename, move || {
        let mut buffer = [0; 16];
        *result.lock().unwrap() = early.lock().unwrap().read(from, &mut buffer).ok();
    });
    truncate_and_grow(&owner, &second);
    assert_eq!(*read.lock().unwrap(), Some(ReadOutcome::Bytes(16)), "the reader read in between");

    let from = second.ends[3];
    let mut buffer = [0; 2000];
    let ReadOutcome::Bytes(count) = reader.lock().unwrap().read(from, &mut buffer).unwrap() else {
        panic!("the position is committed")
    };
    assert_eq!(buffer[..count], second.log[from.bytes_since(START) as usize..][..count]);
}

#[test]
fn reader_drops_file_that_truncation_just_replaced() {
    let disk = Interrupted::new();
    let (owner, first, second) = two_logs(&disk);
    // A proposer of the next term reads flushed WAL that will be truncated.
    let vote = vec![second.greet(), second.vote()];
    send(&mut owner.lock().unwrap(), vote);
    let mut early = owner.lock().unwrap().reader(ReadMode::Flushed(Term(2)));
    let from = first.ends[3];
    let result = Arc::new(Mutex::new(None));
    let read = result.clone();
    disk.interrupt(Moment::AfterRename, move || {
        let mut buffer = [0; 16];
        *read.lock().unwrap() = Some(early.read(from, &mut buffer).unwrap());
    });
    let elected = second.elected(second.ends[2]);
    send(&mut owner.lock().unwrap(), vec![elected]);
    let read = result.lock().unwrap().unwrap();
    assert!(
        matches!(read, ReadOutcome::Nothing | ReadOutcome::Changed),
        "{read:?}, though the truncation was not done"
    );
}

/// A log of which the first segments may be removed.
fn log_to_remove(disk: &Interrupted, receives_wal: bool) -> Owner {
    create(disk);
    let mut replica = open(disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    for _ in 0..30 {
        proposer.write(&[1; 1500]);
    }
    proposer.commit_lsn = proposer.end();
    proposer.horizon_lsn = proposer.end();
    send(&mut replica, proposer.appends());
    send(&mut replica, vec![proposer.heartbeat()]);
    if !receives_wal {
        let _ = replica.run_tick(Duration::from_secs(1));
        let _ = replica.run_tick(Duration::from_secs(50));
    }
    Arc::new(Mutex::new(replica))
}

fn remove(owner: &Owner) {
    let mut replica = owner.lock().unwrap();
    replica.set_keep_from(Lsn::MAX);
    let _ = replica.run_tick(Duration::from_secs(99));
    assert!(replica.snapshot().oldest_lsn > START);
}

/// A removal in the middle of a read never lets other bytes out.
#[test]
fn reader_drops_bytes_of_a_removed_segment() {
    for receives_wal in [false, true] {
        for moment in [Moment::BeforeOpen, Moment::AfterOpen, Moment::BeforeRead, Moment::AfterRead] {
            let disk = Interrupted::new();
            let owner = log_to_remove(&disk, receives_wal);
            let mut reader = owner.lock().unwrap().reader(ReadMode::Committed);
            let remover = owner.clone();
            disk.interrupt(moment, move || remove(&remover));
            let result = reader.read(START, &mut [0; 4000]);
            assert!(matches!(result, Err(ReadError::TooOld { from: START, .. })), "{moment:?}: {result:?}");
        }
    }
}

#[test]
fn reader_sees_a_removal_before_it_happens() {
    for moment in [Moment::BeforeRename, Moment::BeforeUnlink] {
        let disk = Interrupted::new();
        let owner = log_to_remove(&disk, moment == Moment::BeforeRename);
        let reader = Arc::new(Mutex::new(owner.lock().unwrap().reader(ReadMode::Committed)));
        assert!(reader.lock().unwrap().read(START, &mut [0; 10]).is_ok(), "the reader has the file open");
        let (seen, early) = (Arc::new(Mutex::new(None)), reader.clone());
        let result = seen.clone();
        disk.interrupt(moment, move || {
            *result.lock().unwrap() = Some(early.lock().unwrap().read(START, &mut [0; 10]));
        });
        remove(&owner);
        let seen = seen.lock().unwrap().take();
        assert!(matches!(seen, Some(Err(ReadError::TooOld { .. }))), "{moment:?}: {seen:?}");
    }
}

#[test]
fn reader_serves_what_a_lost_node_has() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    for _ in 0..4 {
        proposer.write(&[1; 1000]);
        send(&mut replica, proposer.appends());
    }
    proposer.commit_lsn = proposer.end();
    send(&mut replica, vec![proposer.heartbeat()]);
    let _ = replica.run_tick(Duration::from_secs(10));
    let mut reader = replica.reader(ReadMode::Committed);
    let mut buffer = [0; 5000];
    assert_eq!(reader.read(START, &mut buffer).unwrap(), ReadOutcome::Bytes(proposer.log.len()));

    disk.flip_bit("000000010000000000000001", 1300 * 8).unwrap();
    disk.fail(wal_store::Fault::Sync, 0);
    proposer.write(b"one more");
    let _ = replica.run(proposer.appends());
    send(&mut replica, vec![proposer.greet()]);
    let snapshot = replica.snapshot();
    assert_eq!((snapshot.health, snapshot.flush_lsn), (wal_store::Health::Lost, proposer.ends[1]));
    let left = proposer.ends[1].bytes_since(START) as usize;
    assert_eq!(reader.read(START, &mut buffer).unwrap(), ReadOutcome::Bytes(left));
    assert!(buffer[..left] == proposer.log[..left]);
    assert_eq!(reader.read(proposer.ends[1], &mut buffer).unwrap(), ReadOutcome::Nothing);
    assert_eq!(reader.read(proposer.ends[2], &mut buffer).unwrap(), ReadOutcome::Nothing);
}

#[test]
fn reader_serves_nothing_of_a_corrupt_timeline() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 1000]);
    proposer.commit_lsn = proposer.end();
    send(&mut replica, proposer.appends());
    let mut reader = replica.reader(ReadMode::Committed);
    for slot in 0..2 {
        disk.flip_bit("control", (slot * 32 * 1024 + 30) * 8).unwrap();
    }
    disk.fail(wal_store::Fault::Sync, 0);
    proposer.write(b"one more");
    let _ = replica.run(proposer.appends());
    let output = replica.run(vec![proposer.greet()]);
    assert!(matches!(&output.refused[..], [(_, wal_store::Rejection::Corrupt(_))]), "{output:?}");
    assert!(matches!(reader.read(START, &mut [0; 100]), Err(ReadError::Corrupt)));
    // The timeline stays corrupt.
    let _ = replica.run_tick(Duration::from_secs(100));
    assert_eq!(replica.snapshot().health, wal_store::Health::Corrupt);
}
