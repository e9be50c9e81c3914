//! Elections: positions, votes, the newest log, and what ends a campaign.

use super::*;

/// No term is spent before a quorum has reported its position.
#[test]
fn request_votes_waits_for_the_pre_vote_quorum() {
    let mut proposer = proposer();
    greet(&mut proposer, 1, 4).unwrap();
    assert_eq!(pre_vote(&mut proposer, 1, 4, (20, &[(1, 8)])), []);
    proposer.request_votes().unwrap();
    assert_eq!(proposer.term(), Term::ZERO);
    greet(&mut proposer, 2, 6).unwrap();
    let pre_voted = pre_vote(&mut proposer, 2, 6, (30, &[(1, 8)]));
    assert_eq!(
        pre_voted,
        [Action::PreVoted {
            flush_lsn: Lsn(30),
            commit_lsn: Lsn::INVALID,
            donor: NodeId(2),
            start_lsn: Lsn(8),
            tli: Some(Tli::FIRST)
        }]
    );
    // Without an own term a checksum request names the node's: a node answers no candidate of a lower term.
    proposer.request_checksum(NodeId(2), Lsn(8), Lsn(30));
    let request = drain(&mut proposer, 2).pop();
    assert!(
        matches!(request, Some(ProposerMessage::Checksum(consensus::ChecksumRequest { term: Term(6), .. }))),
        "{request:?}"
    );
    proposer.request_votes().unwrap();
    assert_eq!(proposer.term(), Term(7), "one above the highest that was seen");
}

/// The election starts at the end of the newest log: first the term of its last entry counts, then its length.
#[test]
fn election_starts_at_the_newest_log() {
    // logs of two voters, donor, start
    let table: &[(Log<'_>, Log<'_>, u64, u64)] = &[
        ((20, &[(1, 8)]), (30, &[(1, 8)]), 2, 30),
        // A higher last term wins over a longer log.
        ((20, &[(1, 8), (2, 16)]), (30, &[(1, 8)]), 1, 20),
        // Elected on exactly this log counts, though no byte was written.
        ((20, &[(1, 8), (2, 20)]), (30, &[(1, 8)]), 1, 20),
        ((8, &[]), (8, &[]), 2, 8),
    ];

    for &(first, second, donor, start) in table {
        let mut proposer = campaigning(9, &[first, second]);
        assert_eq!(vote(&mut proposer, 1, true, 9, first).unwrap(), []);
        let actions = vote(&mut proposer, 2, true, 9, second).unwrap();
        let [Action::Elected(election)] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!((election.donor, election.start, election.term), (NodeId(donor), Lsn(start), Term(9)));
        assert_eq!(drain(&mut proposer, 1), [], "no acceptor is led before the primary is checked");
    }
}

/// A higher term ends the campaign, in a vote, an acknowledgement or a greeting.
#[test]
fn higher_term_ends_the_campaign() {
    let deposed = |by, term| Err(LostTerm::Deposed { by: NodeId(by), term: Term(term), own: Term(9) });
    let log: Log<'_> = (40, &[(1, 8)]);
    let mut proposer = campaigning(9, &[log, log]);
    assert_eq!(vote(&mut proposer, 1, false, 10, log), deposed(1, 10));
    let mut proposer = leading(9, &[log, log]);
    assert_eq!(acknowledge(&mut proposer, 2, 11, 0, 0), deposed(2, 11));
    assert_eq!(greet(&mut proposer, 3, 12), deposed(3, 12));
}

/// A campaign ends when so many votes are refused that no quorum is left.
#[test]
fn refused_votes_end_the_campaign() {
    let log: Log<'_> = (40, &[(1, 8)]);
    let mut proposer = campaigning(9, &[log, log, log]);
    assert_eq!(vote(&mut proposer, 1, false, 9, log), Ok(vec![]));
    assert_eq!(vote(&mut proposer, 2, false, 9, log), Err(LostTerm::Outvoted(Term(9))));
}

/// A safekeeper that connects after the election is asked for its vote and led.
#[test]
fn late_safekeeper_votes_and_follows() {
    let log: Log<'_> = (40, &[(1, 8)]);
    let mut proposer = leading(9, &[log, log]);
    greet(&mut proposer, 3, 3).unwrap();
    assert!(
        matches!(drain(&mut proposer, 3).as_slice(), [ProposerMessage::Vote(request)] if request.term == Term(9))
    );
    vote(&mut proposer, 3, true, 9, (16, &[(1, 8)])).unwrap();
    assert_eq!(elected_of(&drain(&mut proposer, 3)).start_streaming_at, Lsn(16));
}

/// A log that ends with a segment is compared over that segment, not over the empty next one.
#[test]
fn compare_from_covers_the_last_byte() {
    let size = SegmentSize::new(16 * 1024).unwrap();

    // end of the log, start of the log, compared from
    for (end, log_start, from) in [
        (0x8000, 0x4000, 0x4000),
        (0x8001, 0x4000, 0x8000),
        (0x7ff8, 0x4000, 0x4000),
        (0x4000, 0x4000, 0x4000),
        (0xc000, 0x4000, 0x8000),
    ] {
        let election = Election {
            term: Term(1),
            start: Lsn(end),
            log_start: Lsn(log_start),
            donor: NodeId(1),
            tli: None,
        };
        assert_eq!(election.compare_from(size), Lsn(from), "{end:x}");
    }
}

fn greet_with(
    proposer: &mut Proposer,
    node: u64,
    generation: u32,
    members: &[u64],
) -> Result<Vec<Action>, LostTerm> {
    proposer.connected(NodeId(node));
    drain(proposer, node);
    let member = |&id: &u64| crate::cluster::member(id);
    let configuration = Configuration {
        generation: Generation(generation),
        members: members.iter().map(member).collect(),
        ..Configuration::default()
    };
    let configuration_term = Term::ZERO;
    let greeting = AcceptorGreeting {
        replica: wal_types::ReplicaId([node as u8; 16]),
        birth: None,
        node_id: NodeId(node),
        term: Term(4),
        configuration,
        configuration_term,
    };
    proposer.receive(NodeId(node), AcceptorMessage::Greeting(greeting))
}

/// Safekeepers that list different members under one generation elect no leader.
#[test]
fn different_members_end_the_campaign() {
    let mut proposer = proposer();
    greet_with(&mut proposer, 1, 0, &[1, 2, 3]).unwrap();
    let refused = greet_with(&mut proposer, 3, 0, &[3]);
    assert_eq!(refused, Err(LostTerm::TwoConfigurations { by: NodeId(3), generation: Generation(0) }));
}

/// A newer configuration counts until votes are requested, and ends the campaign after that.
#[test]
fn newer_configuration_after_the_pre_vote_ends_it() {
    let mut proposer = proposer();
    greet_with(&mut proposer, 1, 1, &[1, 2, 3]).unwrap();
    greet_with(&mut proposer, 2, 2, &[1, 2, 3]).unwrap();
    greet_with(&mut proposer, 3, 1, &[1, 2]).unwrap();
    pre_vote(&mut proposer, 1, 4, (20, &[(1, 8)]));
    pre_vote(&mut proposer, 2, 4, (20, &[(1, 8)]));
    proposer.request_votes().unwrap();
    proposer.disconnected(NodeId(3));
    let refused = greet_with(&mut proposer, 3, 3, &[1, 2, 3]);
    assert_eq!(refused, Err(LostTerm::Reconfigured { by: NodeId(3), generation: Generation(3) }));
}

#[test]
fn older_configuration_replaces_no_newer_one() {
    let mut proposer = proposer();
    greet_with(&mut proposer, 1, 2, &[1, 2, 3]).unwrap();
    proposer.disconnected(NodeId(1));
    greet_with(&mut proposer, 2, 1, &[1, 2]).unwrap();
    let asked = drain(&mut proposer, 2);
    assert!(
        matches!(asked.as_slice(), [ProposerMessage::PreVote(request)] if request.generation == Generation(2)),
        "{asked:?}"
    );
}
