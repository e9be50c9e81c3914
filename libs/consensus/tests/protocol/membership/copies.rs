//! Copies of a log: quorums count copies, not numbers.

use consensus::{
    Acceptor, AcceptorState, BootstrapRefused, Configuration, Dialect, ForeignCopy, Lineage, LostTerm,
    Member, PeerState, UnknownField,
};
use wal_types::{CopyId, Digest, NodeId, ReplicaId};

use crate::cluster::{Campaign, Cluster, START, configuration, copy, lineage, members};

const ALL: &[u64] = &[1, 2, 3];

/// Wipes node `id` and creates its log anew, as another copy, with these first members.
fn create_anew(cluster: &mut Cluster, id: u64, replica: u8, first: Configuration) {
    let state = AcceptorState { configuration: first, commit_lsn: START, ..AcceptorState::default() };
    let copy = CopyId { node: NodeId(id), replica: ReplicaId([replica; 16]) };
    let lineage = Lineage { start_lsn: START, ..lineage(Dialect::Holdfast) };
    cluster.nodes.insert(id, Acceptor::new(copy, lineage, state, START));
}

/// Member 3 is behind, 2 was wiped and created anew, 1 is down: what 1 and 2 had committed is gone from view, and an
/// election would cut it off.
#[test]
fn wiped_copy_under_old_number_elects_nobody() {
    for told in [Configuration::default(), configuration(0, ALL, &[])] {
        let mut cluster = Cluster::new(&configuration(0, ALL, &[]));
        let mut first = Campaign::elected(&mut cluster, 1, ALL);
        first.write(&mut cluster, 100, ALL);
        first.disconnect(&mut cluster, 3);
        first.write(&mut cluster, 100, &[1, 2]);
        assert_eq!((first.commit(), cluster.flush(3)), (200, 100));

        create_anew(&mut cluster, 2, 22, told);
        let mut second = Campaign::new(2, None, ALL);
        second.exchange(&mut cluster, &[2, 3]).unwrap();
        assert_eq!(second.proposer.election(), None);
        let found = ReplicaId([22; 16]);
        assert_eq!(second.peer(2), PeerState::Foreign(ForeignCopy::CreatedAnew { found }));
        // With member 1 the log is whole again.
        second.exchange(&mut cluster, ALL).unwrap();
        assert_eq!((second.commit(), cluster.flush(3)), (200, 200));
        assert_eq!(cluster.flush(2), 0, "a copy that is no member was fed under the number of one");
    }
}

/// A leader notices that a member was created anew, and counts its old acknowledgements for the new copy no longer.
#[test]
fn acknowledgements_belong_to_the_copy() {
    let mut cluster = Cluster::new(&configuration(0, ALL, &[]));
    let mut leader = Campaign::elected(&mut cluster, 1, ALL);
    leader.write(&mut cluster, 100, ALL);
    leader.disconnect(&mut cluster, 3);
    leader.disconnect(&mut cluster, 2);
    create_anew(&mut cluster, 2, 22, Configuration::default());
    leader.write(&mut cluster, 100, &[1, 2]);
    assert_eq!(leader.commit(), 100, "a copy that is no member acknowledged");
    leader.write(&mut cluster, 0, ALL);
    assert_eq!(leader.commit(), 200);
}

/// A copy that was not told its members follows a leader, and does not vote for one.
#[test]
fn unconfigured_copies_elect_nobody() {
    let mut cluster = Cluster::new(&configuration(0, ALL, &[]));
    for id in [2, 3] {
        create_anew(&mut cluster, id, id as u8, Configuration::default());
    }
    let mut first = Campaign::new(1, None, ALL);
    first.exchange(&mut cluster, ALL).unwrap();
    assert_eq!(first.proposer.election(), None);
    assert!(first.proposer.status()[1].unconfigured);

    cluster.nodes.get_mut(&2).unwrap().bootstrap(members(ALL)).unwrap();
    let mut second = Campaign::new(2, None, ALL);
    second.exchange(&mut cluster, ALL).unwrap();
    second.write(&mut cluster, 100, ALL);
    assert_eq!((second.commit(), cluster.flush(3)), (100, 100));
    assert!(!cluster.nodes[&3].is_unconfigured(), "a leader fed it");
}

#[test]
fn bootstrap_is_refused_for_other_members() {
    let mut cluster = Cluster::new(&configuration(0, &[1], &[]));
    create_anew(&mut cluster, 1, 1, Configuration::default());
    let node = cluster.nodes.get_mut(&1).unwrap();
    let nameless = Member { replica: ReplicaId::default(), ..members(&[2]).remove(0) };
    let both = vec![members(&[1]).remove(0), nameless];
    assert_eq!(node.bootstrap(both), Err(BootstrapRefused::NoCopy(NodeId(2))));
    assert_eq!(node.bootstrap(members(&[2, 3])), Err(BootstrapRefused::NotListed(copy(1))));
    assert!(node.is_unconfigured());

    assert_eq!(node.bootstrap(members(ALL)).unwrap().len(), 2);
    assert_eq!(node.bootstrap(members(ALL)), Ok(Vec::new()));
    assert!(matches!(node.bootstrap(members(&[1, 2])), Err(BootstrapRefused::Configured(_))));

    // A copy that was created to join a log takes no part in another one.
    let joins = Lineage { birth: Some(Digest([7; 32])), ..lineage(Dialect::Holdfast) };
    let mut joiner = Acceptor::new(copy(1), joins, AcceptorState::default(), START);
    assert!(matches!(joiner.bootstrap(members(ALL)), Err(BootstrapRefused::OtherBirth { .. })));
}

/// A configuration of a later release is kept by acceptors and led by nobody of this one.
#[test]
fn unknown_field_forbids_to_lead() {
    let later = UnknownField { tag: 900, since: 4, value: vec![1, 2].into() };
    let first = Configuration { unknown: vec![later], ..configuration(0, ALL, &[]) };
    let mut cluster = Cluster::new(&first);
    let mut campaign = Campaign::new(1, None, ALL);
    assert_eq!(campaign.exchange(&mut cluster, ALL), Err(LostTerm::NeedsVersion(4)));
    assert!(ALL.iter().all(|&id| cluster.state(id).configuration == first && cluster.state(id).term.0 == 0));
    assert!(LostTerm::NeedsVersion(4).to_string().contains("holdfast-4"));
}
