//! Appends: sequence, responses per flush, commit LSN.

use super::*;

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
