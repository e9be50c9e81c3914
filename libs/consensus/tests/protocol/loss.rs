//! Lost nodes: they follow, and do not vote before they hold again what they had acknowledged.

use consensus::{AcceptorState, Loss, LostTerm};
use wal_types::{Lsn, Term};

use crate::cluster::{Campaign, Cluster, START, configuration};

const ALL: &[u64] = &[1, 2, 3];

/// Term 1 wrote 100 bytes to 1 and 2, of which 2 then lost all above 40; node 3 has nothing.
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

/// A lost node's position does not count, so no leader is elected without what it lost.
#[test]
fn lost_node_elects_no_leader() {
    let (mut cluster, _) = cluster();
    let mut blind = Campaign::new(2, None, &[2, 3]);
    blind.exchange(&mut cluster, &[2, 3]).unwrap();
    assert_eq!(blind.proposer.election(), None, "100 committed bytes would be gone");
    assert_eq!(cluster.state(2).term, Term(1), "a pre-vote costs no term");
}

/// A lost node promises a term, so that no older leader uses it, without voting for it.
#[test]
fn lost_node_adopts_a_term_without_voting() {
    let (mut cluster, _) = cluster();
    // The campaign reaches 1 and 2 only: one vote of three.
    let mut campaign = Campaign::new(2, None, ALL);
    campaign.exchange(&mut cluster, &[1, 3]).unwrap();
    campaign.exchange(&mut cluster, &[2]).unwrap();
    assert_eq!((cluster.state(2).term, cluster.state(2).voted_for), (Term(2), None));
}

/// Under a later term, a lost node is repaired when its log reaches the start of that term.
#[test]
fn loss_ends_at_a_later_terms_start() {
    let (mut cluster, _) = cluster();
    let mut leader = Campaign::new(2, None, ALL);
    leader.exchange(&mut cluster, &[1, 3]).unwrap();
    assert_eq!(leader.proposer.election().unwrap().start, START.advance(100));
    assert!(cluster.state(2).lost.is_some());
    leader.exchange(&mut cluster, &[2]).unwrap();
    assert_eq!((cluster.flush(2), cluster.state(2).lost), (100, None));
}

/// Under the term of the loss, a lost node is repaired when it holds all that it had acknowledged.
#[test]
fn loss_ends_at_the_acknowledged_position() {
    let (mut cluster, mut leader) = cluster();
    leader.exchange(&mut cluster, &[2]).unwrap();
    assert_eq!((cluster.flush(2), cluster.state(2).lost), (100, None));
}

/// A lost node also needs what it had acknowledged and its disk does not remember.
#[test]
fn loss_includes_forgotten_acknowledgements() {
    // Node 2 had acknowledged 100, but the footer on its disk says 60.
    let (mut cluster, mut leader) = cluster();
    lose(&mut cluster, 2, 40, 60);
    let mut seen = Vec::new();
    // One message at a time: the log grows while it is fed.
    leader.proposer.connected(wal_types::NodeId(2));
    leader.exchange(&mut cluster, &[2]).unwrap();
    seen.push((cluster.flush(2), cluster.state(2).lost.is_none()));
    assert_eq!(seen, [(100, true)]);
    let node = &mut cluster.nodes.get_mut(&2).unwrap();
    assert_eq!(node.state().commit_lsn, START.advance(100));
}

/// A leader no longer counts what a lost node had acknowledged, whether the node noticed or only reports less than it
/// once did.
#[test]
fn leader_drops_acknowledgements_of_a_lost_node() {
    // With and without the node noticing the loss.
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
        // After greeting and vote the leader knows.
        leader.exchange_messages(&mut cluster, 2, 2);
        leader.exchange(&mut cluster, &[1]).unwrap();
        assert!(cluster.flush(1) == 150 && leader.commit() < 150, "node 1 alone has it: {}", leader.commit());
        leader.exchange(&mut cluster, &[2]).unwrap();
        assert_eq!(leader.commit(), 150);
    }
}

/// The persisted commit LSN of a lost node does not count for the start of a term.
#[test]
fn lost_node_persists_no_start_commit() {
    let (mut cluster, mut leader) = cluster();
    leader.disconnect(&mut cluster, 2);
    let mut second = Campaign::new(2, None, ALL);
    second.exchange(&mut cluster, &[1, 3]).unwrap();
    assert!(second.proposer.start_commit_is_persisted());
    second.disconnect(&mut cluster, 3);
    lose(&mut cluster, 3, 40, 100);
    // After greeting and vote the leader knows.
    second.exchange_messages(&mut cluster, 3, 2);
    assert!(!second.proposer.start_commit_is_persisted(), "node 1 alone has persisted it");
    second.exchange(&mut cluster, &[3]).unwrap();
    assert!(second.proposer.start_commit_is_persisted());
}

/// A leader that reconnects to a node that lost its log since the vote leads and feeds it, and does not count the
/// vote again.
#[test]
fn vote_before_the_loss_does_not_count() {
    let mut cluster = Cluster::new(&configuration(1, ALL, &[]));
    let mut first = Campaign::new(1, None, ALL);
    first.exchange(&mut cluster, &[1, 2]).unwrap();
    first.write(&mut cluster, 10, &[1, 2]);
    first.disconnect(&mut cluster, 2);
    lose(&mut cluster, 2, 0, 10);
    // The same campaign asks again, in the term that node 2 had voted for.
    first.exchange(&mut cluster, &[2]).unwrap();
    assert_eq!(cluster.state(2).lost, None, "it was led and fed, its vote was not counted");
    assert_eq!(cluster.flush(2), 10);
}

/// With two of three nodes lost there is no election, and the campaign goes on waiting.
#[test]
fn campaign_waits_for_a_sound_quorum() {
    let (mut cluster, _) = cluster();
    lose(&mut cluster, 1, 40, 100);
    let mut campaign = Campaign::new(2, None, ALL);
    let ended: Result<(), LostTerm> = campaign.exchange(&mut cluster, ALL);
    assert_eq!((ended, campaign.proposer.election()), (Ok(()), None));
    assert_ne!(cluster.state(1).commit_lsn, Lsn::INVALID);
}
