//! Proposer: one campaign, from the first greeting to commits and to its end.

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

fn pre_vote(proposer: &mut Proposer, node: u64, term: u64, (flush, entries): Log<'_>) -> Vec<Action> {
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
        pre_vote(&mut proposer, node, term - 1, *log);
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
        [Action::PreVoted { flush_lsn: Lsn(30), start_lsn: Lsn(8), tli: Some(Tli::FIRST) }]
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
fn acknowledgement_outlives_its_connection() {
    let mut proposer = leading(9, &[(40, &[(1, 8)]), (40, &[(1, 8)])]);
    (1..=2).for_each(|node| drop(drain(&mut proposer, node)));
    acknowledge(&mut proposer, 1, 9, 40, 0).unwrap();
    proposer.disconnected(NodeId(1));
    assert_eq!(acknowledge(&mut proposer, 2, 9, 40, 0).unwrap(), [Action::Committed(Lsn(40))]);
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
