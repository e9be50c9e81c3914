//! Elections: truncation at the common point, adoption of the history, reconnects of the leader.

use super::*;

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

/// A history that begins above the end of the log has no common point: the node must be replaced.
#[test]
fn elected_without_common_point_is_refused() {
    let mut acceptor = acceptor();
    write(&mut acceptor, 1, b"0123456789");
    let refusal = acceptor.step(B, elected(12, &[(4, 12), (6, 30)])).unwrap_err();
    assert_eq!(refusal, Refusal::NoCommonPoint { flush_lsn: START.advance(10) });
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
