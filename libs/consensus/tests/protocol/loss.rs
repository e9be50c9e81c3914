//! A node that lost what it had acknowledged: it follows, and does not vote before it has all of it again.

use consensus::{AcceptorState, Loss, LostTerm};
use wal_types::{Lsn, Term};

use crate::cluster::{Campaign, Cluster, START, configuration};

const ALL: &[u64] = &[1, 2, 3];

/// Term 1 wrote 100 bytes to 1 and 2, of which 2 then lost all above 40; node 3 heard of nothing.
fn cluster() -> (Cluster, Campaign) {
    let mut cluster = Cluster::new(&configuration(1, ALL, &[]));
    let mut leader = Campaign::elected(&mut cluster, 1, ALL);
    leader.write(&mut cluster, 100, &[1, 2]);
    assert_eq!(leader.commit(), 100);
    leader.disconnect(&mut cluster, 2);
    lose(&mut cluster, 2, 40, 100);
    (cluster, leader)
}

fn lose(cluster: &mut Cluster, id: u64, end: u64, acked: u64) {
    cluster.restart(id, end, |state: &mut AcceptorState| {
        state.lost = Some(Loss { term: state.term, acked_upto: START.advance(acked) });
        state.commit_lsn = state.commit_lsn.min(START.advance(end));
    });
}

#[test]
fn a_lost_node_elects_nobody() {
    let (mut cluster, _) = cluster();
    let mut blind = Campaign::new(2, None, &[2, 3]);
    blind.talk(&mut cluster, &[2, 3]).unwrap();
    assert_eq!(blind.proposer.election(), None, "100 committed bytes would be gone");
    assert_eq!(cluster.state(2).term, Term(1), "a survey costs no term");
}

#[test]
fn a_lost_node_promises_a_term_without_voting_for_it() {
    let (mut cluster, _) = cluster();
    // The campaign reaches 1 and 2 only: one vote of three.
    let mut campaign = Campaign::new(2, None, ALL);
    campaign.talk(&mut cluster, &[1, 3]).unwrap();
    campaign.talk(&mut cluster, &[2]).unwrap();
    assert_eq!((cluster.state(2).term, cluster.state(2).voted_for), (Term(2), None));
}

#[test]
fn under_a_later_term_the_start_of_that_term_is_needed() {
    let (mut cluster, _) = cluster();
    let mut leader = Campaign::new(2, None, ALL);
    leader.talk(&mut cluster, &[1, 3]).unwrap();
    assert_eq!(leader.proposer.election().unwrap().start, START.advance(100));
    assert!(cluster.state(2).lost.is_some());
    leader.talk(&mut cluster, &[2]).unwrap();
    assert_eq!((cluster.flush(2), cluster.state(2).lost), (100, None));
}

#[test]
fn under_the_term_of_the_loss_all_that_was_acknowledged_is_needed() {
    let (mut cluster, mut leader) = cluster();
    leader.talk(&mut cluster, &[2]).unwrap();
    assert_eq!((cluster.flush(2), cluster.state(2).lost), (100, None));
}

#[test]
fn what_the_disk_does_not_remember_having_acknowledged_is_needed_too() {
    // Node 2 had acknowledged 100, but the newest note on its disk says 60.
    let (mut cluster, mut leader) = cluster();
    lose(&mut cluster, 2, 40, 60);
    let mut seen = Vec::new();
    // One message at a time: the log grows while it is fed.
    leader.proposer.connected(wal_types::NodeId(2));
    leader.talk(&mut cluster, &[2]).unwrap();
    seen.push((cluster.flush(2), cluster.state(2).lost.is_none()));
    assert_eq!(seen, [(100, true)]);
    let node = &mut cluster.nodes.get_mut(&2).unwrap();
    assert_eq!(node.state().commit_lsn, START.advance(100));
}

#[test]
fn the_leader_forgets_what_a_lost_node_had_acknowledged() {
    // Whether the node noticed, or only tells less than it once did.
    for noticed in [true, false] {
        let mut cluster = Cluster::new(&configuration(1, ALL, &[]));
        let mut leader = Campaign::elected(&mut cluster, 1, ALL);
        leader.write(&mut cluster, 100, &[1, 2]);
        leader.write(&mut cluster, 50, &[2]);
        assert_eq!((leader.commit(), cluster.flush(2)), (100, 150));
        leader.disconnect(&mut cluster, 2);
        lose(&mut cluster, 2, 110, 150);
        if !noticed {
            cluster.restart(2, 110, |state| state.lost = None);
        }
        // Greeting, vote: now it is known.
        leader.say(&mut cluster, 2, 2);
        leader.talk(&mut cluster, &[1]).unwrap();
        assert!(cluster.flush(1) == 150 && leader.commit() < 150, "node 1 alone has it: {}", leader.commit());
        leader.talk(&mut cluster, &[2]).unwrap();
        assert_eq!(leader.commit(), 150);
    }
}

#[test]
fn what_a_lost_node_had_written_down_as_committed_settles_nothing() {
    let (mut cluster, mut leader) = cluster();
    leader.disconnect(&mut cluster, 2);
    let mut second = Campaign::new(2, None, ALL);
    second.talk(&mut cluster, &[1, 3]).unwrap();
    assert!(second.proposer.start_commit_is_persisted());
    second.disconnect(&mut cluster, 3);
    lose(&mut cluster, 3, 40, 100);
    // Greeting, vote: now it is known.
    second.say(&mut cluster, 3, 2);
    assert!(!second.proposer.start_commit_is_persisted(), "node 1 alone says so");
    second.talk(&mut cluster, &[3]).unwrap();
    assert!(second.proposer.start_commit_is_persisted());
}

#[test]
fn a_second_campaign_is_not_won_by_a_promise_that_is_older_than_the_loss() {
    let mut cluster = Cluster::new(&configuration(1, ALL, &[]));
    let mut first = Campaign::new(1, None, ALL);
    first.talk(&mut cluster, &[1, 2]).unwrap();
    first.write(&mut cluster, 10, &[1, 2]);
    first.disconnect(&mut cluster, 2);
    lose(&mut cluster, 2, 0, 10);
    // The same campaign asks again, in the term that node 2 had voted for.
    first.talk(&mut cluster, &[2]).unwrap();
    assert_eq!(cluster.state(2).lost, None, "it was led and fed, not asked");
    assert_eq!(cluster.flush(2), 10);
}

#[test]
fn a_node_without_a_quorum_of_sound_ones_waits() {
    let (mut cluster, _) = cluster();
    lose(&mut cluster, 1, 40, 100);
    let mut campaign = Campaign::new(2, None, ALL);
    let ended: Result<(), LostTerm> = campaign.talk(&mut cluster, ALL);
    assert_eq!((ended, campaign.proposer.election()), (Ok(()), None));
    assert_ne!(cluster.state(1).commit_lsn, Lsn::INVALID);
}
