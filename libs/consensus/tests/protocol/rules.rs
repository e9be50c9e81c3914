//! Acceptor rules of both dialects: greetings, positions in responses, configurations, repair of a loss.

use consensus::{
    Acceptor, AcceptorMessage, AcceptorState, AppendRequest, Configuration, ConfigureRequest,
    ConfigureResponse, ConnectionId, Dialect, Effect, Loss, ProposerElected, ProposerGreeting,
    ProposerMessage, ProtocolVersion, Refusal, TermHistory, TermStart, VoteRequest, VoteResponse,
};
use wal_types::{Generation, Lsn, NodeId, ProposerId, SegmentSize, SystemId, TenantTimelineId, Term, Tli};

use crate::cluster::{START, configuration, lineage};

const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);

fn greeting(version: ProtocolVersion, configuration: Configuration) -> ProposerMessage {
    ProposerMessage::Greeting(ProposerGreeting {
        version,
        id: TenantTimelineId::default(),
        pg_version: 150_018,
        system_id: SystemId(7),
        segment_bytes: SegmentSize::POSTGRES_DEFAULT.bytes(),
        tli: Tli::FIRST,
        proposer_id: ProposerId::default(),
        configuration,
    })
}

fn acceptor(dialect: Dialect, configuration: Configuration, lost: Option<Loss>) -> Acceptor {
    let state = AcceptorState { configuration, commit_lsn: START, lost, ..AcceptorState::default() };
    let mut acceptor = Acceptor::new(NodeId(1), lineage(dialect), state, START);
    let version = match dialect {
        Dialect::Neon => ProtocolVersion::V3,
        Dialect::Holdfast => ProtocolVersion::Holdfast1,
    };
    for connection in [A, B] {
        acceptor.step(connection, greeting(version, Configuration::default())).unwrap();
    }
    acceptor
}

fn vote(generation: u32, term: u64) -> ProposerMessage {
    let (generation, term) = (Generation(generation), Term(term));
    ProposerMessage::Vote(VoteRequest { generation, term, proposer_id: ProposerId([1; 16]) })
}

fn elected(term: u64, configuration: Configuration) -> ProposerMessage {
    let first = TermStart { term: Term(term), start: START, tli: Tli::FIRST };
    ProposerMessage::Elected(ProposerElected {
        generation: configuration.generation,
        term: Term(term),
        start_streaming_at: START,
        history: TermHistory::new(vec![first]).unwrap(),
        timeline_start_lsn: START,
        tli_switches: Vec::new(),
        configuration,
    })
}

fn append(generation: u32, term: u64, at: u64, bytes: usize, commit: u64, truncate: u64) -> ProposerMessage {
    ProposerMessage::Append(AppendRequest {
        generation: Generation(generation),
        term: Term(term),
        epoch_start_lsn: Lsn::INVALID,
        begin_lsn: START.advance(at),
        commit_lsn: START.advance(commit),
        truncate_lsn: START.advance(truncate),
        proposer_id: ProposerId::default(),
        wal: vec![0; bytes].into(),
    })
}

fn configure(term: u64, configuration: Configuration) -> ProposerMessage {
    ProposerMessage::Configure(ConfigureRequest { term: Term(term), configuration })
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

fn configured(effects: &[Effect]) -> ConfigureResponse {
    match effects.last() {
        Some(Effect::Reply { message: AcceptorMessage::Configure(response), .. }) => *response,
        other => panic!("expected an answer to a configuration, got {other:?}"),
    }
}

/// A log whose cluster is unknown is bound to the cluster of the first greeting.
#[test]
fn first_greeting_binds_the_cluster() {
    let mut lineage = lineage(Dialect::Neon);
    (lineage.system_id, lineage.pg_version) = (SystemId(0), 0);
    let mut acceptor = Acceptor::new(NodeId(1), lineage, AcceptorState::default(), START);
    let greet = || greeting(ProtocolVersion::V3, Configuration::default());
    let effects = acceptor.step(A, greet()).unwrap();
    let [Effect::PersistLineage(learnt), Effect::Reply { .. }] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!((learnt.system_id, learnt.pg_major()), (SystemId(7), 15));
    assert_eq!(acceptor.step(B, greet()).unwrap().len(), 1, "the identity is learnt once");
}

/// In dialect `neon` a greeting brings a newer configuration, to its members only. In `holdfast` only a leader
/// decides.
#[test]
fn neon_greeting_configures_listed_members_only() {
    // generation, members, whether this node (1) adopts it
    for (generation, ids, adopted) in [
        (6, [1, 2].as_slice(), Some(true)),
        (5, &[1, 2], Some(false)),
        (4, &[1, 2], Some(false)),
        (6, &[2, 3], None),
    ] {
        let mut acceptor = acceptor(Dialect::Neon, configuration(5, &[1, 2, 3], &[]), None);
        let reported = configuration(generation, ids, &[]);
        let answer = acceptor.step(ConnectionId(3), greeting(ProtocolVersion::V3, reported.clone()));
        let persisted = |effects: &[Effect]| matches!(effects.first(), Some(Effect::Persist(_)));
        let refused = Err(Refusal::NotAMember(Generation(generation)));
        assert_eq!(answer.map(|effects| persisted(&effects)), adopted.map_or(refused, Ok));
        assert_eq!(acceptor.state().configuration == reported, adopted == Some(true));
    }
    let mut holdfast = acceptor(Dialect::Holdfast, configuration(5, &[1, 2, 3], &[]), None);
    let reported = configuration(6, &[1, 2], &[]);
    holdfast.step(ConnectionId(3), greeting(ProtocolVersion::Holdfast1, reported)).unwrap();
    assert_eq!(
        holdfast.state().configuration.generation,
        Generation(5),
        "only a leader changes a configuration"
    );
}

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
    let mut acceptor = Acceptor::new(NodeId(1), lineage(Dialect::Holdfast), state, START.advance(50));
    acceptor.step(A, greeting(ProtocolVersion::Holdfast1, Configuration::default())).unwrap();
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

/// A configuration is accepted from the leader only, and is durable before the reply.
#[test]
fn configure_persists_before_it_replies_to_the_leader() {
    let next = || configuration(2, &[1, 2], &[3]);
    let mut acceptor = acceptor(Dialect::Holdfast, configuration(1, &[1, 2], &[]), None);
    let not_elected = |term, own| Err(Refusal::NotElected { term: Term(term), own: Term(own) });
    assert_eq!(acceptor.step(A, configure(3, next())), not_elected(3, 0));
    acceptor.step(A, vote(1, 3)).unwrap();
    assert_eq!(acceptor.step(A, configure(3, next())), not_elected(3, 3));
    acceptor.step(A, elected(3, configuration(1, &[1, 2], &[]))).unwrap();
    assert_eq!(acceptor.state().configuration_term, Term(3), "the election decides it anew");
    assert_eq!(acceptor.step(B, configure(3, next())), not_elected(3, 3));
    assert_eq!(acceptor.step(A, configure(4, next())), not_elected(4, 3));
    let effects = acceptor.step(A, configure(3, next())).unwrap();
    let [Effect::Persist(state), Effect::Reply { to: A, .. }] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!((&state.configuration, state.configuration_term), (&next(), Term(3)));
    assert_eq!(configured(&effects), ConfigureResponse { term: Term(3), generation: Generation(2) });
    // A repetition changes nothing.
    assert_eq!(acceptor.step(A, configure(3, next())).unwrap().len(), 1);
    // A deposed leader learns the higher term.
    acceptor.step(B, vote(2, 7)).unwrap();
    let effects = acceptor.step(A, configure(3, configuration(3, &[1], &[]))).unwrap();
    assert_eq!((effects.len(), configured(&effects).term), (1, Term(7)));
}

/// Within a term generations only rise, and each has one meaning. A new term may go back.
#[test]
fn generations_rise_within_a_term() {
    let mut acceptor = acceptor(Dialect::Holdfast, configuration(9, &[1, 2], &[]), None);
    acceptor.step(A, elected(3, configuration(5, &[1, 2], &[]))).unwrap();
    assert_eq!(acceptor.state().configuration.generation, Generation(5), "a new term may go back");
    let empty = consensus::InvalidConfiguration::Empty(Generation(6));
    let older = Refusal::OlderConfiguration { known: Generation(5), got: Generation(4) };
    for (next, refusal) in [
        (configuration(5, &[1, 3], &[]), Refusal::TwoConfigurations(Generation(5))),
        (configuration(4, &[1, 2], &[]), older),
        (configuration(6, &[], &[]), Refusal::Configuration(empty)),
    ] {
        assert_eq!(acceptor.step(A, configure(3, next.clone())), Err(refusal.clone()));
        assert_eq!(acceptor.step(B, elected(3, next)), Err(refusal), "nor does a reconnect bring it");
    }
    assert!(acceptor.step(A, configure(3, configuration(5, &[1, 2], &[]))).is_ok(), "A still leads");
    let effects = acceptor.step(B, elected(3, configuration(6, &[1, 2, 3], &[]))).unwrap();
    assert!(matches!(effects.as_slice(), [Effect::Persist(_)]), "a reconnect brings what was missed");
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
        let mut acceptor = Acceptor::new(NodeId(1), lineage(Dialect::Holdfast), state, START.advance(10));
        acceptor.step(A, greeting(ProtocolVersion::Holdfast1, Configuration::default())).unwrap();
        let again = ProposerElected {
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
    let mut acceptor = Acceptor::new(NodeId(1), lineage(Dialect::Holdfast), state, START);
    acceptor.step(A, greeting(ProtocolVersion::Holdfast1, Configuration::default())).unwrap();
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
    let mut acceptor = Acceptor::new(NodeId(1), lineage(dialect), state, START.advance(40));
    let version = match dialect {
        Dialect::Neon => ProtocolVersion::V3,
        Dialect::Holdfast => ProtocolVersion::Holdfast1,
    };
    acceptor.step(A, greeting(version, Configuration::default())).unwrap();
    let elected = ProposerElected {
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
