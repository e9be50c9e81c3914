//! Commit: acknowledgements of a quorum, and their announcement.

use super::*;

/// Commit moves when a quorum has acknowledged a position, from the start of the term on.
#[test]
fn commit_needs_a_quorum_at_the_term_start() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (40, &[(1, 8)]), (16, &[(1, 8)])]);
    (1..=3).for_each(|node| drop(drain(&mut proposer, node)));
    assert!(proposer.append(Lsn(40), Bytes::from_static(b"0123456789")));
    (1..=3).for_each(|node| drop(drain(&mut proposer, node)));

    // node, flush, commit that follows
    for (node, flush, commit) in
        [(1, 50, None), (3, 16, None), (2, 40, Some(40)), (2, 50, Some(50)), (2, 45, None)]
    {
        let mut actions = acknowledge(&mut proposer, node, 9, flush, 0).unwrap();
        actions.retain(|action| !matches!(action, Action::Configured(_)));
        assert_eq!(
            actions,
            commit.map(|lsn| Action::Committed(Lsn(lsn))).into_iter().collect::<Vec<_>>(),
            "{node} {flush}"
        );
    }

    assert_eq!(proposer.commit_lsn(), Lsn(50));
}

#[test]
fn acknowledgement_outlives_its_connection() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (40, &[(1, 8)])]);
    (1..=2).for_each(|node| drop(drain(&mut proposer, node)));
    acknowledge(&mut proposer, 1, 9, 40, 0).unwrap();
    proposer.disconnected(NodeId(1));
    let actions = acknowledge(&mut proposer, 2, 9, 40, 0).unwrap();
    assert_eq!(actions.first(), Some(&Action::Committed(Lsn(40))));
}

#[test]
fn announce_commit_sends_a_commit_once() {
    let log: Log<'_> = (40, &[(1, 8)]);
    let mut proposer = leading(9, &[log, log]);
    (1..=2).for_each(|node| drop(drain(&mut proposer, node)));
    acknowledge(&mut proposer, 1, 9, 40, 0).unwrap();
    acknowledge(&mut proposer, 2, 9, 40, 0).unwrap();
    assert_eq!(drain(&mut proposer, 1), []);
    proposer.announce_commit();
    assert_eq!(appends(&drain(&mut proposer, 1))[0].commit_lsn, Lsn(40));
    proposer.announce_commit();
    assert_eq!(drain(&mut proposer, 1), []);
    assert!(!proposer.start_commit_is_persisted());
    acknowledge(&mut proposer, 1, 9, 40, 40).unwrap();
    acknowledge(&mut proposer, 2, 9, 40, 40).unwrap();
    assert!(proposer.start_commit_is_persisted());
}
