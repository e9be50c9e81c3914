//! Dead tails: two servers that part from one log can write records of the same lengths at the same positions. What the
//! first one left behind the end of the second is then a continuation that passes every check of a record.

use wal_format::RecordScanner;
use wal_store::{Disk, ModelDisk};
use wal_types::Lsn;

use crate::both_disks::on_both_disks;
use crate::common::{Proposer, START, context, create, open, random, send};
use crate::log_checks::{check_dead_tail, read_log};

/// Records that both servers write after they parted; the second one gets less far.
const FIRST_WRITES: usize = 60;
const SECOND_WRITES: usize = 25;
const COMMON: usize = 10;

fn forks() -> (Proposer, Proposer) {
    let mut first = Proposer::first(1);
    for _ in 0..COMMON {
        first.write(&[0; 700]);
    }
    let mut second = Proposer::after(&first, 2, COMMON);
    for _ in 0..FIRST_WRITES {
        first.write(&[1; 700]);
    }
    for _ in 0..SECOND_WRITES {
        second.write(&[2; 700]);
    }
    (first, second)
}

#[test]
fn dead_tail_would_scan_as_a_continuation() {
    let (first, second) = forks();
    assert_eq!(first.ends[..second.ends.len()], second.ends[..], "equal layout");
    let mut overwritten = first.log.clone();
    overwritten[..second.log.len()].copy_from_slice(&second.log);
    let mut scanner = RecordScanner::at_segment_start(context(), START);
    scanner.feed(&overwritten).unwrap();
    assert_eq!(scanner.record_end(), first.end(), "else the tests below show nothing");
}

on_both_disks! {
    dead_tail_of_equal_layout_is_erased => check_truncated_tail;
    dead_tail_of_an_earlier_process_is_erased => check_truncated_tail_after_restart;
    torn_tail_is_erased_before_new_writes => check_torn_tail;
}

fn check_truncated_tail<D: Disk>(disk: D) {
    let (mut first, mut second) = forks();
    create(&disk);
    let mut replica = open(&disk);
    first.lead(&mut replica, START);
    send(&mut replica, first.appends());
    second.lead(&mut replica, second.ends[COMMON]);
    send(&mut replica, second.appends());
    check(disk, replica, &second);
}

fn check_truncated_tail_after_restart<D: Disk>(disk: D) {
    let (mut first, mut second) = forks();
    create(&disk);
    let mut replica = open(&disk);
    first.lead(&mut replica, START);
    send(&mut replica, first.appends());
    drop(replica);
    let mut replica = open(&disk);
    second.lead(&mut replica, second.ends[COMMON]);
    drop(replica);
    check_dead_tail(&disk, second.ends[COMMON]);
    // The same term goes on in another process.
    let mut replica = open(&disk);
    send(&mut replica, vec![second.greet(), second.elected(second.ends[COMMON])]);
    send(&mut replica, second.appends());
    check(disk, replica, &second);
}

/// No truncation here: a batch of the first server is torn, and one sector of it is missing.
fn check_torn_tail<D: Disk>(disk: D) {
    let (mut first, mut second) = forks();
    create(&disk);
    let mut replica = open(&disk);
    first.lead(&mut replica, START);
    let torn = first.ends[COMMON];
    send(&mut replica, vec![first.append_range(START, torn)]);
    let rest = first.append_range(torn, first.end());
    send(&mut replica, vec![rest]);
    drop(replica);
    let offset = torn.bytes_since(START);
    zero(&disk, offset);

    let mut replica = open(&disk);
    assert_eq!(replica.snapshot().flush_lsn, torn);
    check_dead_tail(&disk, torn);
    second.lead(&mut replica, torn);
    send(&mut replica, second.appends());
    check(disk, replica, &second);
}

fn zero<D: Disk>(disk: &D, offset: u64) {
    use wal_store::DiskFile;
    let file = disk.open("000000010000000000000001").unwrap();
    file.write_at(offset, &[0; 24]).unwrap();
    file.sync_data().unwrap();
}

fn check<D: Disk>(disk: D, replica: wal_store::Replica<D>, second: &Proposer) {
    assert_eq!(replica.snapshot().flush_lsn, second.end());
    drop(replica);
    let replica = open(&disk);
    assert_eq!(replica.snapshot().flush_lsn, second.end(), "the scan ends where the second server ended");
    assert_eq!(read_log(&replica), second.log);
    check_dead_tail(&disk, second.end());
}

#[test]
fn dead_tail_stays_erased_over_crashes() {
    let operations = {
        let disk = ModelDisk::new();
        truncate_and_write(&disk, &mut |_| {});
        disk.operations()
    };
    for step in 0..=operations {
        for seed in 0..8 {
            let disk = ModelDisk::new();
            disk.crash_after(step);
            let (mut acked, mut led) = (START, false);
            truncate_and_write(&disk, &mut |progress| match progress {
                Step::Led => (led, acked) = (true, forks().1.ends[COMMON]),
                Step::Acked(lsn) => acked = lsn,
            });
            let disk = disk.crash(&mut random(step * 100 + seed));
            let Ok(replica) = crate::common::try_open(&disk) else {
                assert_eq!((acked, led), (START, false));
                continue;
            };
            let (end, log) = (replica.snapshot().flush_lsn, read_log(&replica));
            check_dead_tail(&disk, end);
            let (first, second) = forks();
            assert!(end >= if led { acked } else { acked.min(second.ends[COMMON]) });
            assert!(second.log.starts_with(&log) || !led && first.log.starts_with(&log), "a mixture");
        }
    }
}

enum Step {
    Led,
    Acked(Lsn),
}

fn truncate_and_write(disk: &ModelDisk, progress: &mut dyn FnMut(Step)) {
    let (mut first, mut second) = forks();
    let create = || {
        use crate::common::{configuration, lineage};
        wal_store::Replica::create(disk, crate::common::COPY, [5; 16], lineage(), configuration())
    };
    if create().is_err() {
        return;
    }
    let Ok(mut replica) = crate::common::try_open(disk) else { return };
    let mut run = |batch| {
        let output = replica.run(batch);
        let acked = crate::common::append_response_of(&output).map(|response| response.flush_lsn);
        if output.refused.is_empty() { Some(acked) } else { None }
    };
    if run(vec![first.greet(), first.vote(), first.elected(START)]).is_none() {
        return;
    }
    match run(first.appends()) {
        None => return,
        Some(acked) => progress(Step::Acked(acked.unwrap())),
    }
    if run(vec![second.greet(), second.vote()]).is_none() {
        return;
    }
    if run(vec![second.elected(second.ends[COMMON])]).is_none() {
        return;
    }
    progress(Step::Led);
    second.start_from(second.ends[COMMON]);
    for piece in second.appends_of(5000) {
        match run(vec![piece]) {
            None => return,
            Some(acked) => progress(Step::Acked(acked.unwrap())),
        }
    }
}
