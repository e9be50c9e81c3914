//! Acceptor: which messages it accepts and refuses, and the order of its effects.

use bytes::Bytes;
use consensus::{
    Acceptor, AcceptorMessage, AcceptorState, AppendRequest, AppendResponse, Configuration, ConnectionId,
    Dialect, Effect, Lineage, ProposerElected, ProposerGreeting, ProposerMessage, ProtocolVersion, Refusal,
    TermHistory, TermStart, VoteRequest, VoteResponse,
};
use wal_types::{Generation, Lsn, NodeId, ProposerId, SegmentSize, SystemId, TenantTimelineId, Term, Tli};

const START: Lsn = Lsn(0x100_0000);
const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);
const ONE: ProposerId = ProposerId([1; 16]);
const TWO: ProposerId = ProposerId([2; 16]);

fn lineage(dialect: Dialect) -> Lineage {
    Lineage {
        id: TenantTimelineId::default(),
        dialect,
        system_id: SystemId(7),
        pg_version: 150_018,
        segment_size: SegmentSize::POSTGRES_DEFAULT,
        start_lsn: START,
        start_tli: Tli::FIRST,
    }
}

fn greeting(version: ProtocolVersion) -> ProposerGreeting {
    ProposerGreeting {
        version,
        id: TenantTimelineId::default(),
        pg_version: 150_018,
        system_id: SystemId(7),
        segment_bytes: SegmentSize::POSTGRES_DEFAULT.bytes(),
        tli: Tli::FIRST,
        proposer_id: ONE,
        configuration: Configuration::default(),
    }
}

/// An acceptor of dialect `holdfast` to which `A` and `B` have greeted.
fn acceptor() -> Acceptor {
    greeted(Dialect::Holdfast, ProtocolVersion::Holdfast1)
}

fn greeted(dialect: Dialect, version: ProtocolVersion) -> Acceptor {
    let mut acceptor = Acceptor::new(NodeId(1), lineage(dialect), AcceptorState::default(), START);
    for connection in [A, B] {
        acceptor.step(connection, ProposerMessage::Greeting(greeting(version))).unwrap();
    }
    acceptor
}

fn vote(term: u64, proposer_id: ProposerId) -> ProposerMessage {
    ProposerMessage::Vote(VoteRequest { generation: Generation(0), term: Term(term), proposer_id })
}

/// History entries as `(term, bytes behind START)`.
fn elected(start: u64, entries: &[(u64, u64)]) -> ProposerMessage {
    let entry =
        |&(term, at): &(u64, u64)| TermStart { term: Term(term), start: START.advance(at), tli: Tli::FIRST };
    ProposerMessage::Elected(ProposerElected {
        generation: Generation(0),
        term: Term(entries.last().unwrap().0),
        start_streaming_at: START.advance(start),
        history: TermHistory::new(entries.iter().map(entry).collect()).unwrap(),
        timeline_start_lsn: START,
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
    })
}

fn append(term: u64, at: u64, wal: &'static [u8], commit: u64) -> ProposerMessage {
    ProposerMessage::Append(AppendRequest {
        generation: Generation(0),
        term: Term(term),
        epoch_start_lsn: Lsn::INVALID,
        begin_lsn: START.advance(at),
        commit_lsn: START.advance(commit),
        truncate_lsn: Lsn::INVALID,
        proposer_id: ONE,
        wal: Bytes::from_static(wal),
    })
}

/// Elects `A` in `term` on whatever the acceptor holds and has it write `wal` up to a record end.
fn write(acceptor: &mut Acceptor, term: u64, wal: &'static [u8]) {
    let at = acceptor.flush_lsn().bytes_since(START);
    let mut entries: Vec<_> =
        acceptor.state().history.entries().iter().map(|e| (e.term.0, e.start.bytes_since(START))).collect();
    entries.push((term, at));
    acceptor.step(A, vote(term, ONE)).unwrap();
    acceptor.step(A, elected(at, &entries)).unwrap();
    acceptor.step(A, append(term, at, wal, 0)).unwrap();
    flush(acceptor);
}

fn flush(acceptor: &mut Acceptor) -> Vec<Effect> {
    let end = acceptor.write_lsn();
    acceptor.flushed(end, end)
}

fn voted(effects: &[Effect]) -> &VoteResponse {
    match effects.last() {
        Some(Effect::Reply { message: AcceptorMessage::Vote(response), .. }) => response,
        other => panic!("expected a vote, got {other:?}"),
    }
}

fn appended(effects: &[Effect]) -> &AppendResponse {
    match effects.last() {
        Some(Effect::Reply { message: AcceptorMessage::Append(response), .. }) => response,
        other => panic!("expected an append response, got {other:?}"),
    }
}

#[test]
fn vote_is_persisted_before_the_reply() {
    let effects = acceptor().step(A, vote(5, ONE)).unwrap();
    let [Effect::Persist(state), Effect::Reply { to: A, .. }] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!((state.term, state.voted_for), (Term(5), Some(ONE)));
    assert!(voted(&effects).vote_given);
}

/// A term is promised to one campaign only; a repeated request of that campaign is granted again.
#[test]
fn vote_goes_to_one_campaign_per_term() {
    let mut acceptor = acceptor();
    acceptor.step(A, vote(5, ONE)).unwrap();
    // proposer, term, granted
    for (proposer, term, granted) in
        [(ONE, 5, true), (TWO, 5, false), (TWO, 4, false), (ONE, 5, true), (TWO, 6, true), (ONE, 6, false)]
    {
        let effects = acceptor.step(B, vote(term, proposer)).unwrap();
        assert_eq!(voted(&effects).vote_given, granted, "{proposer} in {term}");
        assert_eq!(voted(&effects).term, Term(term.max(5)));
    }
}

/// Versions without a campaign id get a response to a repeated request, but no second vote.
#[test]
fn neon_vote_is_not_granted_twice() {
    let mut acceptor = greeted(Dialect::Neon, ProtocolVersion::V3);
    assert!(voted(&acceptor.step(A, vote(5, ONE)).unwrap()).vote_given);
    let effects = acceptor.step(A, vote(5, ONE)).unwrap();
    assert!(!voted(&effects).vote_given && voted(&effects).term == Term(5));
    assert_eq!(effects.len(), 1, "nothing is persisted for a refusal");
}

/// The dead tail is truncated before the new history is persisted.
#[test]
fn elected_truncates_before_it_adopts_the_history() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123456789");
    let effects = acceptor.step(B, elected(4, &[(1, 0), (2, 4)])).unwrap();
    let [Effect::Persist(adopted), Effect::Truncate(at), Effect::Persist(followed)] = effects.as_slice()
    else {
        panic!("{effects:?}")
    };
    assert_eq!((adopted.term, adopted.history.entries().len()), (Term(2), 1));
    assert_eq!(*at, START.advance(4));
    assert_eq!(followed.history.entries().len(), 2);
    assert_eq!(acceptor.flush_lsn(), START.advance(4));
}

/// Nothing is truncated when nothing lies above the common point.
#[test]
fn elected_truncates_nothing_at_the_log_end() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123");
    let effects = acceptor.step(A, elected(4, &[(1, 0), (2, 4)])).unwrap();
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Truncate(_))), "{effects:?}");
}

/// A start that is not the common point of both histories is refused, and changes nothing.
#[test]
fn elected_at_a_wrong_start_is_refused() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123456789");
    let before = acceptor.state().clone();
    for start in [0, 3, 5, 10] {
        let refusal = acceptor.step(B, elected(start, &[(1, 0), (2, 4)])).unwrap_err();
        assert_eq!(refusal, Refusal::StartPoint { expected: START.advance(4), got: START.advance(start) });
    }
    assert_eq!(*acceptor.state(), before);
}

/// What is committed is never truncated.
#[test]
fn elected_below_the_commit_is_refused() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123456789");
    acceptor.step(A, append(1, 10, b"", 8)).unwrap();
    flush(&mut acceptor);
    let refusal = acceptor.step(B, elected(4, &[(1, 0), (2, 4)])).unwrap_err();
    assert_eq!(refusal, Refusal::BelowCommit { start: START.advance(4), commit_lsn: START.advance(8) });
}

/// A history that begins above the end of the log has no common point: the node must be seeded anew.
#[test]
fn elected_without_common_point_is_refused() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123456789");
    let refusal = acceptor.step(B, elected(12, &[(4, 12), (6, 30)])).unwrap_err();
    assert_eq!(refusal, Refusal::NoCommonPoint { flush_lsn: START.advance(10) });
}

/// Only the connection that was elected in the current term appends.
#[test]
fn append_needs_the_elected_connection() {
    let mut acceptor = acceptor();
    acceptor.step(A, vote(1, ONE)).unwrap();
    assert_eq!(
        acceptor.step(A, append(1, 0, b"x", 0)),
        Err(Refusal::NotElected { term: Term(1), own: Term(1) })
    );
    acceptor.step(A, elected(0, &[(1, 0)])).unwrap();
    acceptor.step(A, append(1, 0, b"x", 0)).unwrap();
    assert_eq!(
        acceptor.step(B, append(1, 1, b"y", 0)),
        Err(Refusal::NotElected { term: Term(1), own: Term(1) })
    );
    assert_eq!(
        acceptor.step(A, append(2, 1, b"y", 0)),
        Err(Refusal::NotElected { term: Term(2), own: Term(1) })
    );
    // A refused vote request does not take the term away, a granted one does.
    acceptor.step(B, vote(1, TWO)).unwrap();
    acceptor.step(A, append(1, 1, b"y", 0)).unwrap();
    acceptor.step(B, vote(2, TWO)).unwrap();
    let effects = acceptor.step(A, append(1, 2, b"z", 0)).unwrap();
    assert_eq!(
        (appended(&effects).term, appended(&effects).flush_lsn),
        (Term(2), Lsn::INVALID),
        "a deposed proposer learns the term only"
    );
}

/// Holes and overlaps are refused, also on an empty log.
#[test]
fn append_out_of_sequence_is_refused() {
    let mut acceptor = acceptor();
    acceptor.step(A, vote(1, ONE)).unwrap();
    acceptor.step(A, elected(0, &[(1, 0)])).unwrap();
    assert!(matches!(acceptor.step(A, append(1, 5, b"x", 0)), Err(Refusal::OutOfSequence { .. })));
    acceptor.step(A, append(1, 0, b"xy", 0)).unwrap();
    assert!(matches!(acceptor.step(A, append(1, 1, b"y", 0)), Err(Refusal::OutOfSequence { .. })));
}

/// A leader that reconnects below the end of the log truncates nothing, and what it sends again is skipped.
#[test]
fn reconnected_leader_truncates_nothing() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123456789");
    assert_eq!(acceptor.step(B, elected(4, &[(1, 0)])).unwrap(), []);
    assert_eq!(acceptor.flush_lsn(), START.advance(10), "an acknowledged position never falls within a term");
    assert_eq!(acceptor.step(B, append(1, 4, b"45", 0)).unwrap(), []);
    let effects = acceptor.step(B, append(1, 6, b"6789ab", 0)).unwrap();
    assert_eq!(effects, [Effect::Write { at: START.advance(10), wal: Bytes::from_static(b"ab") }]);
    assert!(
        matches!(acceptor.step(A, append(1, 10, b"", 0)), Err(Refusal::NotElected { .. })),
        "the old connection lost the term"
    );
}

/// A rejected partial record is truncated when the leader reconnects, once, and nothing else is.
#[test]
fn rejected_partial_record_is_truncated_on_reconnect() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123456789");
    acceptor.step(A, append(1, 10, b"abc", 0)).unwrap();
    let record_end = START.advance(10);
    let _ = acceptor.flushed(START.advance(13), record_end);
    let mut unrejected = acceptor.clone();
    assert_eq!(unrejected.step(B, elected(10, &[(1, 0)])).unwrap(), [], "the record may still be completed");
    acceptor.reject_partial_record();
    assert_eq!(acceptor.step(B, elected(10, &[(1, 0)])).unwrap(), [Effect::Truncate(record_end)]);
    let effects = acceptor.step(B, append(1, 10, b"xyz", 0)).unwrap();
    assert_eq!(effects, [Effect::Write { at: record_end, wal: Bytes::from_static(b"xyz") }]);
    let _ = acceptor.flushed(START.advance(13), record_end);
    assert_eq!(acceptor.step(A, elected(10, &[(1, 0)])).unwrap(), [], "it is truncated once");
}

#[test]
fn reconnect_starts_between_commit_and_flush() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123456789");
    acceptor.step(A, append(1, 10, b"", 6)).unwrap();
    flush(&mut acceptor);
    assert!(matches!(acceptor.step(B, elected(5, &[(1, 0)])), Err(Refusal::BelowCommit { .. })));
    assert!(matches!(acceptor.step(B, elected(11, &[(1, 0)])), Err(Refusal::StartPoint { .. })));
    assert!(acceptor.step(B, elected(6, &[(1, 0)])).is_ok());
}

#[test]
fn second_history_of_a_term_is_refused() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123456789");
    acceptor.step(A, vote(3, ONE)).unwrap();
    acceptor.step(A, elected(10, &[(1, 0), (3, 10)])).unwrap();
    assert_eq!(
        acceptor.step(B, elected(10, &[(1, 0), (2, 8), (3, 10)])),
        Err(Refusal::TwoHistories(Term(3)))
    );
}

/// Each connection with an append gets one response per flush, with the end of the last whole record.
#[test]
fn flushed_answers_each_appending_connection_once() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123");
    acceptor.step(A, append(1, 4, b"45", 0)).unwrap();
    acceptor.step(A, append(1, 6, b"67", 0)).unwrap();
    // Six bytes are durable, but the last record ends at four.
    let effects = acceptor.flushed(START.advance(6), START.advance(4));
    assert_eq!(effects.len(), 1);
    assert_eq!(appended(&effects).flush_lsn, START.advance(4));
    assert_eq!(flush(&mut acceptor), [], "no connection waits for a second response");
    acceptor.step(A, append(1, 8, b"", 0)).unwrap();
    assert_eq!(
        appended(&flush(&mut acceptor)).flush_lsn,
        START.advance(8),
        "a heartbeat is answered without new bytes"
    );
}

/// A commit LSN above the end of the log waits for the bytes, and is not forgotten.
#[test]
fn commit_waits_for_the_bytes() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123");
    acceptor.step(A, append(1, 4, b"4567", 8)).unwrap();
    acceptor.flushed(START.advance(6), START.advance(4));
    assert_eq!(acceptor.state().commit_lsn, START.advance(4));
    flush(&mut acceptor);
    assert_eq!(acceptor.state().commit_lsn, START.advance(8));
}

/// A commit LSN of an older term says nothing about the bytes of a newer term.
#[test]
fn commit_candidate_is_dropped_with_its_term() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123");
    // Committed elsewhere up to 8, but these bytes are not here.
    acceptor.step(A, append(1, 4, b"", 8)).unwrap();
    flush(&mut acceptor);
    acceptor.step(B, vote(2, TWO)).unwrap();
    acceptor.step(B, elected(4, &[(1, 0), (2, 4)])).unwrap();
    acceptor.step(B, append(2, 4, b"wxyz", 0)).unwrap();
    flush(&mut acceptor);
    assert_eq!(
        acceptor.state().commit_lsn,
        START.advance(4),
        "the new term's bytes are not what was committed"
    );
}

/// The flush LSN in a vote is the last that an older term can get acknowledged: later appends are not written.
#[test]
fn vote_bounds_what_an_older_term_acknowledges() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123");
    acceptor.step(A, append(1, 4, b"4567", 0)).unwrap();
    let acknowledged = appended(&flush(&mut acceptor)).flush_lsn;
    let reported = voted(&acceptor.step(B, vote(2, TWO)).unwrap()).flush_lsn;
    assert_eq!(
        (reported, acknowledged),
        (START.advance(8), START.advance(8)),
        "flushed, though not committed"
    );
    // Of what comes later nothing is written, and nothing is acknowledged.
    let effects = acceptor.step(A, append(1, 8, b"89ab", 8)).unwrap();
    assert_eq!((effects.len(), appended(&effects).term, appended(&effects).flush_lsn), (1, Term(2), Lsn(0)));
    assert_eq!((flush(&mut acceptor), acceptor.flush_lsn()), (vec![], reported));
}

/// Behind a truncation the log goes on at the truncated position and nowhere else.
#[test]
fn log_continues_at_the_truncation() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123456789");
    let effects = acceptor.step(B, elected(4, &[(1, 0), (2, 4)])).unwrap();
    let truncates = |effect: &&Effect| matches!(effect, Effect::Truncate(at) if *at == START.advance(4));
    assert_eq!(effects.iter().filter(truncates).count(), 1);
    assert_eq!((acceptor.write_lsn(), acceptor.flush_lsn()), (START.advance(4), START.advance(4)));
    let out_of = |at| Refusal::OutOfSequence { expected: START.advance(4), got: START.advance(at) };
    for at in [0, 3, 5, 10] {
        assert_eq!(acceptor.step(B, append(2, at, b"wxyz", 0)), Err(out_of(at)));
    }
    let effects = acceptor.step(B, append(2, 4, b"wxyz", 0)).unwrap();
    assert_eq!(effects, [Effect::Write { at: START.advance(4), wal: Bytes::from_static(b"wxyz") }]);
    let effects = acceptor.step(B, append(2, 8, b"0", 0)).unwrap();
    assert_eq!(effects, [Effect::Write { at: START.advance(8), wal: Bytes::from_static(b"0") }]);
}

/// A commit LSN counts only from the leader whose history this node has adopted.
#[test]
fn commit_counts_only_from_the_leader() {
    for (by, term, counts) in [(A, 3, true), (B, 3, false), (A, 2, false), (B, 2, false), (B, 4, false)] {
        let mut acceptor = acceptor();
        write(&mut acceptor, 2, b"0123");
        write(&mut acceptor, 3, b"4567");
        let _ = acceptor.step(by, append(term, 8, b"", 8));
        flush(&mut acceptor);
        acceptor.step(A, append(3, 8, b"", 0)).unwrap();
        flush(&mut acceptor);
        let expected = if counts { START.advance(8) } else { START };
        assert_eq!(acceptor.state().commit_lsn, expected, "{by:?} of term {term}");
    }
    // The leader of a term that this node does not follow yet knows what is committed, but not in this log.
    let mut acceptor = acceptor();
    write(&mut acceptor, 2, b"0123");
    acceptor.step(B, vote(3, TWO)).unwrap();
    for (by, term) in [(A, 2), (A, 3), (B, 3)] {
        let _ = acceptor.step(by, append(term, 4, b"", 4));
        flush(&mut acceptor);
        assert_eq!(acceptor.state().commit_lsn, START, "{by:?} of term {term}");
    }
}

/// The commit of the term's start is persisted before it is reported. Later commits may lag: what is reported is what
/// the disk knows.
#[test]
fn commit_of_the_term_start_is_persisted() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123");
    write(&mut acceptor, 2, b"");
    acceptor.step(A, append(2, 4, b"", 4)).unwrap();
    let effects = flush(&mut acceptor);
    assert!(
        matches!(effects.as_slice(), [Effect::Persist(state), Effect::Reply { .. }] if state.commit_lsn == START.advance(4))
    );
    assert_eq!(appended(&effects).commit_lsn, START.advance(4));
    acceptor.step(A, append(2, 4, b"4567", 8)).unwrap();
    let effects = flush(&mut acceptor);
    assert_eq!((effects.len(), appended(&effects).commit_lsn), (1, START.advance(4)));
    assert!(
        matches!(acceptor.checkpoint(), Some(Effect::Persist(state)) if state.commit_lsn == START.advance(8))
    );
    assert_eq!(acceptor.checkpoint(), None);
}

/// A greeting of another log, cluster, segment size or version is refused, each with its own error.
#[test]
fn greeting_of_another_log_is_refused() {
    let change = |change: fn(&mut ProposerGreeting)| {
        let mut greeting = greeting(ProtocolVersion::Holdfast1);
        change(&mut greeting);
        let mut acceptor =
            Acceptor::new(NodeId(1), lineage(Dialect::Holdfast), AcceptorState::default(), START);
        acceptor.step(A, ProposerMessage::Greeting(greeting))
    };
    assert!(matches!(change(|g| g.version = ProtocolVersion::V3), Err(Refusal::Dialect { .. })));
    assert!(matches!(change(|g| g.id.tenant.0[0] = 1), Err(Refusal::OtherTimeline { .. })));
    assert!(matches!(change(|g| g.segment_bytes = 1 << 20), Err(Refusal::SegmentSize { .. })));
    assert!(matches!(change(|g| g.system_id = SystemId(8)), Err(Refusal::OtherCluster { .. })));
    assert!(matches!(change(|g| g.pg_version = 160_001), Err(Refusal::MajorVersion { .. })));
    assert!(change(|g| g.pg_version = 150_020).is_ok(), "a minor upgrade is accepted");
    assert!(change(|g| g.system_id = SystemId(0)).is_ok(), "a recovery has no cluster of its own");
    let mut acceptor = Acceptor::new(NodeId(1), lineage(Dialect::Holdfast), AcceptorState::default(), START);
    assert_eq!(acceptor.step(A, vote(1, ONE)), Err(Refusal::NotGreeted));
}
