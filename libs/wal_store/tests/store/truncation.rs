//! Truncation of a log: at a segment start, and only at a record end; and the links over the truncated end.

use std::time::Duration;

use consensus::Refusal;
use wal_store::{Disk, Rejection};
use wal_types::Lsn;

use crate::both_disks::on_both_disks;
use crate::common::{Proposer, SEGMENT_BYTES, START, append_response_of, create, open, run, send};
use crate::log_checks::{check_dead_tail, read_log};

on_both_disks! {
    truncation_at_a_segment_start => check_cut_at_boundary;
    truncation_inside_a_record_is_refused => check_cut_inside_record;
    prev_link_is_checked_over_segment_boundary => check_prev_over_boundary;
}

fn check_cut_at_boundary<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(b"one");
    proposer.switch();
    let boundary = proposer.end();
    assert_eq!(boundary, Lsn(START.0 + SEGMENT_BYTES));
    // A switch counts when its padding is there.
    let output = run(&mut replica, vec![proposer.append_range(START, Lsn(boundary.0 - 100))]);
    assert_eq!(append_response_of(&output).unwrap().flush_lsn, proposer.ends[1]);
    proposer.start_from(Lsn(boundary.0 - 100));
    for _ in 0..20 {
        proposer.write(&[8; 2000]);
    }
    send(&mut replica, proposer.appends());

    let mut next = Proposer::after(&proposer, 2, 2);
    next.lead(&mut replica, boundary);
    assert_eq!(replica.snapshot().flush_lsn, boundary);
    next.write(b"two");
    send(&mut replica, next.appends());
    drop(replica);
    let replica = open(&disk);
    assert_eq!(read_log(&replica), next.log);
    check_dead_tail(&disk, next.end());

    let mut last = Proposer::after(&next, 3, 0);
    drop(replica);
    let mut replica = open(&disk);
    last.lead(&mut replica, START);
    assert_eq!(replica.snapshot().flush_lsn, START);
    drop(replica);
    assert_eq!(open(&disk).snapshot().flush_lsn, START);
}

fn check_cut_inside_record<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 500]);
    proposer.write(&[2; 500]);
    send(&mut replica, proposer.appends());

    let mut liar = Proposer::first(2);
    let inside = Lsn(proposer.ends[1].0 + 64);
    liar.history = crate::common::history(&[(1, START), (2, inside)]);
    let output = replica.run(vec![liar.greet(), liar.vote(), liar.elected(inside)]);
    assert!(matches!(&output.refused[..], [(_, Rejection::Protocol(Refusal::NotWal(_)))]), "{output:?}");
    assert_eq!(read_log(&replica), proposer.log);
}

/// Also when a start of the log, or a truncation, is exactly where the segment begins.
fn check_prev_over_boundary<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(b"one");
    proposer.switch();
    let boundary = proposer.end();
    proposer.commit_lsn = boundary;
    send(&mut replica, proposer.appends());
    send(&mut replica, vec![proposer.heartbeat()]);
    let _ = replica.run_tick(Duration::from_secs(1));
    assert_eq!(replica.snapshot().persisted_commit_lsn, boundary);
    drop(replica);

    let mut replica = open(&disk);
    let mut stranger = Proposer::after(&proposer, 2, 2);
    stranger.lead(&mut replica, boundary);
    stranger.forget_last_record();
    stranger.write(b"of a log that was another one below");
    let output = replica.run(stranger.appends());
    assert!(matches!(&output.refused[..], [(_, Rejection::Protocol(Refusal::NotWal(_)))]), "{output:?}");

    let mut next = Proposer::after(&proposer, 3, 2);
    next.lead(&mut replica, boundary);
    next.write(b"two");
    send(&mut replica, next.appends());
    let mut stranger = Proposer::after(&next, 4, 2);
    stranger.lead(&mut replica, boundary);
    stranger.forget_last_record();
    stranger.write(b"the same after a cut");
    let output = replica.run(stranger.appends());
    assert!(matches!(&output.refused[..], [(_, Rejection::Protocol(Refusal::NotWal(_)))]), "{output:?}");
}
