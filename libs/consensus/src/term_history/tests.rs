//! The rules of term histories, from tables.

use wal_types::{Lsn, Term, Tli};

use super::*;

fn history(entries: &[(u64, u64)]) -> TermHistory {
    let entries = entries.iter().map(|&(term, start)| TermStart {
        term: Term(term),
        start: Lsn(start),
        tli: Tli::FIRST,
    });
    TermHistory::new(entries.collect()).unwrap()
}

/// Two logs part at the first position that different terms wrote.
#[test]
fn common_point_is_where_the_terms_differ() {
    // proposer, local, local flush, common point
    let table: &[(&[(u64, u64)], &[(u64, u64)], u64, Option<u64>)] = &[
        // The local log is a prefix.
        (&[(1, 8), (2, 50)], &[(1, 8)], 30, Some(30)),
        // The local tail of term 1 was never committed.
        (&[(1, 8), (2, 50)], &[(1, 8)], 80, Some(50)),
        // The same term again: nothing to truncate.
        (&[(1, 8), (2, 50)], &[(1, 8), (2, 50)], 90, Some(90)),
        // Both logs differ from 50 on.
        (&[(1, 8), (3, 50)], &[(1, 8), (2, 50)], 90, Some(50)),
        (&[(1, 8), (3, 60)], &[(1, 8), (2, 50)], 90, Some(50)),
        (&[(1, 8), (3, 40)], &[(1, 8), (2, 50)], 90, Some(40)),
        // Empty ranges do not matter on either side.
        (&[(1, 8), (2, 50), (3, 50), (5, 70)], &[(1, 8), (3, 50)], 60, Some(60)),
        (&[(1, 8), (5, 70)], &[(1, 8), (4, 70)], 70, Some(70)),
        // By index these two part at 100, and committed bytes up to 300 would be truncated.
        (&[(1, 8), (4, 100), (6, 300)], &[(1, 8), (3, 100), (4, 100)], 300, Some(300)),
        // Dropped entries: below the higher first entry all agree.
        (&[(4, 100), (6, 300)], &[(1, 8), (4, 100)], 400, Some(300)),
        (&[(1, 8), (4, 100), (6, 300)], &[(4, 100)], 250, Some(250)),
        (&[(1, 8), (4, 100), (6, 300)], &[(4, 100), (5, 200)], 250, Some(200)),
        // They differ where both lists begin, and perhaps below.
        (&[(4, 100), (6, 300)], &[(1, 8), (3, 100)], 400, None),
        (&[(1, 8), (4, 100)], &[(3, 50)], 80, None),
        // Not so at the start of the log: there is nothing below.
        (&[(4, 8), (6, 300)], &[(3, 8)], 400, Some(8)),
        // The list begins above the local log, or at its very end.
        (&[(4, 100), (6, 300)], &[(1, 8)], 90, None),
        (&[(4, 100), (6, 300)], &[(1, 8)], 100, None),
        // An empty node.
        (&[(1, 8), (2, 50)], &[], 8, Some(8)),
        (&[(2, 50)], &[], 8, Some(8)),
        (&[], &[], 8, None),
    ];

    for &(proposer, local, flush, expected) in table {
        let local_log = LogExtent { history: history(local), start: Lsn(8), end: Lsn(flush), agreed: Lsn(8) };
        let got = common_point(&history(proposer), &local_log);
        assert_eq!(got, expected.map(Lsn), "{proposer:?} against {local:?} flushed {flush}");
    }
}

/// A log that ends below what all members agreed on parts nowhere, whatever the histories say.
#[test]
fn common_point_of_short_log_is_its_end() {
    let extent = |end, agreed| LogExtent { history: history(&[(1, 8)]), start: Lsn(8), end, agreed };
    let proposer = history(&[(4, 100), (6, 300)]);
    // It lost a part of what all members had: the list of the proposer begins above, and still nothing differs.
    assert_eq!(common_point(&proposer, &extent(Lsn(60), Lsn(70))), Some(Lsn(60)));
    assert_eq!(common_point(&proposer, &extent(Lsn(60), Lsn(50))), None);
}

/// The forgotten entries are the trap: compared from where both lists begin, two bytes of one term would hide that
/// the logs parted before.
#[test]
fn pruned_history_never_keeps_a_dead_tail() {
    let long: Vec<(u64, u64)> = (1..=1200).map(|term| (term, term * 8)).collect();
    let kept = history(&long[..999]).with_election(Term(5000), Lsn(9000), Tli::FIRST, Lsn(8));
    assert_eq!(kept.entries().len(), TERM_HISTORY_ENTRIES_MAX);
    let longer = TermHistory(history(&long).0).with_election(Term(5000), Lsn(9700), Tli::FIRST, Lsn(8));
    assert_eq!(longer.entries().len(), TERM_HISTORY_ENTRIES_MAX);
    let first = longer.entries()[0].start;
    let local = |entries: &[(u64, u64)], end| LogExtent {
        history: history(entries),
        start: Lsn(8),
        end,
        agreed: Lsn(8),
    };

    let own_way = [(1, 8), (2000, 16)];
    assert_eq!(common_point(&longer, &local(&own_way, first.advance(100))), None);
    assert_eq!(common_point(&longer, &local(&long[..150], first)), None);
    let followed = local(&long[..1000], Lsn(8500));
    assert_eq!(common_point(&longer, &followed), Some(Lsn(8008)));
}

/// An entry that begins exactly at the end of the log is its last term, though no byte was written.
#[test]
fn last_log_term_counts_an_empty_last_entry() {
    let history = history(&[(1, 8), (5, 100)]);
    assert_eq!(history.last_log_term(Lsn(99)), Term(1));
    assert_eq!(history.last_log_term(Lsn(100)), Term(5));
    assert_eq!(TermHistory::default().last_log_term(Lsn(100)), Term::ZERO);
}

/// Entries without a byte in the log, and entries below what all members hold, are left out.
#[test]
fn with_election_leaves_out_unneeded_entries() {
    let table: &[(&[(u64, u64)], u64, u64, &[(u64, u64)])] = &[
        (&[(1, 8)], 100, 8, &[(1, 8), (9, 100)]),
        // Term 5 wrote nothing.
        (&[(1, 8), (5, 100)], 100, 8, &[(1, 8), (9, 100)]),
        // An entry beyond the end of the log is not part of it.
        (&[(1, 8), (5, 200)], 100, 8, &[(1, 8), (9, 100)]),
        // All members hold everything up to 61: the entry that ends below goes, the last byte stays covered.
        (&[(1, 8), (2, 60), (3, 80)], 100, 61, &[(2, 60), (3, 80), (9, 100)]),
        (&[(1, 8), (2, 60), (3, 80)], 100, 60, &[(1, 8), (2, 60), (3, 80), (9, 100)]),
        (&[(1, 8)], 100, 100, &[(1, 8), (9, 100)]),
        (&[], 8, 8, &[(9, 8)]),
    ];

    for &(before, end, agreed, expected) in table {
        let got = history(before).with_election(Term(9), Lsn(end), Tli::FIRST, Lsn(agreed));
        assert_eq!(got, history(expected), "{before:?} elected at {end}, agreed up to {agreed}");
    }
}

/// A timeline number that was given out is not forgotten, though no byte was written on it.
#[test]
fn with_election_keeps_a_reserved_timeline_number() {
    let entry = |term, start, tli| TermStart { term: Term(term), start: Lsn(start), tli: Tli(tli) };
    // A server was promoted to timeline 2 at 100, wrote nothing, and the old one leads again.
    let before = TermHistory::new(vec![entry(1, 8, 1), entry(5, 100, 2)]).unwrap();
    let after = before.with_election(Term(6), Lsn(100), Tli(1), Lsn(8));
    assert_eq!(after.entries(), [entry(1, 8, 1), entry(5, 100, 2), entry(6, 100, 1)]);
    assert_eq!((after.tli_at(Lsn(100)), after.tli_at(Lsn(101))), (Some(Tli(1)), Some(Tli(1))));
    assert_eq!(after.highest_tli(), Some(Tli(2)));
    // Once timeline 3 has WAL of its own, the empty entry reserves nothing any more.
    let later = after.with_election(Term(7), Lsn(200), Tli(3), Lsn(8));
    assert_eq!(later.entries(), [entry(1, 8, 1), entry(6, 100, 1), entry(7, 200, 3)]);
}

/// A reserved number owns no byte: an entry that ended up in front of a gap would claim what the left out ones wrote.
#[test]
fn reserved_timeline_number_parts_no_logs() {
    let entry = |term, start, tli| TermStart { term: Term(term), start: Lsn(start), tli: Tli(tli) };
    let entries = vec![entry(1, 8, 1), entry(5, 100, 2), entry(6, 100, 1), entry(7, 300, 1)];
    let local = TermHistory::new(entries).unwrap();
    let elected = local.with_election(Term(9), Lsn(500), Tli(1), Lsn(400));
    assert_eq!(elected.highest_tli(), Some(Tli(2)));
    assert_eq!(elected.entries(), [entry(5, 300, 2), entry(7, 300, 1), entry(9, 500, 1)]);
    let log = LogExtent { history: local, start: Lsn(8), end: Lsn(500), agreed: Lsn(400) };
    assert_eq!(common_point(&elected, &log), Some(Lsn(500)));
    assert_eq!(elected.with_election(Term(10), Lsn(600), Tli(1), Lsn(550)).highest_tli(), Some(Tli(2)));
}

/// Terms must rise and positions must not fall.
#[test]
fn new_refuses_a_list_out_of_order() {
    let entry = |term, start| TermStart { term: Term(term), start: Lsn(start), tli: Tli::FIRST };
    assert_eq!(TermHistory::new(vec![entry(1, 8), entry(1, 9)]), Err(HistoryOutOfOrder(1)));
    assert_eq!(TermHistory::new(vec![entry(1, 8), entry(2, 9), entry(3, 7)]), Err(HistoryOutOfOrder(2)));
}
