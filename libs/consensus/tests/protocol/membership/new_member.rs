//! New members: where their logs may begin, and when they count.

use super::*;

/// An empty member is fed from the start of its own log, if that lies within what others still hold.
#[test]
fn new_member_streams_from_its_log_start() {
    let mut cluster = cluster();
    let mut leader = Campaign::elected(&mut cluster, 1, OLD);
    leader.write(&mut cluster, 0x20_0000, OLD);
    let first = configuration(1, OLD, &[]);
    cluster.create(6, &first, START.advance(0x10_0000));
    cluster.create(7, &first, START.advance(0x30_0000));
    for id in [6, 7] {
        leader.proposer.add_peer(NodeId(id));
    }

    leader.exchange(&mut cluster, &[1, 2, 3, 6, 7]).unwrap();
    assert_eq!(cluster.flush(6), 0x20_0000);
    assert_eq!(leader.peer(7), PeerState::CannotFollow, "its log begins beyond the end of the leader's WAL");

    // WAL that all the others have removed cannot be fed to a new member.
    for id in OLD {
        cluster.nodes.get_mut(id).unwrap().removed_below(START.advance(0x18_0000));
    }

    cluster.create(8, &first, START.advance(0x10_0000));
    let mut second = Campaign::elected(&mut cluster, 2, OLD);
    second.proposer.add_peer(NodeId(8));
    second.exchange(&mut cluster, &[1, 2, 3, 8]).unwrap();
    assert_eq!(second.peer(8), PeerState::CannotFollow);
    assert_eq!(second.proposer.term(), Term(2));
}

/// A new member whose catch-up was interrupted below the first entry of the history goes on.
#[test]
fn interrupted_new_member_resumes_below_the_history() {
    let mut cluster = Cluster::new(&configuration(1, OLD, &[]));
    for (term, bytes) in [(1, 400_000), (2, 50)] {
        let mut leader = Campaign::elected(&mut cluster, term, OLD);
        leader.write(&mut cluster, bytes, OLD);
        leader.proposer.heartbeat();
        leader.exchange(&mut cluster, OLD).unwrap();
        for &id in OLD {
            cluster.nodes.get_mut(&id).unwrap().checkpoint();
        }
    }

    let mut leader = Campaign::elected(&mut cluster, 3, OLD);
    leader.write(&mut cluster, 50, OLD);
    cluster.create(4, &configuration(1, OLD, &[]), START);
    leader.proposer.add_peer(NodeId(4));
    leader.exchange_messages(&mut cluster, 4, 5);
    let fed = cluster.flush(4);
    assert!(fed > 0 && fed < 400_000, "{fed}");
    leader.disconnect(&mut cluster, 4);
    leader.exchange(&mut cluster, &[4]).unwrap();
    assert_eq!(cluster.flush(4), 400_100, "{:?} {:?}", leader.peer(4), cluster.refusals);
}

/// Node 1 alone holds what lies below the beginning of the logs of nodes 4 and 5.
fn only_the_first_holds_more() -> (Cluster, Campaign) {
    let mut cluster = cluster();
    let mut leader = Campaign::elected(&mut cluster, 1, OLD);
    leader.write(&mut cluster, 100, OLD);
    leader.write(&mut cluster, 0x20_0000 - 100, &[1]);
    assert_eq!(leader.commit(), 100);
    for id in [4, 5] {
        cluster.create(id, &configuration(1, OLD, &[]), START.advance(0x10_0000));
        leader.proposer.add_peer(NodeId(id));
    }
    (cluster, leader)
}

/// A new member whose log begins above the commit LSN is not led until what lies below its beginning is committed.
#[test]
fn new_member_above_the_commit_waits() {
    let (mut cluster, mut leader) = only_the_first_holds_more();
    leader.exchange(&mut cluster, &[1, 4]).unwrap();
    assert_eq!((leader.peer(4), cluster.flush(4)), (PeerState::Voted, 0x10_0000));
    assert!(cluster.state(4).history.entries().is_empty());
    leader.exchange(&mut cluster, OLD).unwrap();
    leader.exchange(&mut cluster, &[4]).unwrap();
    assert_eq!((leader.commit(), cluster.flush(4)), (0x20_0000, 0x20_0000));
}

/// A new log that begins above the commit LSN never counts as the newest log of an election.
#[test]
fn new_log_above_the_commit_loses_elections() {
    let (mut cluster, mut leader) = only_the_first_holds_more();
    leader.exchange(&mut cluster, &[1, 4, 5]).unwrap();
    leader.proposer.begin_change(ConfigurationChange::Members(members(&[2, 4, 5]))).unwrap();
    leader.exchange(&mut cluster, &[1, 4, 5]).unwrap();
    // Node 2 gets the new configuration, and no more of the log.
    leader.exchange_messages(&mut cluster, 2, 1);
    // Under both sets. The first node, which alone holds what is below the start of the new ones, is away.
    let next = Campaign::elected(&mut cluster, 2, &[2, 3, 4, 5]);
    let election = next.proposer.election().unwrap();
    assert_eq!((election.start, election.donor), (START.advance(100), NodeId(3)));
    assert_eq!(next.proposer.configuration().unwrap().new_members, members(&[2, 4, 5]));
}

/// A new member does not count as a holder of what lies below the beginning of its log.
#[test]
fn new_member_does_not_count_below_its_start() {
    // next members, nodes reached before the change and after it, resulting generation; the joint one is 2
    for (next, before, after, generation) in [
        // The second lags, and would need what only the first has.
        ([1, 2, 4], &[4, 5][..], &[1, 3, 4, 5][..], 2),
        ([1, 2, 4], &[1, 3, 4, 5], &[1, 3, 4, 5], 2),
        ([1, 2, 4], &[4, 5], &[1, 2, 4, 5], 3),
        ([1, 4, 5], &[4, 5], &[1, 3, 4, 5], 2),
        // All that voted before hold it.
        ([1, 4, 5], &[4, 5], &[1, 2, 3, 4, 5], 3),
        ([1, 4, 5], &[1, 2, 3, 4, 5], &[1, 3, 4, 5], 3),
    ] {
        let (mut cluster, mut leader) = only_the_first_holds_more();
        leader.exchange(&mut cluster, before).unwrap();
        leader.proposer.begin_change(ConfigurationChange::Members(members(&next))).unwrap();
        leader.exchange(&mut cluster, after).unwrap();
        assert_eq!(leader.generation(), generation, "{next:?} {before:?} {after:?}");
        let is_committed = leader.commit() == 0x20_0000;
        assert_eq!(is_committed, generation == 3 || before.contains(&3), "{next:?} {before:?} {after:?}");
    }
}

/// A voter without a byte of the log may be needed for a quorum, so it is led at once.
#[test]
fn empty_voter_is_led_at_once() {
    // Elected while the new member was away; then one of the others is.
    let mut cluster = Cluster::new(&configuration(1, OLD, &[]));
    let mut first = Campaign::elected(&mut cluster, 1, &[1, 2]);
    first.write(&mut cluster, 100, &[1, 2]);
    let second = Campaign::elected(&mut cluster, 2, &[1, 3]);
    assert_eq!((second.commit(), cluster.flush(3)), (100, 100));
}
