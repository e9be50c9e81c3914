//! Work for another thread: segments and recoveries. What the replica does meanwhile, and what a crash leaves.

use std::time::Duration;

use wal_store::{Fault, Health, ModelDisk, Rejection, Replica};
use wal_types::Lsn;

use crate::common::{
    Proposer, SEGMENT_BYTES, START, append_response_of, create, nothing_survives, open, random, run, send,
    vote_of,
};
use crate::log_checks::{check_dead_tail, read_log};

/// A log with one segment, almost full, and no spare.
fn almost_full(disk: &ModelDisk) -> (Replica<ModelDisk>, Proposer) {
    create(disk);
    let mut replica = open(disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 15_000]);
    send(&mut replica, proposer.appends());
    (replica, proposer)
}

/// An append that needs a segment waits for the other thread; votes, and appends with room, do not.
#[test]
fn append_without_segment_blocks_no_thread() {
    let disk = ModelDisk::new();
    let (mut replica, mut proposer) = almost_full(&disk);
    let acked = proposer.end();
    proposer.write(&[2; 6000]);
    let before = disk.operations();
    replica.write(proposer.appends());
    let output = replica.sync();
    assert_eq!(output.undecided.len(), 1);
    assert_eq!(append_response_of(&output).unwrap().flush_lsn, acked, "the proposer hears something");
    assert_eq!(disk.operations(), before, "nothing was written");
    assert_eq!(replica.snapshot().health, Health::Healthy, "the disk has room");

    let work = replica.take_work().unwrap();
    assert!(!work.is_recovery());
    assert!(replica.take_work().is_none(), "one at a time");
    // The blank segment is being written. A vote is answered.
    let next = Proposer::first(2);
    replica.write(vec![next.greet(), next.vote()]);
    assert!(vote_of(&replica.sync()).unwrap().vote_given);

    let done = work.run();
    let _ = replica.finish(done);
    let mut third = Proposer::after(&proposer, 3, 1);
    third.lead(&mut replica, acked);
    third.write(&[3; 6000]);
    replica.write(third.appends());
    let output = replica.sync();
    assert!(output.undecided.is_empty(), "the segment is there");
    assert_eq!(append_response_of(&output).unwrap().flush_lsn, third.end());
}

/// The log above is truncated while the next segment is written: the blank file has the wrong place, and goes.
#[test]
fn truncation_makes_prepared_segment_useless() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    for _ in 0..30 {
        proposer.write(&[1; 2000]);
    }
    replica.write(proposer.appends());
    let mut waiting = replica.sync().undecided;
    while proposer.end() > Lsn(replica.snapshot().write_lsn.0 + SEGMENT_BYTES) {
        let work = replica.take_work().unwrap();
        let _ = replica.finish(work.run());
        replica.write(waiting);
        waiting = replica.sync().undecided;
        if waiting.is_empty() {
            break;
        }
    }
    let work = replica.take_work().expect("the spare of a log that receives WAL");
    let next = Proposer::after(&proposer, 2, 3);
    send(&mut replica, vec![next.greet(), next.vote(), next.elected(next.end())]);
    let _ = replica.finish(work.run());
    assert_eq!(replica.snapshot().health, Health::Healthy);
    assert_eq!(read_log(&replica), next.log);
    assert!(wal_store::Disk::list(&disk).unwrap().iter().all(|name| !name.ends_with(".unfinished")));
    drop(replica);
    let disk = disk.crash(&mut nothing_survives);
    assert_eq!(read_log(&open(&disk)), next.log);
    check_dead_tail(&disk, next.end());
}

/// Neither messages nor ticks read a failed log: only the work does, and others are served meanwhile.
#[test]
fn failed_log_is_recovered_elsewhere_only() {
    let disk = ModelDisk::new();
    let (mut replica, mut proposer) = almost_full(&disk);
    proposer.write(&[2; 100]);
    disk.fail(Fault::Sync, 0);
    replica.write(proposer.appends());
    assert_eq!(replica.sync().refused.len(), 1);
    let before = disk.operations();
    replica.write(vec![proposer.greet()]);
    let output = replica.sync();
    assert!(matches!(&output.refused[..], [(_, Rejection::Disk(_))]), "{output:?}");
    let _ = replica.tick(Duration::from_secs(5));
    assert_eq!((disk.operations(), replica.snapshot().health), (before, Health::Failed));

    let work = replica.take_work().unwrap();
    assert!(work.is_recovery() && replica.take_work().is_none());
    let done = work.run();
    // A connection that comes before the result does is refused.
    replica.write(vec![proposer.greet()]);
    assert_eq!(replica.sync().refused.len(), 1);
    let _ = replica.finish(done);
    assert_eq!(replica.snapshot().health, Health::Healthy);
    let _ = run(&mut replica, vec![proposer.greet()]);
}

/// The disk fails while another thread writes a segment. The recovery waits for that thread.
#[test]
fn recovery_waits_for_segment_under_way() {
    let disk = ModelDisk::new();
    let (mut replica, mut proposer) = almost_full(&disk);
    proposer.write(&[2; 100]);
    let work = replica.take_work().expect("the spare of a log that receives WAL");
    disk.fail(Fault::Sync, 0);
    replica.write(proposer.appends());
    assert_eq!(replica.sync().refused.len(), 1);
    let _ = replica.tick(Duration::from_secs(5));
    assert!(replica.take_work().is_none());
    let _ = replica.finish(work.run());
    let recovery = replica.take_work().unwrap();
    assert!(recovery.is_recovery());
    let _ = replica.finish(recovery.run());
    assert_eq!(replica.snapshot().health, Health::Healthy);
    assert!(proposer.log.starts_with(&read_log(&replica)));
}

/// The machine goes down at any step of the work, and while the log takes the segment.
#[test]
fn crash_in_segment_work_keeps_log() {
    for step in 0.. {
        let disk = ModelDisk::new();
        let (mut replica, proposer) = almost_full(&disk);
        let work = replica.take_work().expect("the spare of a log that receives WAL");
        disk.crash_after(step);
        let _ = replica.finish(work.run());
        let has_crashed = disk.has_crashed();
        drop(replica);
        for outcome in 0..8 {
            let disk = disk.fork().crash(&mut random(step * 100 + outcome));
            let replica = open(&disk);
            assert_eq!(replica.snapshot().health, Health::Healthy, "step {step}");
            assert!(read_log(&replica) == proposer.log, "step {step}");
            check_dead_tail(&disk, proposer.end());
        }
        if !has_crashed {
            assert!(step > 5, "{step} steps");
            break;
        }
    }
}
