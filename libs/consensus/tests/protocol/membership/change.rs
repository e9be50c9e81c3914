//! Changes: one at a time, through a joint configuration, completed by the next leader.

use super::*;

#[test]
fn leader_first_decides_the_found_configuration() {
    let mut cluster = cluster();
    let leader = Campaign::elected(&mut cluster, 1, OLD);
    assert_eq!(leader.decided(), [1]);
    for &id in OLD {
        assert_eq!(cluster.state(id).configuration_term, leader.proposer.term(), "node {id}");
    }
}

#[test]
fn members_change_through_a_joint_configuration() {
    let mut cluster = cluster();
    let mut leader = Campaign::elected(&mut cluster, 1, ALL);
    leader.write(&mut cluster, 100, ALL);
    let joint = leader.proposer.begin_change(ConfigurationChange::Members(members(&[3, 4, 5]))).unwrap();
    assert_eq!(joint, Generation(2));
    leader.exchange(&mut cluster, ALL).unwrap();
    assert_eq!(leader.decided(), [1, 2, 3]);
    assert_eq!(*leader.proposer.configuration().unwrap(), configuration(3, &[3, 4, 5], &[]));
    // Former members no longer count, and are not needed.
    leader.write(&mut cluster, 50, &[4, 5]);
    assert_eq!(leader.commit(), 150);
    leader.write(&mut cluster, 50, &[1, 2, 4]);
    assert_eq!(leader.commit(), 150);
}

/// While both sets vote, nothing is committed that a majority of either set lacks.
#[test]
fn joint_commit_needs_both_sets() {
    let mut cluster = cluster();
    let mut leader = Campaign::elected(&mut cluster, 1, ALL);
    leader.write(&mut cluster, 10, ALL);
    leader.proposer.begin_change(ConfigurationChange::Members(members(&[3, 4, 5]))).unwrap();
    // Two of the old members, and none but one of the next.
    leader.write(&mut cluster, 10, OLD);
    assert_eq!((leader.commit(), leader.generation()), (10, 2));
    // A quorum of the next, and of the old.
    leader.exchange(&mut cluster, &[3, 4]).unwrap();
    assert_eq!((leader.commit(), leader.generation()), (20, 3));
}

/// The next members decide alone only when they hold everything that is committed.
#[test]
fn successor_waits_for_the_next_members_wal() {
    let mut cluster = cluster();
    let mut leader = Campaign::elected(&mut cluster, 1, OLD);
    leader.write(&mut cluster, 100, OLD);
    leader.proposer.begin_change(ConfigurationChange::Members(members(&[4, 5]))).unwrap();
    assert_eq!(leader.proposer.unknown_members(), members(&[4, 5]));
    [4, 5].map(NodeId).into_iter().for_each(|node| leader.proposer.add_peer(node));
    leader.exchange(&mut cluster, OLD).unwrap();
    assert_eq!(leader.decided(), [1]);
    leader.exchange(&mut cluster, ALL).unwrap();
    assert_eq!(leader.decided(), [1, 2, 3]);
    assert_eq!((cluster.flush(4), cluster.flush(5)), (100, 100));
}

/// The next members do not decide alone just because they have accepted the joint configuration.
#[test]
fn accepted_configuration_is_not_enough() {
    let mut cluster = cluster();
    let mut leader = Campaign::elected(&mut cluster, 1, OLD);
    leader.write(&mut cluster, 300_000, OLD);
    leader.proposer.begin_change(ConfigurationChange::Members(members(&[4, 5]))).unwrap();
    leader.exchange(&mut cluster, OLD).unwrap();
    for id in [4, 5] {
        leader.proposer.add_peer(NodeId(id));
        // Greeting, vote, election, and the first of three pieces of the log.
        leader.exchange_messages(&mut cluster, id, 4);
    }

    assert_eq!((leader.decided(), leader.generation()), (vec![1, 2], 2));

    // One more piece each, and 300 000 committed bytes would be on nodes that no longer count.
    leader.exchange_messages(&mut cluster, 4, 2);
    assert_eq!((cluster.flush(4), leader.generation()), (300_000, 2));
    leader.exchange_messages(&mut cluster, 5, 2);
    assert_eq!(leader.generation(), 3);
}

/// No change begins before the configuration that the leader found is decided.
#[test]
fn change_waits_for_the_found_configuration() {
    let mut cluster = cluster();
    let mut leader = Campaign::new(1, None, OLD);
    for id in [1, 2] {
        leader.exchange_messages(&mut cluster, id, 2);
    }
    for id in [1, 2] {
        leader.exchange_messages(&mut cluster, id, 1);
    }
    assert!(leader.proposer.election().is_some());
    let change = || ConfigurationChange::Primary(consensus::Primary::named(PrimaryId([1; 16])));
    assert_eq!(leader.proposer.begin_change(change()), Err(ChangeRefused::Undecided(Generation(1))));
    leader.exchange(&mut cluster, OLD).unwrap();
    assert_eq!(leader.proposer.begin_change(change()), Ok(Generation(2)));
}

#[test]
fn begin_change_allows_one_at_a_time() {
    let mut cluster = cluster();
    let mut leader = Campaign::new(1, None, ALL);
    let change = || ConfigurationChange::Members(members(&[3, 4, 5]));
    assert_eq!(leader.proposer.begin_change(change()), Err(ChangeRefused::NotLeading));
    leader.exchange(&mut cluster, ALL).unwrap();
    let refusals = [
        (ConfigurationChange::Members(members(OLD)), ChangeRefused::NoChange),
        (ConfigurationChange::Members(Vec::new()), ChangeRefused::NoMembers),
        (
            ConfigurationChange::Members(members(&[1, 1])),
            ChangeRefused::Invalid(consensus::InvalidConfiguration::Duplicate(NodeId(1))),
        ),
    ];

    for (change, refused) in refusals {
        assert_eq!(leader.proposer.begin_change(change), Err(refused));
    }

    leader.proposer.begin_change(change()).unwrap();
    let primary = ConfigurationChange::Primary(consensus::Primary::named(PrimaryId([1; 16])));
    assert_eq!(leader.proposer.begin_change(primary.clone()), Err(ChangeRefused::Undecided(Generation(2))));
    leader.exchange(&mut cluster, ALL).unwrap();
    assert_eq!(leader.proposer.begin_change(primary.clone()), Ok(Generation(4)));
    leader.exchange(&mut cluster, ALL).unwrap();
    assert_eq!(leader.proposer.begin_change(primary), Err(ChangeRefused::NoChange));
}

#[test]
fn new_leader_finishes_a_joint_configuration() {
    // The first leader reached one of the old members with its joint configuration, and no other.
    let mut cluster = cluster();
    let mut first = Campaign::elected(&mut cluster, 1, ALL);
    first.write(&mut cluster, 100, ALL);
    first.proposer.begin_change(ConfigurationChange::Members(members(&[3, 4, 5]))).unwrap();
    first.exchange(&mut cluster, &[3]).unwrap();
    assert_eq!((first.decided(), first.generation()), (vec![1], 2));
    let second = Campaign::elected(&mut cluster, 2, ALL);
    assert_eq!(second.decided(), [2, 3]);
    assert_eq!(*second.proposer.configuration().unwrap(), configuration(3, &[3, 4, 5], &[]));
    assert_eq!(second.commit(), 100);
}

/// A change that no voter of the next election has seen is replaced by the older configuration under a higher term.
#[test]
fn unseen_change_is_dropped() {
    let mut cluster = cluster();
    let mut first = Campaign::elected(&mut cluster, 1, ALL);
    first.proposer.begin_change(ConfigurationChange::Members(members(&[3, 4, 5]))).unwrap();
    first.exchange(&mut cluster, &[3]).unwrap();
    // The voters are 1 and 2: they decide generation 1 anew, under a higher term.
    let second = Campaign::elected(&mut cluster, 2, &[1, 2]);
    assert_eq!((second.decided(), second.generation()), (vec![1], 1));
    assert_eq!(cluster.state(3).configuration.generation, Generation(2));
    // So the newest is the one of the higher term, although its generation is lower.
    let third = Campaign::elected(&mut cluster, 3, ALL);
    assert_eq!(*third.proposer.configuration().unwrap(), configuration(1, OLD, &[]));
    assert_eq!(cluster.state(3).configuration, configuration(1, OLD, &[]));
}

/// Two rivals give out the same generation; only one meaning of it is decided.
#[test]
fn rivals_decide_one_meaning_per_generation() {
    let mut cluster = cluster();
    let mut first = Campaign::elected(&mut cluster, 1, ALL);
    first.proposer.begin_change(ConfigurationChange::Members(members(&[1, 4, 5]))).unwrap();
    first.exchange(&mut cluster, &[1]).unwrap();
    let mut second = Campaign::elected(&mut cluster, 2, &[2, 3]);
    second.proposer.add_peer(NodeId(4));
    second.proposer.begin_change(ConfigurationChange::Members(members(&[2, 3, 4]))).unwrap();
    assert_eq!((first.generation(), second.generation()), (2, 2));
    second.exchange(&mut cluster, &[2, 3, 4]).unwrap();
    assert_eq!(second.decided(), [1, 2, 3]);

    // The first campaign is deposed by any node that it asks, and decided nothing.
    assert!(first.proposer.append(first.proposer.received_lsn(), bytes::Bytes::from_static(b"x")));
    assert!(matches!(first.exchange(&mut cluster, &[2]), Err(LostTerm::Deposed { .. })));
    assert_eq!(first.decided(), [1]);
    let third = Campaign::elected(&mut cluster, 3, ALL);
    assert_eq!(*third.proposer.configuration().unwrap(), configuration(3, &[2, 3, 4], &[]));
}

#[test]
fn newer_configuration_of_a_voter_ends_the_campaign() {
    let mut cluster = cluster();

    // Its pre-vote met nodes that know generation 1 only; meanwhile generation 3 is decided among 3, 4 and 5.
    let mut late = Campaign::new(9, None, ALL);
    for id in [1, 2] {
        let connection = consensus::ConnectionId(900 + id);
        late.proposer.connected(NodeId(id));
        for _ in 0..2 {
            let message = late.proposer.poll_send(NodeId(id)).unwrap();
            for effect in cluster.nodes.get_mut(&id).unwrap().step(connection, message).unwrap() {
                let consensus::Effect::Reply { message, .. } = effect else { panic!("{effect:?}") };
                late.proposer.receive(NodeId(id), message).unwrap();
            }
        }
    }

    let mut leader = Campaign::elected(&mut cluster, 1, ALL);
    leader.proposer.begin_change(ConfigurationChange::Members(members(&[3, 4, 5]))).unwrap();
    leader.exchange(&mut cluster, ALL).unwrap();
    late.proposer.request_votes().unwrap();
    let asked = late.proposer.poll_send(NodeId(1)).unwrap();
    let effects = cluster.nodes.get_mut(&1).unwrap().step(consensus::ConnectionId(901), asked).unwrap();
    let Some(consensus::Effect::Reply { message, .. }) = effects.last().cloned() else { panic!() };
    let ended = late.proposer.receive(NodeId(1), message);
    assert!(matches!(ended, Err(LostTerm::Reconfigured { .. } | LostTerm::Deposed { .. })), "{ended:?}");
}

/// A log with a designated primary is led for no other primary, and no term is spent on the attempt.
#[test]
fn designated_primary_excludes_others() {
    let mut cluster = cluster();
    let mut leader = Campaign::new(1, Some(1), OLD);
    leader.exchange(&mut cluster, OLD).unwrap();
    leader
        .proposer
        .begin_change(ConfigurationChange::Primary(consensus::Primary::named(PrimaryId([2; 16]))))
        .unwrap();
    leader.exchange(&mut cluster, OLD).unwrap();
    assert_eq!(leader.decided(), [1, 2]);
    let term = cluster.state(1).term;
    // primary, whether it may lead
    for (name, primary, may) in [(2, Some(1), false), (3, None, false), (4, Some(2), true)] {
        let mut campaign = Campaign::new(name, primary, OLD);
        let ended = campaign.exchange(&mut cluster, OLD);
        let designated = consensus::Primary::named(PrimaryId([2; 16]));
        assert_eq!(ended, if may { Ok(()) } else { Err(LostTerm::NotDesignated { designated }) });
        assert_eq!(cluster.state(1).term > term, may, "a term is not spent in vain");
    }
}
