//! Configurations: accepted from the leader, ordered by term and generation.

use super::*;

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
