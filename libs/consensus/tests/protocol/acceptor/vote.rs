//! Votes: one per term, durable before the reply.

use super::*;

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
