//! Lost nodes: how each dialect votes and when a loss ends.

use super::*;

/// A lost node does not answer a first vote request of dialect `neon`; it answers the second, of a proposer that
/// others have elected.
#[test]
fn lost_neon_node_answers_only_a_leader() {
    let lost = Some(Loss { term: Term(0), acked_upto: START.advance(8) });
    let mut acceptor = acceptor(Dialect::Neon, configuration(0, &[1], &[]), lost);
    let effects = acceptor.step(A, vote(0, 5)).unwrap();
    let [Effect::Persist(state)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((state.term, state.voted_for), (Term(5), None));
    // It asks again over its next connection, and needs the response to lead this node.
    let effects = acceptor.step(B, vote(0, 5)).unwrap();
    assert_eq!((voted(&effects).term, voted(&effects).vote_given), (Term(5), false));
}

/// A lost node is repaired when it holds all that a quorum can have counted on.
#[test]
fn loss_ends_when_no_quorum_counted_on_more() {
    // term of the loss, acknowledged; term that is followed, its start; reported commit, end of the log, repaired
    for (loss_term, acked, term, start, commit, end, repaired) in [
        // A later term: up to its start, whatever the disk remembers.
        (3, 20, 5, 60, 0, 40, false),
        (3, 20, 5, 60, 0, 60, true),
        (3, 80, 5, 60, 0, 60, true),
        // The term of the loss: all that was acknowledged, and all that is known to be committed.
        (5, 50, 5, 10, 0, 40, false),
        (5, 50, 5, 10, 0, 50, true),
        (5, 50, 5, 10, 55, 50, false),
        (5, 50, 5, 10, 55, 55, true),
    ] {
        let entry = |term, at| TermStart { term: Term(term), start: START.advance(at), tli: Tli::FIRST };
        let history = TermHistory::new(vec![entry(1, 0), entry(term, start)]).unwrap();
        let lost = Some(Loss { term: Term(loss_term), acked_upto: START.advance(acked) });
        let state = AcceptorState {
            term: Term(term),
            history: history.clone(),
            commit_lsn: START,
            lost,
            ..AcceptorState::default()
        };
        let mut acceptor =
            Acceptor::new(cluster::copy(1), lineage(Dialect::Holdfast), state, START.advance(10));
        acceptor.step(A, greeting(ProtocolVersion::Holdfast2, Configuration::default())).unwrap();
        let again = ProposerElected {
            replica: wal_types::ReplicaId([1; 16]),
            rebase: None,
            generation: Generation(0),
            term: Term(term),
            start_streaming_at: START.advance(10),
            history,
            timeline_start_lsn: START,
            tli_switches: Vec::new(),
            configuration: Configuration::default(),
        };
        acceptor.step(A, ProposerMessage::Elected(again)).unwrap();
        assert_eq!(flush(&mut acceptor), [], "the leader has not appended yet");
        acceptor.step(A, append(0, term, 10, end as usize - 10, commit, 0)).unwrap();
        let effects = flush(&mut acceptor);
        let row = (loss_term, acked, term, start, commit, end);
        assert_eq!(acceptor.state().lost.is_none(), repaired, "{row:?}");
        let persisted =
            effects.iter().any(|effect| matches!(effect, Effect::Persist(state) if state.lost.is_none()));
        assert!(persisted == repaired && matches!(effects.last(), Some(Effect::Reply { .. })), "{row:?}");
    }
}

/// A vote that was given before the loss is not given again.
#[test]
fn vote_from_before_the_loss_is_not_repeated() {
    let state = AcceptorState {
        term: Term(5),
        voted_for: Some(ProposerId([1; 16])),
        commit_lsn: START,
        lost: Some(Loss { term: Term(5), acked_upto: START.advance(8) }),
        ..AcceptorState::default()
    };
    let mut acceptor = Acceptor::new(cluster::copy(1), lineage(Dialect::Holdfast), state, START);
    acceptor.step(A, greeting(ProtocolVersion::Holdfast2, Configuration::default())).unwrap();
    for term in [5, 6] {
        let effects = acceptor.step(A, vote(0, term)).unwrap();
        let response = voted(&effects);
        assert!(response.lost && !response.vote_given && response.term == Term(term));
    }
    assert_eq!(acceptor.state().voted_for, None);
}

/// Term 1 wrote 100 bytes, which this node acknowledged; it promised term 2 with all of them and then lost those above
/// 40. Its disk remembers to have acknowledged 60. Led by term 2 again from 40 on.
fn lost_after_its_vote(dialect: Dialect) -> Acceptor {
    let entry = |term, at| TermStart { term: Term(term), start: START.advance(at), tli: Tli::FIRST };
    let state = AcceptorState {
        term: Term(2),
        history: TermHistory::new(vec![entry(1, 0)]).unwrap(),
        commit_lsn: START,
        lost: Some(Loss { term: Term(2), acked_upto: START.advance(60) }),
        ..AcceptorState::default()
    };

    let mut acceptor = Acceptor::new(cluster::copy(1), lineage(dialect), state, START.advance(40));
    let version = match dialect {
        Dialect::Neon => ProtocolVersion::V3,
        Dialect::Holdfast => ProtocolVersion::Holdfast2,
    };

    acceptor.step(A, greeting(version, Configuration::default())).unwrap();
    let elected = ProposerElected {
        replica: wal_types::ReplicaId([1; 16]),
        rebase: None,
        generation: Generation(0),
        term: Term(2),
        start_streaming_at: START.advance(40),
        history: TermHistory::new(vec![entry(1, 0), entry(2, 100)]).unwrap(),
        timeline_start_lsn: START,
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
    };

    acceptor.step(A, ProposerMessage::Elected(elected)).unwrap();
    acceptor
}

/// A node that lost what it had voted with needs everything below the start of that term.
#[test]
fn loss_after_a_vote_needs_the_term_start() {
    // The leader of term 2 begins where this node's vote said that the log ends: what lies below may be committed, with
    // this node as one of two that had it.
    let mut acceptor = lost_after_its_vote(Dialect::Holdfast);
    for (at, bytes, still_lost) in [(40, 30, true), (70, 29, true), (99, 1, false)] {
        acceptor.step(A, append(0, 2, at, bytes, 0, 0)).unwrap();
        flush(&mut acceptor);
        assert_eq!(acceptor.state().lost.is_some(), still_lost, "{at}");
    }
}

/// A proposer of dialect `neon` never learns of a loss, so its term does not end the loss.
#[test]
fn neon_leader_of_the_term_repairs_no_loss() {
    // It goes on counting what this node acknowledged before, so what this node needs cannot be derived from its appends.
    let mut acceptor = lost_after_its_vote(Dialect::Neon);
    acceptor.step(A, append(0, 2, 40, 80, 0, 0)).unwrap();
    flush(&mut acceptor);
    assert!(acceptor.state().lost.is_some());
}
