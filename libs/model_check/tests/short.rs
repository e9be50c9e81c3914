//! The short form of every model: seconds, and it must see what makes it worth anything.

use std::collections::BTreeSet;
use std::time::Duration;

use model_check::{Bounds, Kind, Verdict, check, check_and_collect};

/// Far more than it takes; a check that is stopped has failed.
const TIME_MAX: Duration = Duration::from_secs(300);

fn assert_all_invariants_hold(kind: Kind) {
    let report = check(Bounds::short(kind), 2, TIME_MAX, |_, _| {});
    assert_eq!(report.verdict, Verdict::Holds, "{report}");
}

#[test]
fn all_invariants_hold_when_messages_arrive_at_once() {
    assert_all_invariants_hold(Kind::Atomic);
}

#[test]
fn all_invariants_hold_with_messages_on_their_way() {
    assert_all_invariants_hold(Kind::InFlight);
}

/// All of it takes minutes without optimisation: here it goes as far as it gets.
#[test]
fn no_invariant_breaks_soon_while_members_change() {
    let report = check(Bounds::short(Kind::Members), 2, Duration::from_secs(10), |_, _| {});
    assert!(matches!(report.verdict, Verdict::Holds | Verdict::Unfinished), "{report}");
}

#[test]
fn all_invariants_hold_while_the_primary_is_changed() {
    assert_all_invariants_hold(Kind::Primary);
}

/// Two terms left what is not committed: it is not lost by being committed too soon.
#[test]
fn all_invariants_hold_after_two_terms_that_committed_nothing() {
    assert_all_invariants_hold(Kind::EarlierTerms);
}

#[test]
fn what_is_left_out_leads_to_no_other_nodes() {
    for (terms, log) in [(2, 1), (3, 0)] {
        let reduced = Bounds { terms, log, ..Bounds::short(Kind::Atomic) };
        let expected = nodes_together(reduced);
        for bounds in [Bounds { interleaved: true, ..reduced }, Bounds { symmetry: false, ..reduced }] {
            let joint = nodes_together(bounds);
            assert!(joint == expected, "{bounds:?}: {} and {}", joint.len(), expected.len());
        }
    }
}

#[test]
fn nodes_hold_the_same_where_only_answers_wait() {
    for (terms, log) in [(1, 1), (2, 0)] {
        assert_messages_need_not_wait(terms, log, false);
    }
}

#[test]
#[ignore = "minutes, and only when optimised"]
fn nodes_hold_the_same_where_only_answers_wait_in_larger_models() {
    for (terms, log, interleaved) in [(1, 1, true), (2, 1, false), (1, 2, false)] {
        assert_messages_need_not_wait(terms, log, interleaved);
    }
}

/// Messages that wait until they arrive, with answers that wait as well, lead to the same nodes as answers alone. On their
/// way there have to be as many as there ever are: what is sent to whoever votes, and each record.
fn assert_messages_need_not_wait(terms: u64, log: usize, interleaved: bool) {
    let reduced = Bounds { terms, log, ..Bounds::short(Kind::InFlight) };
    let all_wait = Bounds { only_replies_wait: false, in_flight: log + 2, interleaved, ..reduced };
    let (joint, expected) = (nodes_together(all_wait), nodes_together(reduced));
    assert!(joint == expected, "{all_wait:?}: {} and {}", joint.len(), expected.len());
}

fn nodes_together(bounds: Bounds) -> BTreeSet<u64> {
    let (report, joint) = check_and_collect(bounds, 2, TIME_MAX);
    assert!(matches!(report.verdict, Verdict::Holds | Verdict::LowCoverage(_)), "{report}");
    joint
}
