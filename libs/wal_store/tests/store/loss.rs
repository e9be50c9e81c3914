//! Crashes in the recovery of a damaged log. Whatever the disk keeps: until a leader has repaired the node it is damaged
//! as before, or lost. It never votes with less than it acknowledged.

use consensus::Loss;
use wal_store::{Disk, Fault, Health, ModelDisk, StoreError};
use wal_types::{Lsn, Term};

use crate::common::{Proposer, SEGMENT_BYTES, all_survives, nothing_survives, open, random, try_open};
use crate::damaged_log::{acknowledged_log, rot, rot_footer, segment_name};
use crate::log_checks::{check_dead_tail, read_log};

/// Random outcomes of the power failure for each step.
const OUTCOMES: u64 = if cfg!(debug_assertions) { 6 } else { 100 };

/// Logs with one kind of damage each.
fn damages() -> Vec<(&'static str, ModelDisk, Proposer)> {
    let damage = |what, act: &dyn Fn(&ModelDisk, &Proposer)| {
        let (disk, proposer) = acknowledged_log(true);
        act(&disk, &proposer);
        disk.sync_dir().unwrap();
        (what, disk, proposer)
    };
    let last = |proposer: &Proposer| proposer.end().0 / SEGMENT_BYTES;
    vec![
        damage("rot above the commit position", &|disk, proposer| rot(disk, Lsn(proposer.ends[12].0 + 200))),
        damage("rot below the commit position", &|disk, proposer| rot(disk, Lsn(proposer.ends[2].0 + 200))),
        damage("rot in the last record", &|disk, proposer| {
            rot(disk, Lsn(proposer.ends[proposer.ends.len() - 2].0 + 200));
        }),
        damage("the first segment is gone", &|disk, _| disk.unlink(&segment_name(1)).unwrap()),
        damage("a segment is gone", &|disk, _| disk.unlink(&segment_name(2)).unwrap()),
        damage("the last segment is gone", &|disk, proposer| {
            disk.unlink(&segment_name(last(proposer))).unwrap();
        }),
        damage("a segment lost its footers", &|disk, proposer| {
            rot_footer(disk, last(proposer), 0);
            rot_footer(disk, last(proposer), 1);
        }),
    ]
}

/// Checks a node after a crash in the middle of a recovery.
fn check(what: &str, step: u64, disk: &ModelDisk, proposer: &Proposer) {
    let replica = open(disk);
    let snapshot = replica.snapshot();
    assert_eq!(snapshot.health, Health::Lost, "{what}, step {step}");
    let Some(Loss { term: Term(1), acked_upto }) = snapshot.lost else { panic!("{what}, step {step}") };
    assert!(acked_upto >= proposer.end(), "{what}, step {step}: {acked_upto}");
    assert!(proposer.log.starts_with(&read_log(&replica)), "{what}, step {step}");
    check_dead_tail(disk, snapshot.flush_lsn);
}

/// The crash comes at every step of the recovery of a damaged log.
#[test]
fn crash_in_recovery_leaves_a_lost_node() {
    for (what, damaged, proposer) in damages() {
        let mut step = 0;
        loop {
            let disk = damaged.fork();
            disk.crash_after(step);
            let is_done = try_open(&disk).is_ok();
            for outcome in 0..OUTCOMES {
                let mut random = random(step * 1000 + outcome);
                check(what, step, &disk.fork().crash(&mut random), &proposer);
            }
            for survives in [nothing_survives, all_survives] {
                check(what, step, &disk.fork().crash(&mut { survives }), &proposer);
            }
            check(what, step, &disk.fork().kill(), &proposer);
            if is_done {
                break;
            }
            step += 1;
        }
        assert!(step > 8, "{what}: {step} steps");
    }
}

/// A second crash in the recovery of what the first one left.
#[test]
fn second_crash_in_recovery_leaves_lost_node() {
    for (what, damaged, proposer) in damages() {
        let mut random = random(11);
        for round in 0..40 * OUTCOMES {
            let mut disk = damaged.fork();
            for _ in 0..2 + random() % 3 {
                disk.crash_after(random() % 40);
                let _ = try_open(&disk);
                disk = disk.crash(&mut random);
            }
            check(what, round, &disk, &proposer);
        }
    }
}

/// The fault comes at every step of the recovery of a damaged log.
#[test]
fn fault_in_recovery_leaves_a_lost_node() {
    for (what, damaged, proposer) in damages() {
        for fault in [Fault::Sync, Fault::Write, Fault::SyncDir, Fault::Read] {
            for after in 0..60 {
                let disk = damaged.fork();
                disk.fail(fault, after);
                match try_open(&disk) {
                    Ok(_) => {}
                    Err(StoreError::Corrupt(what)) => panic!("{what}"),
                    Err(_) => check(what, after, &disk.fork().kill(), &proposer),
                }
                check(what, after, &disk.crash(&mut nothing_survives), &proposer);
            }
        }
    }
}

#[test]
fn damaged_log_on_full_disk_opens_later() {
    for (what, disk, proposer) in damages() {
        disk.set_capacity_bytes(Some(disk.used_bytes()));
        match try_open(&disk) {
            Ok(_) | Err(StoreError::Full { .. }) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        disk.set_capacity_bytes(None);
        check(what, 0, &disk, &proposer);
    }
}

#[test]
fn second_loss_keeps_the_higher_position() {
    let (disk, proposer) = acknowledged_log(true);
    rot(&disk, Lsn(proposer.ends[12].0 + 200));
    let first = open(&disk).snapshot();
    rot(&disk, Lsn(proposer.ends[8].0 + 200));
    let second = open(&disk).snapshot();
    assert_eq!((first.flush_lsn, second.flush_lsn), (proposer.ends[12], proposer.ends[8]));
    assert_eq!(second.lost, Some(Loss { term: Term(1), acked_upto: proposer.end() }));
    assert_eq!(second.lost, first.lost);
}

/// WAL that the leader repaired stays repaired, and the loss is remembered until the acceptor clears it.
#[test]
fn lost_node_accepts_wal_of_a_leader() {
    let (disk, proposer) = acknowledged_log(true);
    rot(&disk, Lsn(proposer.ends[12].0 + 200));
    let mut replica = open(&disk);
    let mut next = Proposer::after(&proposer, 2, proposer.ends.len() - 1);
    next.write(b"of the next term");
    let start = proposer.ends[12];
    let output = replica.run(vec![next.greet(), next.elected(start)]);
    assert_eq!(output.refused, []);
    next.start_from(start);
    next.commit_lsn = next.end();
    let output = replica.run(next.appends());
    assert_eq!(output.refused, []);
    assert!(read_log(&replica) == next.log);
    drop(replica);
    assert!(read_log(&open(&disk)) == next.log);
}
