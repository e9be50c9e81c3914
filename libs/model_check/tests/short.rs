//! The short form of every model: runs for seconds, and must reach the events that make it useful.

use std::collections::BTreeSet;
use std::time::Duration;

use model_check::{Audit, Bounds, Kind, Verdict, audit, check, check_and_collect};

/// Far more than a check needs; a check that is stopped has failed.
const TIME_MAX: Duration = Duration::from_secs(300);

fn assert_invariants_hold(kind: Kind) {
    let report = check(Bounds::short(kind), 2, TIME_MAX, |_, _| {});
    assert_eq!(report.verdict, Verdict::Holds, "{report}");
}

#[test]
fn invariants_hold_with_atomic_messages() {
    assert_invariants_hold(Kind::Atomic);
}

#[test]
fn invariants_hold_with_messages_in_flight() {
    assert_invariants_hold(Kind::InFlight);
}

/// The complete check takes minutes without optimisation: this test explores as much as 10 s allow.
#[test]
fn no_invariant_breaks_soon_while_members_change() {
    let report = check(Bounds::short(Kind::Members), 2, Duration::from_secs(10), |_, _| {});
    assert!(matches!(report.verdict, Verdict::Holds | Verdict::Unfinished), "{report}");
}

#[test]
fn invariants_hold_while_primaries_are_designated() {
    assert_invariants_hold(Kind::Primary);
}

/// Two terms left uncommitted records; they must not be lost by being committed too soon.
#[test]
fn invariants_hold_after_two_uncommitted_terms() {
    assert_invariants_hold(Kind::EarlierTerms);
}

/// Which of two states that differ only in names is explored must make no difference. Otherwise some states are skipped,
/// and their number depends on the order of visits.
#[test]
fn equal_fingerprints_have_equal_successors() {
    let atomic = Bounds::short(Kind::Atomic);
    for bounds in [
        atomic,
        Bounds { log: 2, ..atomic },
        Bounds { terms: 3, log: 0, ..atomic },
        Bounds { interleaved: true, ..atomic },
        Bounds { heartbeats: true, checkpoints: true, ..atomic },
        Bounds { crashes: 1, ..atomic },
        Bounds { disconnects: 1, ..atomic },
        Bounds::short(Kind::InFlight),
        Bounds { only_replies_wait: false, ..Bounds::short(Kind::InFlight) },
        Bounds::short(Kind::Primary),
        Bounds::short(Kind::EarlierTerms),
    ] {
        let Audit { unique, compared, different, example } = audit(bounds);
        assert_eq!(different, 0, "{bounds:?}: {unique} unique, {compared} compared, {example:#?}");
    }
}

#[test]
fn unique_count_is_independent_of_threads() {
    for kind in [Kind::Atomic, Kind::InFlight, Kind::Primary, Kind::EarlierTerms] {
        let bounds = Bounds::short(kind);
        let expected = audit(bounds).unique;
        for threads in [1, 2, 4] {
            assert_eq!(
                check(bounds, threads, TIME_MAX, |_, _| {}).unique,
                expected,
                "{kind:?}, {threads} threads"
            );
        }
    }
}

#[test]
fn reductions_reach_the_same_node_states() {
    for (terms, log) in [(2, 1), (3, 0)] {
        let reduced = Bounds { terms, log, ..Bounds::short(Kind::Atomic) };
        let expected = joint_node_states(reduced);
        for bounds in [Bounds { interleaved: true, ..reduced }, Bounds { symmetry: false, ..reduced }] {
            let joint = joint_node_states(bounds);
            assert!(joint == expected, "{bounds:?}: {} and {}", joint.len(), expected.len());
        }
    }
}

#[test]
fn waiting_replies_reach_the_same_node_states() {
    for (terms, log) in [(1, 1), (2, 0)] {
        assert_messages_need_not_wait(terms, log, false);
    }
}

#[test]
#[ignore = "minutes, and only when optimised"]
fn waiting_replies_suffice_in_larger_models() {
    for (terms, log, interleaved) in [(1, 1, true), (2, 1, false), (1, 2, false)] {
        assert_messages_need_not_wait(terms, log, interleaved);
    }
}

/// Asserts that waiting messages and replies reach the same states of nodes as waiting replies alone. As many messages
/// may wait as there ever are: those to a voting node, and one per record.
fn assert_messages_need_not_wait(terms: u64, log: usize, interleaved: bool) {
    let reduced = Bounds { terms, log, ..Bounds::short(Kind::InFlight) };
    let all_wait = Bounds { only_replies_wait: false, in_flight: log + 2, interleaved, ..reduced };
    let (joint, expected) = (joint_node_states(all_wait), joint_node_states(reduced));
    assert!(joint == expected, "{all_wait:?}: {} and {}", joint.len(), expected.len());
}

fn joint_node_states(bounds: Bounds) -> BTreeSet<u64> {
    let (report, joint) = check_and_collect(bounds, 2, TIME_MAX);
    assert!(matches!(report.verdict, Verdict::Holds | Verdict::LowCoverage(_)), "{report}");
    joint
}
