//! Leaving a joint configuration: new members that died are given up, and nothing that may be committed is lost by it.

use super::*;

const CHANGE: &[u64] = &[4, 5];

/// A leader of nodes 1 to 3 that has 100 committed bytes and has begun to change to `new`, none of which it has reached.
fn joint_leader(cluster: &mut Cluster, new: &[u64]) -> Campaign {
    let mut leader = Campaign::elected(cluster, 1, OLD);
    leader.write(cluster, 100, OLD);
    leader.proposer.begin_change(ConfigurationChange::Members(members(new))).unwrap();
    new.iter().for_each(|&node| leader.proposer.add_peer(NodeId(node)));
    leader.exchange(cluster, OLD).unwrap();
    leader
}

/// Nodes 4 and 5 never answer: nothing is committed while both sets vote, and everything once the old ones vote alone.
#[test]
fn joint_configuration_with_dead_members_is_left() {
    let mut cluster = cluster();
    let mut leader = joint_leader(&mut cluster, CHANGE);
    leader.write(&mut cluster, 50, OLD);
    assert_eq!((leader.commit(), leader.decided()), (100, vec![1]));

    assert_eq!(leader.proposer.begin_change(ConfigurationChange::Abandon), Ok(Generation(3)));
    leader.exchange(&mut cluster, OLD).unwrap();
    assert_eq!((leader.commit(), leader.decided()), (150, vec![1, 3]));
    assert_eq!(*leader.proposer.configuration().unwrap(), configuration(3, OLD, &[]));

    // The next leader knows nothing of the change, and members can be changed again.
    let mut next = Campaign::elected(&mut cluster, 2, ALL);
    assert_eq!((next.decided(), next.commit()), (vec![3], 150));
    assert_eq!(cluster.state(4).configuration, configuration(3, OLD, &[]));
    next.proposer.begin_change(ConfigurationChange::Members(members(&[3, 4, 5]))).unwrap();
    next.exchange(&mut cluster, ALL).unwrap();
    assert_eq!(next.decided(), [3, 4, 5]);
}

/// A change that is left needs no more of the old members than a majority.
#[test]
fn abandoned_change_is_decided_by_old_majority() {
    let mut cluster = cluster();
    let mut leader = joint_leader(&mut cluster, CHANGE);
    leader.proposer.begin_change(ConfigurationChange::Abandon).unwrap();
    leader.exchange(&mut cluster, &[1]).unwrap();
    assert_eq!(leader.decided(), [1]);
    leader.exchange(&mut cluster, &[1, 2]).unwrap();
    assert_eq!(leader.decided(), [1, 3]);
}

/// Nothing is left that is not joint, and only a leader leaves.
#[test]
fn abandon_needs_a_joint_configuration() {
    let mut cluster = cluster();
    let mut leader = Campaign::new(1, None, ALL);
    let abandon = || ConfigurationChange::Abandon;
    assert_eq!(leader.proposer.begin_change(abandon()), Err(ChangeRefused::NotLeading));
    leader.exchange(&mut cluster, ALL).unwrap();
    assert_eq!(leader.proposer.begin_change(abandon()), Err(ChangeRefused::NotJoint));
    leader.proposer.begin_change(ConfigurationChange::Members(members(&[3, 4, 5]))).unwrap();
    leader.exchange(&mut cluster, ALL).unwrap();
    assert_eq!(
        (leader.generation(), leader.proposer.begin_change(abandon())),
        (3, Err(ChangeRefused::NotJoint))
    );
}

/// Node 5 alone has the final configuration, which an earlier leader proposed. The leader of the next term finds the joint
/// one, and leaves it only when nodes 4 and 6 have that under its term. Else 4, 5 and 6 elect a leader by themselves.
#[test]
fn change_that_may_be_finished_is_kept() {
    let new = &[4, 5, 6];
    let mut cluster = cluster();
    cluster.create(6, &configuration(1, OLD, &[]), START);
    let mut first = joint_leader(&mut cluster, new);
    first.exchange(&mut cluster, &[4]).unwrap();
    while first.generation() == 2 {
        first.exchange_messages(&mut cluster, 6, 1);
    }
    first.exchange(&mut cluster, &[5]).unwrap();
    let known = [4, 5, 6].map(|id| cluster.state(id).configuration.generation.0);
    assert_eq!(known, [2, 3, 2]);

    let mut second = Campaign::new(2, None, &[1, 2, 3, 4, 5, 6]);
    for messages in [2, 1] {
        [1, 2, 3, 4, 6].into_iter().for_each(|id| second.exchange_messages(&mut cluster, id, messages));
    }
    second.exchange(&mut cluster, OLD).unwrap();
    let refused = Err(ChangeRefused::MayBeFinished(Generation(2)));
    assert_eq!(second.proposer.begin_change(ConfigurationChange::Abandon), refused);

    let rival = Campaign::elected(&mut cluster.clone(), 3, new);
    assert_eq!((rival.generation(), rival.decided()), (3, vec![3]));

    // With the joint configuration on nodes 4 and 6 no rival is elected without the old members.
    [4, 6].into_iter().for_each(|id| second.exchange_messages(&mut cluster, id, 2));
    let mut rival = Campaign::new(3, None, new);
    rival.exchange(&mut cluster, new).unwrap();
    assert_eq!((rival.generation(), rival.proposer.election()), (2, None));
}

/// The first leader has committed 300 000 bytes with the new members alone, and reached no node with the final
/// configuration. The second one finds the joint one. If it left that while nodes 1 and 2 lack those bytes, 1 and 2 would
/// elect a leader without them.
#[test]
fn old_members_catch_up_before_they_are_alone() {
    let mut cluster = cluster();
    let mut first = Campaign::elected(&mut cluster, 1, OLD);
    first.write(&mut cluster, 100, OLD);
    first.proposer.begin_change(ConfigurationChange::Members(members(CHANGE))).unwrap();
    CHANGE.iter().for_each(|&node| first.proposer.add_peer(NodeId(node)));
    first.write(&mut cluster, 300_000, CHANGE);
    assert_eq!((first.commit(), first.generation()), (100, 2));
    [1, 2].into_iter().for_each(|id| first.exchange_messages(&mut cluster, id, 1));
    assert_eq!((first.commit(), first.generation()), (300_100, 3));

    let mut second = Campaign::new(2, None, ALL);
    for messages in [2, 1] {
        ALL.iter().for_each(|&id| second.exchange_messages(&mut cluster, id, messages));
    }
    // Old and new members accept the joint configuration, and the old ones get the first of three pieces.
    [4, 5, 1, 2].into_iter().for_each(|id| second.exchange_messages(&mut cluster, id, 2));
    assert_eq!((second.decided(), second.generation()), (vec![2], 2));
    let lag = ChangeRefused::OldMembersLag { held: wal_types::Lsn(0), needed: START.advance(300_100) };
    assert_eq!(second.proposer.begin_change(ConfigurationChange::Abandon), Err(lag));
    second.exchange(&mut cluster, ALL).unwrap();
    assert_eq!((second.commit(), second.decided()), (300_100, vec![2, 3]));
}
