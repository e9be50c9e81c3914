//! Positions and terms: what votes and responses report, and what a proposer cannot raise.

use super::*;

/// Messages of another generation are refused in dialect `neon` and accepted in `holdfast`.
#[test]
fn neon_messages_must_match_the_generation() {
    for message in [vote(4, 1), append(4, 1, 0, 1, 0, 0), elected(1, configuration(4, &[1], &[]))] {
        let mut neon = acceptor(Dialect::Neon, configuration(5, &[1], &[]), None);
        let refused = Refusal::Generation { expected: Generation(5), got: Generation(4) };
        assert_eq!(neon.step(A, message.clone()), Err(refused.clone()));
        let mut holdfast = acceptor(Dialect::Holdfast, configuration(5, &[1], &[]), None);
        assert_ne!(holdfast.step(A, message), Err(refused));
    }
}

/// An election of a lower term is dropped, that of a higher term is adopted without a vote.
#[test]
fn elected_adopts_only_higher_terms() {
    let mut acceptor = acceptor(Dialect::Holdfast, configuration(1, &[1], &[]), None);
    acceptor.step(A, vote(1, 5)).unwrap();
    assert_eq!(acceptor.step(B, elected(4, configuration(1, &[1], &[]))), Ok(vec![]));
    let effects = acceptor.step(B, elected(6, configuration(1, &[1], &[]))).unwrap();
    let [Effect::Persist(adopted), Effect::Persist(followed)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!((adopted.term, adopted.voted_for, adopted.history.entries()), (Term(6), None, [].as_slice()));
    assert_eq!(followed.history.last().unwrap().term, Term(6));
}

/// A vote reports the history of the local log and a horizon that is durable with the vote.
#[test]
fn vote_reports_a_durable_horizon() {
    for (dialect, horizon) in [(Dialect::Holdfast, START), (Dialect::Neon, START.advance(6))] {
        let mut acceptor = acceptor(dialect, configuration(0, &[1], &[]), None);
        acceptor.step(A, vote(0, 1)).unwrap();
        acceptor.step(A, elected(1, configuration(0, &[1], &[]))).unwrap();
        acceptor.step(A, append(0, 1, 0, 8, 0, 0)).unwrap();
        flush(&mut acceptor);
        acceptor.checkpoint();
        acceptor.step(A, append(0, 1, 8, 0, 7, 6)).unwrap();
        flush(&mut acceptor);
        let effects = acceptor.step(B, vote(0, 2)).unwrap();
        let response = voted(&effects);
        // The vote itself made it durable; before it was not.
        assert!(response.truncate_lsn >= horizon, "{dialect:?}");
        assert_eq!(response.history.entries().len(), 1);
        assert_eq!((response.flush_lsn, response.vote_given), (START.advance(8), true));
    }
}

/// A history that reaches beyond the log is reported up to the end of the log, an entry at the end included.
#[test]
fn vote_reports_the_history_up_to_the_end() {
    let entry = |term, at| TermStart { term: Term(term), start: START.advance(at), tli: Tli::FIRST };
    let history = TermHistory::new(vec![entry(1, 0), entry(3, 50), entry(4, 60)]).unwrap();
    let state = AcceptorState { term: Term(4), history, commit_lsn: START, ..AcceptorState::default() };
    let mut acceptor = Acceptor::new(cluster::copy(1), lineage(Dialect::Holdfast), state, START.advance(50));
    acceptor.step(A, greeting(ProtocolVersion::Holdfast2, Configuration::default())).unwrap();
    let effects = acceptor.step(A, vote(0, 5)).unwrap();
    assert_eq!(voted(&effects).history.entries(), [entry(1, 0), entry(3, 50)], "equality is kept");
    assert_eq!(acceptor.last_log_term(), Term(3));
}

/// Neither the horizon nor the commit LSN can be raised beyond the log, and neither falls.
#[test]
fn append_cannot_raise_positions_beyond_the_log() {
    let mut acceptor = acceptor(Dialect::Holdfast, configuration(0, &[1], &[]), None);
    acceptor.step(A, vote(0, 1)).unwrap();
    acceptor.step(A, elected(1, configuration(0, &[1], &[]))).unwrap();
    acceptor.step(A, append(0, 1, 0, 8, 1000, 1000)).unwrap();
    flush(&mut acceptor);
    assert_eq!((acceptor.state().commit_lsn, acceptor.state().horizon_lsn), (START.advance(8), START));
    acceptor.step(A, append(0, 1, 8, 0, 1000, 1000)).unwrap();
    acceptor.step(A, append(0, 1, 8, 0, 2, 2)).unwrap();
    flush(&mut acceptor);
    let state = acceptor.state();
    assert_eq!((state.commit_lsn, state.horizon_lsn), (START.advance(8), START.advance(8)), "neither falls");
}

/// A term that no sequence of elections can have led to is refused.
#[test]
fn term_leap_is_refused() {
    let mut acceptor = acceptor(Dialect::Holdfast, configuration(0, &[1], &[]), None);
    for term in [u64::MAX, 1 << 50] {
        let leap = Refusal::TermLeap { own: Term(0), got: Term(term) };
        assert_eq!(acceptor.step(A, vote(0, term)), Err(leap.clone()));
        assert_eq!(acceptor.step(A, elected(term, configuration(0, &[1], &[]))), Err(leap));
    }
    assert!(acceptor.step(A, vote(0, 1 << 40)).is_ok());
}

/// A connection that does not lead gets no positions while its append waits for disk space.
#[test]
fn unchanged_response_reports_positions_to_the_leader_only() {
    let mut acceptor = acceptor(Dialect::Holdfast, configuration(0, &[1], &[]), None);
    acceptor.step(A, elected(1, configuration(0, &[1], &[]))).unwrap();
    acceptor.step(A, append(0, 1, 0, 8, 0, 0)).unwrap();
    flush(&mut acceptor);
    acceptor.step(B, vote(0, 2)).unwrap();

    // This node does not follow the winner of term 2 yet: its log is not the log of term 2.
    for connection in [A, B] {
        let Effect::Reply { message: AcceptorMessage::Append(response), .. } =
            acceptor.unchanged_response(connection)
        else {
            panic!()
        };
        assert_eq!(
            (response.term, response.flush_lsn, response.commit_lsn),
            (Term(2), Lsn::INVALID, Lsn::INVALID)
        );
    }
}
