//! Streaming: common points, donors, the buffer, and responses that fit no request.

use super::*;

#[test]
fn voters_stream_from_their_common_point() {
    let logs: [Log<'_>; 3] = [(40, &[(1, 8), (3, 24)]), (32, &[(1, 8), (2, 24)]), (16, &[(1, 8)])];
    let mut proposer = leading(9, &logs);
    for (node, start) in [(1, 40), (2, 24), (3, 16)] {
        let messages = drain(&mut proposer, node);
        assert_eq!(elected_of(&messages).start_streaming_at, Lsn(start), "safekeeper {node}");
        assert_eq!(elected_of(&messages).history, history(&[(1, 8), (3, 24), (9, 40)]));
        assert_eq!(appends(&messages)[0].wal, "", "the first append asks what is durable");
    }
}

#[test]
fn lagging_safekeeper_is_fed_from_donor_then_buffer() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (16, &[(1, 8)])]);
    (1..=2).for_each(|node| drop(drain(&mut proposer, node)));
    let fetch = proposer.poll_fetch(NodeId(2)).unwrap();
    assert_eq!((fetch.donor, fetch.from, fetch.until), (NodeId(1), Lsn(16), Lsn(40)));
    assert_eq!(proposer.poll_fetch(NodeId(1)), None);
    assert!(proposer.append(Lsn(40), Bytes::from_static(b"new")));
    assert_eq!(drain(&mut proposer, 2), [], "a hole is never sent over");
    assert!(!proposer.fetched(NodeId(2), NodeId(1), Lsn(20), &Bytes::from_static(b"elsewhere")));
    assert!(proposer.fetched(NodeId(2), NodeId(1), Lsn(16), &Bytes::from(vec![b'x'; 24])));
    let messages = drain(&mut proposer, 2);
    let ranges: Vec<_> =
        appends(&messages).iter().map(|append| (append.begin_lsn.0, append.end_lsn().0)).collect();
    assert_eq!(ranges, [(16, 40), (40, 43)]);
}

/// The election names one of two equal logs by its safekeeper's id. The other one may be read just as well, before it has
/// acknowledged anything.
#[test]
fn every_equal_log_may_donate() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (16, &[(1, 8)]), (40, &[(1, 8)])]);
    (1..=3).for_each(|node| drop(drain(&mut proposer, node)));
    let donor = |proposer: &Proposer| proposer.poll_fetch(NodeId(2)).map(|fetch| (fetch.donor, fetch.until));
    assert_eq!(donor(&proposer), Some((NodeId(3), Lsn(40))));
    proposer.disconnected(NodeId(3));
    assert_eq!(donor(&proposer), Some((NodeId(1), Lsn(40))));
    assert!(!proposer.is_stuck());
}

/// A log that parts from the newest one gives only what both have in common.
#[test]
fn donor_gives_what_logs_have_in_common() {
    let logs: [Log<'_>; 3] = [(40, &[(1, 8), (3, 24)]), (32, &[(1, 8), (2, 24)]), (16, &[(1, 8)])];
    let mut proposer = leading(9, &logs);
    (1..=3).for_each(|node| drop(drain(&mut proposer, node)));
    let donor = |proposer: &Proposer| proposer.poll_fetch(NodeId(3)).map(|fetch| (fetch.donor, fetch.until));
    assert_eq!(donor(&proposer), Some((NodeId(1), Lsn(40))));
    proposer.disconnected(NodeId(1));
    assert_eq!(donor(&proposer), Some((NodeId(2), Lsn(24))));
}

/// A lagging safekeeper whose connection ended after the bytes of one donor is fed by another donor.
#[test]
fn donor_is_distrusted_after_a_disconnect() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (16, &[(1, 8)]), (40, &[(1, 8)])]);
    (1..=3).for_each(|node| drop(drain(&mut proposer, node)));
    for node in [1, 3] {
        acknowledge(&mut proposer, node, 9, 40, 0).unwrap();
    }

    let lagging = NodeId(2);
    let donor = |proposer: &Proposer| proposer.poll_fetch(lagging).map(|fetch| fetch.donor);
    let first = donor(&proposer).unwrap();
    let again = |proposer: &mut Proposer| {
        proposer.disconnected(lagging);
        greet(proposer, 2, 9).unwrap();
        drain(proposer, 2);
        vote(proposer, 2, false, 9, (16, &[(1, 8)])).unwrap();
        drain(proposer, 2);
    };

    again(&mut proposer);
    assert_eq!(donor(&proposer), Some(first), "the donor gave no bytes that could have been refused");
    assert!(proposer.fetched(lagging, first, Lsn(16), &Bytes::from_static(b"rotten")));
    again(&mut proposer);
    let second = donor(&proposer).unwrap();
    assert_ne!(second, first);

    // A donor that cannot give anything is distrusted, too.
    proposer.donor_failed(lagging, second);
    assert_eq!(donor(&proposer), Some(first));
    proposer.disconnected(first);
    assert_eq!(donor(&proposer), Some(second), "no other safekeeper holds it");
}

/// A safekeeper that nobody can feed any more is named, and waits.
#[test]
fn removed_wal_makes_follower_need_a_reseed() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (16, &[(1, 8)]), (40, &[(1, 8)])]);
    (1..=3).for_each(|node| drop(drain(&mut proposer, node)));
    let lagging = NodeId(2);
    let needs_reseed =
        |proposer: &Proposer| proposer.status().iter().find(|peer| peer.id == lagging).unwrap().needs_reseed;
    let first = proposer.poll_fetch(lagging).unwrap();
    proposer.donor_removed(first.donor, first.from);
    let second = proposer.poll_fetch(lagging).unwrap();
    assert_ne!(second.donor, first.donor);
    assert!(!needs_reseed(&proposer));
    proposer.donor_removed(second.donor, second.from);
    assert_eq!(proposer.poll_fetch(lagging), None);
    assert!(needs_reseed(&proposer));
}

/// What no safekeeper has flushed stays in the buffer, beyond its size.
#[test]
fn buffer_keeps_unflushed_wal() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (40, &[(1, 8)])]);
    (1..=2).for_each(|node| drop(drain(&mut proposer, node)));
    for at in [40, 80, 120] {
        assert!(proposer.append(Lsn(at), Bytes::from(vec![0; 40])));
    }
    assert!(!proposer.wants_wal(), "more than 64 bytes wait and none were sent");
    drain(&mut proposer, 1);
    assert!(proposer.wants_wal(), "one record may be longer than the buffer");
    acknowledge(&mut proposer, 1, 9, 160, 0).unwrap();
    assert_eq!(
        proposer.poll_fetch(NodeId(2)).map(|fetch| (fetch.donor, fetch.until)),
        Some((NodeId(1), Lsn(80)))
    );
}

#[test]
fn is_stuck_when_no_donor_holds_the_wal() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (40, &[(1, 8)]), (40, &[(1, 8)])]);
    (1..=3).for_each(|node| drop(drain(&mut proposer, node)));
    for at in [40, 80, 120] {
        assert!(proposer.append(Lsn(at), Bytes::from(vec![0; 40])));
    }
    drain(&mut proposer, 1);
    acknowledge(&mut proposer, 1, 9, 160, 0).unwrap();
    assert!(!proposer.is_stuck());
    proposer.disconnected(NodeId(1));
    assert!(proposer.is_stuck());
}

/// A response that fits no request resets its connection and changes nothing else.
#[test]
fn unexpected_response_resets_its_connection() {
    let log: Log<'_> = (40, &[(1, 8)]);
    let mut proposer = leading(9, &[log, log]);
    assert_eq!(
        acknowledge(&mut proposer, 1, 9, 41, 0).unwrap(),
        [Action::Reset(NodeId(1))],
        "more than exists"
    );
    assert_eq!(vote(&mut proposer, 2, true, 9, log).unwrap(), [Action::Reset(NodeId(2))]);
    assert_eq!(proposer.term(), Term(9));
}
