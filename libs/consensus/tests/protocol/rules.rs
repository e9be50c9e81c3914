//! Rules of the acceptor that the stories do not tell: greetings of both dialects, positions in answers, configurations.

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

#[test]
fn a_log_of_an_unknown_cluster_is_bound_to_the_first_that_comes() {
    let mut lineage = lineage(Dialect::Neon);
    (lineage.system_id, lineage.pg_version) = (SystemId(0), 0);
    let mut acceptor = Acceptor::new(NodeId(1), lineage, AcceptorState::default(), START);
    let greet = || greeting(ProtocolVersion::V3, Configuration::default());
    let effects = acceptor.step(A, greet()).unwrap();
    let [Effect::PersistLineage(learnt), Effect::Reply { .. }] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!((learnt.system_id, learnt.pg_major()), (SystemId(7), 15));
    assert_eq!(acceptor.step(B, greet()).unwrap().len(), 1, "it is learnt once");
}

#[test]
fn a_public_greeting_brings_a_newer_configuration_to_its_members_only() {
    // generation, members, whether this node (1) takes it
    for (generation, ids, taken) in [
        (6, [1, 2].as_slice(), Some(true)),
        (5, &[1, 2], Some(false)),
        (4, &[1, 2], Some(false)),
        (6, &[2, 3], None),
    ] {
        let mut acceptor = acceptor(Dialect::Neon, configuration(5, &[1, 2, 3], &[]), None);
        let told = configuration(generation, ids, &[]);
        let answer = acceptor.step(ConnectionId(3), greeting(ProtocolVersion::V3, told.clone()));
        let persisted = |effects: &[Effect]| matches!(effects.first(), Some(Effect::Persist(_)));
        let refused = Err(Refusal::NotAMember(Generation(generation)));
        assert_eq!(answer.map(|effects| persisted(&effects)), taken.map_or(refused, Ok));
        assert_eq!(acceptor.state().configuration == told, taken == Some(true));
    }
    let mut ours = acceptor(Dialect::Holdfast, configuration(5, &[1, 2, 3], &[]), None);
    let told = configuration(6, &[1, 2], &[]);
    ours.step(ConnectionId(3), greeting(ProtocolVersion::Holdfast1, told)).unwrap();
    assert_eq!(ours.state().configuration.generation, Generation(5), "in ours only a leader decides");
}

#[test]
fn public_messages_of_another_generation_are_refused_and_ours_are_not() {
    for message in [vote(4, 1), append(4, 1, 0, 1, 0, 0), elected(1, configuration(4, &[1], &[]))] {
        let mut neon = acceptor(Dialect::Neon, configuration(5, &[1], &[]), None);
        let refused = Refusal::Generation { expected: Generation(5), got: Generation(4) };
        assert_eq!(neon.step(A, message.clone()), Err(refused.clone()));
        let mut ours = acceptor(Dialect::Holdfast, configuration(5, &[1], &[]), None);
        assert_ne!(ours.step(A, message), Err(refused));
    }
}

#[test]
fn an_election_of_a_lower_term_is_dropped_and_of_a_higher_one_adopted() {
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

#[test]
fn a_vote_tells_the_history_of_what_is_here_and_a_horizon_that_will_last() {
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

#[test]
fn a_history_that_reaches_beyond_the_log_is_told_up_to_its_end() {
    let entry = |term, at| TermStart { term: Term(term), start: START.advance(at), tli: Tli::FIRST };
    let history = TermHistory::new(vec![entry(1, 0), entry(3, 50), entry(4, 60)]).unwrap();
    let state = AcceptorState { term: Term(4), history, commit_lsn: START, ..AcceptorState::default() };
    let mut acceptor = Acceptor::new(NodeId(1), lineage(Dialect::Holdfast), state, START.advance(50));
    acceptor.step(A, greeting(ProtocolVersion::Holdfast1, Configuration::default())).unwrap();
    let effects = acceptor.step(A, vote(0, 5)).unwrap();
    assert_eq!(voted(&effects).history.entries(), [entry(1, 0), entry(3, 50)], "equality is kept");
    assert_eq!(acceptor.last_log_term(), Term(3));
}

#[test]
fn nobody_can_claim_a_horizon_or_a_commit_beyond_the_log() {
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

#[test]
fn a_term_that_nobody_can_have_come_to_is_refused() {
    let mut acceptor = acceptor(Dialect::Holdfast, configuration(0, &[1], &[]), None);
    for term in [u64::MAX, 1 << 50] {
        let leap = Refusal::TermLeap { own: Term(0), got: Term(term) };
        assert_eq!(acceptor.step(A, vote(0, term)), Err(leap.clone()));
        assert_eq!(acceptor.step(A, elected(term, configuration(0, &[1], &[]))), Err(leap));
    }
    assert!(acceptor.step(A, vote(0, 1 << 40)).is_ok());
}

#[test]
fn a_configuration_is_taken_from_the_leader_only_and_stands_before_it_is_told() {
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
    // Once more is no news.
    assert_eq!(acceptor.step(A, configure(3, next())).unwrap().len(), 1);
    // A deposed leader hears of the higher term.
    acceptor.step(B, vote(2, 7)).unwrap();
    let effects = acceptor.step(A, configure(3, configuration(3, &[1], &[]))).unwrap();
    assert_eq!((effects.len(), configured(&effects).term), (1, Term(7)));
}

#[test]
fn within_a_term_generations_rise_and_mean_one_thing() {
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
    assert!(acceptor.step(A, configure(3, configuration(5, &[1, 2], &[]))).is_ok(), "A leads on");
    let effects = acceptor.step(B, elected(3, configuration(6, &[1, 2, 3], &[]))).unwrap();
    assert!(matches!(effects.as_slice(), [Effect::Persist(_)]), "a reconnect brings what was missed");
}

#[test]
fn only_the_leader_hears_positions_while_there_is_no_room() {
    let mut acceptor = acceptor(Dialect::Holdfast, configuration(0, &[1], &[]), None);
    acceptor.step(A, elected(1, configuration(0, &[1], &[]))).unwrap();
    acceptor.step(A, append(0, 1, 0, 8, 0, 0)).unwrap();
    flush(&mut acceptor);
    acceptor.step(B, vote(0, 2)).unwrap();
    // The winner of term 2 was not followed yet: our log is not its log.
    for connection in [A, B] {
        let Effect::Reply { message: AcceptorMessage::Append(told), .. } =
            acceptor.unchanged_response(connection)
        else {
            panic!()
        };
        assert_eq!((told.term, told.flush_lsn, told.commit_lsn), (Term(2), Lsn::INVALID, Lsn::INVALID));
    }
}

#[test]
fn a_lost_node_is_silent_to_a_public_campaign_until_others_elected_it() {
    let lost = Some(Loss { term: Term(0), acked_upto: START.advance(8) });
    let mut acceptor = acceptor(Dialect::Neon, configuration(0, &[1], &[]), lost);
    let effects = acceptor.step(A, vote(0, 5)).unwrap();
    let [Effect::Persist(state)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((state.term, state.voted_for), (Term(5), None));
    // It asks again over its next connection, and needs to hear how to lead this node.
    let effects = acceptor.step(B, vote(0, 5)).unwrap();
    assert_eq!((voted(&effects).term, voted(&effects).vote_given), (Term(5), false));
}

#[test]
fn what_was_lost_is_regained_when_nobody_can_have_counted_on_more() {
    // term of the loss, acknowledged; term that is followed, its start; commit told, end of the log, regained
    for (loss_term, acked, term, start, commit, end, regained) in [
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
        assert_eq!(flush(&mut acceptor), [], "nobody said yet what is committed");
        acceptor.step(A, append(0, term, 10, end as usize - 10, commit, 0)).unwrap();
        let effects = flush(&mut acceptor);
        let row = (loss_term, acked, term, start, commit, end);
        assert_eq!(acceptor.state().lost.is_none(), regained, "{row:?}");
        let stands =
            effects.iter().any(|effect| matches!(effect, Effect::Persist(state) if state.lost.is_none()));
        assert!(stands == regained && matches!(effects.last(), Some(Effect::Reply { .. })), "{row:?}");
    }
}

#[test]
fn a_vote_of_before_the_loss_is_not_given_again() {
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

#[test]
fn a_node_that_lost_what_it_had_voted_with_needs_all_below_the_start_of_that_term() {
    // The leader of term 2 begins where this node's vote said that the log ends: what lies below may be committed, with
    // this node as one of two that had it.
    let mut acceptor = lost_after_its_vote(Dialect::Holdfast);
    for (at, bytes, still_lost) in [(40, 30, true), (70, 29, true), (99, 1, false)] {
        acceptor.step(A, append(0, 2, at, bytes, 0, 0)).unwrap();
        flush(&mut acceptor);
        assert_eq!(acceptor.state().lost.is_some(), still_lost, "{at}");
    }
}

#[test]
fn a_public_proposer_that_never_learns_of_a_loss_does_not_end_it() {
    // It goes on counting what this node acknowledged before, so what this node needs cannot be told from its appends.
    let mut acceptor = lost_after_its_vote(Dialect::Neon);
    acceptor.step(A, append(0, 2, 40, 80, 0, 0)).unwrap();
    flush(&mut acceptor);
    assert!(acceptor.state().lost.is_some());
}
