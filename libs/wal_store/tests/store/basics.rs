//! A log without faults, on both disks: appends, votes, restarts, checksums, creation.

use std::time::Duration;

use consensus::{AcceptorMessage, ChecksumRequest, ConnectionId, ProposerMessage, Refusal};
use wal_store::{Disk, Health, Input, InvalidLineage, ModelDisk, Rejection, Replica, StoreError};
use wal_types::{Generation, Lsn, NodeId, Term};

use crate::both_disks::on_both_disks;
use crate::common::{
    NODE, Proposer, SEGMENT_BYTES, START, append_response_of, configuration, create, lineage, open, run,
    send, vote_of,
};
use crate::log_checks::{check_dead_tail, read_log};

on_both_disks! {
    append_survives_a_restart => check_restart;
    vote_reports_appends_before_it => check_barrier;
    append_of_non_wal_is_refused_unwritten => check_no_wal;
    append_may_be_resent_after_reconnect => check_same_term;
    partial_record_is_not_acknowledged_nor_kept => check_partial_record;
    checksum_is_that_of_the_bytes => check_checksum;
    commit_lsn_is_persisted_by_ticks => check_lazy_commit;
    open_accepts_a_log_without_records => check_empty;
    create_refuses_a_second_time_and_another_node => check_create;
}

fn check_restart<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    for record in 0..200u8 {
        proposer.write(&vec![record; usize::from(record) * 7]);
    }
    let output = run(&mut replica, proposer.appends());
    assert_eq!(append_response_of(&output).unwrap().flush_lsn, proposer.end());
    drop(replica);

    let replica = open(&disk);
    let snapshot = replica.snapshot();
    assert_eq!((snapshot.flush_lsn, snapshot.write_lsn), (proposer.end(), proposer.end()));
    assert_eq!((snapshot.term, snapshot.last_log_term), (Term(1), Term(1)));
    assert_eq!((snapshot.health, replica.disk_id()), (Health::Healthy, [5; 16]));
    assert_eq!(read_log(&replica), proposer.log);
    check_dead_tail(&disk, proposer.end());
}

fn check_barrier<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(b"opens the segment");
    send(&mut replica, proposer.appends());
    proposer.write(b"before the vote");
    let next = Proposer::first(2);
    let mut batch = proposer.appends();
    batch.extend([next.greet(), next.vote(), proposer.heartbeat()]);
    let output = run(&mut replica, batch);
    let vote = vote_of(&output).unwrap();
    assert_eq!((vote.vote_given, vote.flush_lsn), (true, proposer.end()));
    // The proposer of term 1 gets the reply to its append, and then learns that it was deposed.
    let appends: Vec<_> = output
        .replies
        .iter()
        .filter_map(|(_, reply)| match reply {
            AcceptorMessage::Append(response) => Some((response.term, response.flush_lsn)),
            _ => None,
        })
        .collect();
    assert_eq!(appends, [(Term(1), proposer.end()), (Term(2), Lsn::INVALID)]);
}

fn check_no_wal<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(b"good");
    send(&mut replica, proposer.appends());
    let good = proposer.clone();
    proposer.write(&[7; 300]);
    *proposer.log.last_mut().unwrap() ^= 1;
    *proposer.log.get_mut(good.log.len() + 100).unwrap() ^= 1;

    // A connection that is not the leader's is refused for that first, whatever it sends.
    let stranger = ConnectionId(99);
    let garbage = proposer.appends().remove(0).1;
    let output = replica.run(vec![(stranger, crate::common::hello()), (stranger, garbage.clone())]);
    assert!(matches!(output.refused[..], [(_, Rejection::Protocol(Refusal::NotElected { .. }))]));

    let output = replica.run(vec![(proposer.connection, garbage), proposer.heartbeat()]);
    assert!(matches!(output.refused[..], [(_, Rejection::Protocol(Refusal::NotWal(_)))]), "{output:?}");
    assert_eq!(replica.snapshot().write_lsn, good.end());
    check_dead_tail(&disk, good.end());

    // The log can be continued.
    let mut next = Proposer::after(&good, 2, 1);
    next.lead(&mut replica, good.end());
    next.write(b"better");
    send(&mut replica, next.appends());
    assert_eq!(read_log(&replica), next.log);
}

fn check_same_term<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    for _ in 0..10 {
        proposer.write(&[3; 3000]);
    }
    send(&mut replica, proposer.appends_of(7000));
    let truncations = replica.snapshot().truncations;

    let back = ConnectionId(50);
    let start = proposer.ends[4];
    proposer.write(&[4; 3000]);
    let resent = proposer.append_range(start, proposer.end()).1;
    let output = run(
        &mut replica,
        vec![(back, crate::common::hello()), (back, proposer.elected(start).1), (back, resent)],
    );
    assert_eq!(append_response_of(&output).unwrap().flush_lsn, proposer.end());
    assert_eq!(replica.snapshot().truncations, truncations, "nothing was truncated");
    drop(replica);
    assert_eq!(read_log(&open(&disk)), proposer.log);
}

fn check_partial_record<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(b"whole");
    proposer.write(&[9; 30_000]);
    let whole = proposer.ends[1];
    // Half of the second record, over a segment boundary.
    let part = proposer.append_range(START, Lsn(proposer.end().0 - 8000));
    let output = run(&mut replica, vec![part]);
    assert_eq!(append_response_of(&output).unwrap().flush_lsn, whole);
    assert!(replica.snapshot().write_lsn > whole);
    drop(replica);
    let replica = open(&disk);
    assert_eq!((replica.snapshot().flush_lsn, replica.snapshot().write_lsn), (whole, whole));
    check_dead_tail(&disk, whole);
}

fn check_checksum<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    for _ in 0..20 {
        proposer.write(&[1; 2000]);
    }
    send(&mut replica, proposer.appends());
    let (from, to) = (Lsn(START.0 + 9000), Lsn(START.0 + 9000 + SEGMENT_BYTES));
    let request = ChecksumRequest { generation: Generation(1), term: Term(1), from, to };
    let output = run(&mut replica, vec![proposer.message(ProposerMessage::Checksum(request))]);
    let expected = crc32c::crc32c(&proposer.log[9000..9000 + SEGMENT_BYTES as usize]);
    assert!(
        matches!(&output.replies[..], [(_, AcceptorMessage::Checksum(answer))] if answer.crc32c == Some(expected))
    );
}

fn check_lazy_commit<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(b"one");
    send(&mut replica, proposer.appends());
    let _ = replica.run_tick(Duration::from_secs(10));
    proposer.commit_lsn = proposer.end();
    send(&mut replica, vec![proposer.heartbeat()]);
    let snapshot = replica.snapshot();
    assert_eq!((snapshot.commit_lsn, snapshot.persisted_commit_lsn), (proposer.end(), START));
    let _ = replica.run_tick(Duration::from_secs(19));
    assert_eq!(replica.snapshot().persisted_commit_lsn, START, "not yet");
    let _ = replica.run_tick(Duration::from_secs(20));
    assert_eq!(replica.snapshot().persisted_commit_lsn, proposer.end());
    drop(replica);
    assert_eq!(open(&disk).snapshot().commit_lsn, proposer.end());
}

fn check_empty<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    drop(replica);
    let snapshot = open(&disk).snapshot();
    assert_eq!((snapshot.flush_lsn, snapshot.commit_lsn, snapshot.term), (START, START, Term(1)));
}

fn check_create<D: Disk>(disk: D) {
    assert!(matches!(Replica::open(disk.clone(), NODE), Err(StoreError::Missing)));
    create(&disk);
    let again = Replica::create(&disk, crate::common::COPY, [6; 16], lineage(), configuration());
    assert!(matches!(again, Err(StoreError::Exists)));
    let other = Replica::open(disk.clone(), NodeId(2));
    assert!(matches!(other, Err(StoreError::OtherNode { expected: NodeId(2), found: NODE })));
    let mut crooked = lineage();
    crooked.start_lsn = Lsn(START.0 + 8);
    let crooked = Replica::create(&disk, crate::common::COPY, [6; 16], crooked, configuration());
    assert!(matches!(crooked, Err(StoreError::InvalidLineage(InvalidLineage::StartInsideSegment(_)))));
}

/// A log without a system identifier takes that of its WAL, and refuses another.
#[test]
fn greeting_sets_an_unknown_cluster_once() {
    let disk = ModelDisk::new();
    let mut lineage = lineage();
    lineage.system_id = wal_types::SystemId(0);
    Replica::create(&disk, crate::common::COPY, [5; 16], lineage, configuration()).unwrap();
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    let anonymous = |system_id| {
        let Input::Message(ProposerMessage::Greeting(mut greeting)) = crate::common::hello() else {
            panic!("a greeting")
        };
        greeting.system_id = wal_types::SystemId(system_id);
        Input::Message(ProposerMessage::Greeting(greeting))
    };
    send(&mut replica, vec![(proposer.connection, anonymous(0)), proposer.vote(), proposer.elected(START)]);
    proposer.write(b"tells the cluster in its page header");
    send(&mut replica, proposer.appends());

    let output = replica.run(vec![(ConnectionId(8), anonymous(78))]);
    assert!(matches!(&output.refused[..], [(_, Rejection::Protocol(Refusal::NotWal(_)))]), "{output:?}");
    send(&mut replica, vec![(ConnectionId(9), anonymous(77))]);
    proposer.write(b"goes on");
    send(&mut replica, proposer.appends());
    drop(replica);
    let replica = open(&disk);
    assert_eq!(replica.snapshot().lineage.system_id, wal_types::SystemId(77));
    assert_eq!(read_log(&replica), proposer.log);
}
