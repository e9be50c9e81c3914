//! One campaign, from the first greeting to commits and to its end.

use bytes::Bytes;
use consensus::{
    AcceptorGreeting, AcceptorMessage, Action, AppendRequest, AppendResponse, Configuration, Election,
    HotStandbyFeedback, LostTerm, Member, PreVoteResponse, Proposer, ProposerElected, ProposerMessage,
    ProposerOptions, TermHistory, TermStart, VoteResponse, WalBuffer,
};
use wal_types::{Generation, Lsn, NodeId, ProposerId, SegmentSize, SystemId, TenantTimelineId, Term, Tli};

/// Position and history of a safekeeper's log: flush, `[(term, start)]`.
type Log<'a> = (u64, &'a [(u64, u64)]);

fn proposer() -> Proposer {
    Proposer::new(ProposerOptions {
        id: TenantTimelineId::default(),
        proposer_id: ProposerId([1; 16]),
        segment_size: SegmentSize::POSTGRES_DEFAULT,
        system_id: SystemId(7),
        pg_version: 150_018,
        tli: Some(Tli::FIRST),
        term_floor: Term::ZERO,
        primary: None,
        safekeepers: vec![NodeId(1), NodeId(2), NodeId(3)],
        send_buffer_bytes_max: 64,
    })
}

fn history(entries: &[(u64, u64)]) -> TermHistory {
    let entry =
        |&(term, start): &(u64, u64)| TermStart { term: Term(term), start: Lsn(start), tli: Tli::FIRST };
    TermHistory::new(entries.iter().map(entry).collect()).unwrap()
}

fn drain(proposer: &mut Proposer, node: u64) -> Vec<ProposerMessage> {
    std::iter::from_fn(|| proposer.poll_send(NodeId(node))).collect()
}

fn greet(proposer: &mut Proposer, node: u64, term: u64) -> Result<Vec<Action>, LostTerm> {
    proposer.connected(NodeId(node));
    assert!(matches!(drain(proposer, node).as_slice(), [ProposerMessage::Greeting(_)]));
    let greeting = AcceptorGreeting {
        node_id: NodeId(node),
        term: Term(term),
        configuration: Configuration::default(),
        configuration_term: Term::ZERO,
    };
    proposer.receive(NodeId(node), AcceptorMessage::Greeting(greeting))
}

fn survey(proposer: &mut Proposer, node: u64, term: u64, (flush, entries): Log<'_>) -> Vec<Action> {
    let response = PreVoteResponse {
        generation: Generation(0),
        term: Term(term),
        flush_lsn: Lsn(flush),
        commit_lsn: Lsn::INVALID,
        start_lsn: Lsn(8),
        history: history(entries),
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
        configuration_term: Term::ZERO,
        lost: false,
    };
    proposer.receive(NodeId(node), AcceptorMessage::PreVote(response)).unwrap()
}

fn vote(
    proposer: &mut Proposer,
    node: u64,
    given: bool,
    term: u64,
    (flush, entries): Log<'_>,
) -> Result<Vec<Action>, LostTerm> {
    let response = VoteResponse {
        generation: Generation(0),
        term: Term(term),
        vote_given: given,
        flush_lsn: Lsn(flush),
        truncate_lsn: Lsn::INVALID,
        history: history(entries),
        timeline_start_lsn: Lsn(8),
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
        configuration_term: Term::ZERO,
        lost: false,
    };
    proposer.receive(NodeId(node), AcceptorMessage::Vote(response))
}

fn acknowledge(
    proposer: &mut Proposer,
    node: u64,
    term: u64,
    flush: u64,
    commit: u64,
) -> Result<Vec<Action>, LostTerm> {
    let response = AppendResponse {
        generation: Generation(0),
        term: Term(term),
        flush_lsn: Lsn(flush),
        commit_lsn: Lsn(commit),
        hot_standby: HotStandbyFeedback::default(),
        pageserver: None,
    };
    proposer.receive(NodeId(node), AcceptorMessage::Append(response))
}

/// A proposer that campaigns in `term` among `logs`, those of safekeepers 1, 2, ...
fn campaigning(term: u64, logs: &[Log<'_>]) -> Proposer {
    let mut proposer = proposer();
    for (node, log) in (1..).zip(logs) {
        greet(&mut proposer, node, term - 1).unwrap();
        survey(&mut proposer, node, term - 1, *log);
    }
    proposer.request_votes().unwrap();
    for node in 1..=logs.len() as u64 {
        drain(&mut proposer, node);
    }
    proposer
}

/// A proposer that leads `term` and has sent what it had to.
fn leading(term: u64, logs: &[Log<'_>]) -> Proposer {
    let mut proposer = campaigning(term, logs);
    for (node, log) in (1..).zip(logs) {
        vote(&mut proposer, node, true, term, *log).unwrap();
    }
    let start = proposer.election().unwrap().start;
    proposer.approve(WalBuffer::new(start));
    proposer
}

fn elected_of(messages: &[ProposerMessage]) -> &ProposerElected {
    match messages.first() {
        Some(ProposerMessage::Elected(elected)) => elected,
        other => panic!("expected Elected, got {other:?}"),
    }
}

fn appends<'a>(messages: &'a [ProposerMessage]) -> Vec<&'a AppendRequest> {
    let append = |message: &'a ProposerMessage| match message {
        ProposerMessage::Append(append) => Some(append),
        _ => None,
    };
    messages.iter().filter_map(append).collect()
}

#[test]
fn no_term_is_spent_before_a_quorum_told_its_position() {
    let mut proposer = proposer();
    greet(&mut proposer, 1, 4).unwrap();
    assert_eq!(survey(&mut proposer, 1, 4, (20, &[(1, 8)])), []);
    proposer.request_votes().unwrap();
    assert_eq!(proposer.term(), Term::ZERO);
    greet(&mut proposer, 2, 6).unwrap();
    let surveyed = survey(&mut proposer, 2, 6, (30, &[(1, 8)]));
    assert_eq!(surveyed, [Action::PreVoted { flush_lsn: Lsn(30), start_lsn: Lsn(8), tli: Some(Tli::FIRST) }]);
    proposer.request_votes().unwrap();
    assert_eq!(proposer.term(), Term(7), "one above the highest that was seen");
}

#[test]
fn the_newest_log_of_a_quorum_is_the_start() {
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
        assert_eq!(drain(&mut proposer, 1), [], "nobody is told before the primary was checked");
    }
}

#[test]
fn every_voter_begins_where_its_log_parts() {
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
fn commit_needs_a_quorum_from_the_term_start_on() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (40, &[(1, 8)]), (16, &[(1, 8)])]);
    (1..=3).for_each(|node| drop(drain(&mut proposer, node)));
    assert!(proposer.append(Lsn(40), Bytes::from_static(b"0123456789")));
    (1..=3).for_each(|node| drop(drain(&mut proposer, node)));
    // node, flush, commit that follows
    for (node, flush, commit) in
        [(1, 50, None), (3, 16, None), (2, 40, Some(40)), (2, 50, Some(50)), (2, 45, None)]
    {
        let actions = acknowledge(&mut proposer, node, 9, flush, 0).unwrap();
        assert_eq!(
            actions,
            commit.map(|lsn| Action::Committed(Lsn(lsn))).into_iter().collect::<Vec<_>>(),
            "{node} {flush}"
        );
    }
    assert_eq!(proposer.commit_lsn(), Lsn(50));
}

#[test]
fn an_acknowledgement_outlives_its_connection() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (40, &[(1, 8)])]);
    (1..=2).for_each(|node| drop(drain(&mut proposer, node)));
    acknowledge(&mut proposer, 1, 9, 40, 0).unwrap();
    proposer.disconnected(NodeId(1));
    assert_eq!(acknowledge(&mut proposer, 2, 9, 40, 0).unwrap(), [Action::Committed(Lsn(40))]);
}

#[test]
fn a_laggard_is_fed_by_a_donor_and_then_from_the_buffer() {
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

#[test]
fn a_laggard_that_went_away_after_the_bytes_of_one_donor_is_fed_by_another() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (16, &[(1, 8)]), (40, &[(1, 8)])]);
    (1..=3).for_each(|node| drop(drain(&mut proposer, node)));
    for node in [1, 3] {
        acknowledge(&mut proposer, node, 9, 40, 0).unwrap();
    }
    let laggard = NodeId(2);
    let donor = |proposer: &Proposer| proposer.poll_fetch(laggard).map(|fetch| fetch.donor);
    let first = donor(&proposer).unwrap();
    let again = |proposer: &mut Proposer| {
        proposer.disconnected(laggard);
        greet(proposer, 2, 9).unwrap();
        drain(proposer, 2);
        vote(proposer, 2, false, 9, (16, &[(1, 8)])).unwrap();
        drain(proposer, 2);
    };
    again(&mut proposer);
    assert_eq!(donor(&proposer), Some(first), "it was sent nothing that it could have refused");
    assert!(proposer.fetched(laggard, first, Lsn(16), &Bytes::from_static(b"rotten")));
    again(&mut proposer);
    let second = donor(&proposer).unwrap();
    assert_ne!(second, first);
    // Not the other way round for ever: who cannot give anything is left, too.
    proposer.donor_failed(laggard, second);
    assert_eq!(donor(&proposer), Some(first));
    proposer.disconnected(first);
    assert_eq!(donor(&proposer), Some(second), "nobody else has it");
}

#[test]
fn the_buffer_keeps_what_nobody_has_flushed() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (40, &[(1, 8)])]);
    (1..=2).for_each(|node| drop(drain(&mut proposer, node)));
    for at in [40, 80, 120] {
        assert!(proposer.append(Lsn(at), Bytes::from(vec![0; 40])));
    }
    assert!(!proposer.wants_wal(), "more than 64 bytes wait and nobody was sent them");
    drain(&mut proposer, 1);
    assert!(proposer.wants_wal(), "one record may be longer than the buffer");
    acknowledge(&mut proposer, 1, 9, 160, 0).unwrap();
    assert_eq!(
        proposer.poll_fetch(NodeId(2)).map(|fetch| (fetch.donor, fetch.until)),
        Some((NodeId(1), Lsn(80)))
    );
}

#[test]
fn a_quorum_that_nobody_can_serve_is_stuck() {
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

#[test]
fn a_higher_term_ends_the_campaign_at_any_time() {
    let deposed = |by, term| Err(LostTerm::Deposed { by: NodeId(by), term: Term(term), own: Term(9) });
    let log: Log<'_> = (40, &[(1, 8)]);
    let mut proposer = campaigning(9, &[log, log]);
    assert_eq!(vote(&mut proposer, 1, false, 10, log), deposed(1, 10));
    let mut proposer = leading(9, &[log, log]);
    assert_eq!(acknowledge(&mut proposer, 2, 11, 0, 0), deposed(2, 11));
    assert_eq!(greet(&mut proposer, 3, 12), deposed(3, 12));
}

#[test]
fn refusals_end_the_campaign_when_no_quorum_is_left() {
    let log: Log<'_> = (40, &[(1, 8)]);
    let mut proposer = campaigning(9, &[log, log, log]);
    assert_eq!(vote(&mut proposer, 1, false, 9, log), Ok(vec![]));
    assert_eq!(vote(&mut proposer, 2, false, 9, log), Err(LostTerm::Outvoted(Term(9))));
}

#[test]
fn an_answer_that_was_not_asked_for_resets_the_connection_and_nothing_else() {
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

#[test]
fn a_safekeeper_that_comes_late_is_asked_for_its_vote_and_led() {
    let log: Log<'_> = (40, &[(1, 8)]);
    let mut proposer = leading(9, &[log, log]);
    greet(&mut proposer, 3, 3).unwrap();
    assert!(
        matches!(drain(&mut proposer, 3).as_slice(), [ProposerMessage::Vote(request)] if request.term == Term(9))
    );
    vote(&mut proposer, 3, true, 9, (16, &[(1, 8)])).unwrap();
    assert_eq!(elected_of(&drain(&mut proposer, 3)).start_streaming_at, Lsn(16));
}

#[test]
fn followers_are_told_a_commit_once() {
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

#[test]
fn a_log_that_ends_with_a_segment_is_compared_over_its_last_segment() {
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
    let member = |&id: &u64| Member { id: NodeId(id), host: format!("sk{id}"), port: 1 };
    let configuration = Configuration {
        generation: Generation(generation),
        members: members.iter().map(member).collect(),
        ..Configuration::default()
    };
    let configuration_term = Term::ZERO;
    let greeting =
        AcceptorGreeting { node_id: NodeId(node), term: Term(4), configuration, configuration_term };
    proposer.receive(NodeId(node), AcceptorMessage::Greeting(greeting))
}

#[test]
fn safekeepers_that_list_different_members_elect_nobody() {
    let mut proposer = proposer();
    greet_with(&mut proposer, 1, 0, &[1, 2, 3]).unwrap();
    let refused = greet_with(&mut proposer, 3, 0, &[3]);
    assert_eq!(refused, Err(LostTerm::TwoConfigurations { by: NodeId(3), generation: Generation(0) }));
}

#[test]
fn a_newer_configuration_counts_before_the_votes_and_ends_the_campaign_after() {
    let mut proposer = proposer();
    greet_with(&mut proposer, 1, 1, &[1, 2, 3]).unwrap();
    greet_with(&mut proposer, 2, 2, &[1, 2, 3]).unwrap();
    greet_with(&mut proposer, 3, 1, &[1, 2]).unwrap();
    survey(&mut proposer, 1, 4, (20, &[(1, 8)]));
    survey(&mut proposer, 2, 4, (20, &[(1, 8)]));
    proposer.request_votes().unwrap();
    proposer.disconnected(NodeId(3));
    let refused = greet_with(&mut proposer, 3, 3, &[1, 2, 3]);
    assert_eq!(refused, Err(LostTerm::Reconfigured { by: NodeId(3), generation: Generation(3) }));
}

#[test]
fn an_older_configuration_never_replaces_a_newer_one() {
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
