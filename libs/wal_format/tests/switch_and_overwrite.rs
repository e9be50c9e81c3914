//! The two ways in which WAL leaves something out: the unused rest of a segment, and a record that a crash cut off.

mod common;

use common::{Log, check_every_prefix, found};
use wal_format::{PAGE_BYTES, RecordScanner, ScanError, StopReason, find_end_of_log};
use wal_types::Lsn;

#[test]
fn a_switch_counts_when_the_rest_of_its_segment_is_there() {
    let mut log = Log::new(64);
    let before = log.noop(100);
    let segment_end = log.switch();
    assert_eq!(segment_end, log.ctx.segment_size.start_of(2));
    log.noop(100);
    let mut scanner = log.scanner();
    scanner.feed(&log.bytes[..log.index_of(segment_end) - 1]).unwrap();
    assert_eq!(scanner.record_end(), before);
    scanner.feed(&[0]).unwrap();
    assert_eq!(scanner.record_end(), segment_end);
    check_every_prefix(&log);
}

#[test]
fn the_rest_of_a_segment_may_hold_anything() {
    let mut log = Log::new(64);
    let before = log.noop(100);
    log.switch();
    log.noop(100);
    let (padding, segment_end) = (log.index_of(before) + 24, 64 << 10);
    log.bytes[padding..segment_end].fill(0xd1);
    check_every_prefix(&log);
}

#[test]
fn a_switch_at_the_start_of_a_segment_writes_nothing() {
    let mut log = Log::new(16);
    log.switch();
    assert!(log.bytes.is_empty());
    log.noop(100);
    log.switch();
    log.switch();
    assert_eq!(log.bytes.len(), 16 << 10);
}

#[test]
fn a_switch_that_ends_with_its_segment_has_no_padding() {
    let mut log = Log::new(16);
    log.fill_segment_up_to(24);
    log.switch();
    assert_eq!(log.bytes.len(), 16 << 10);
    log.noop(100);
    check_every_prefix(&log);
}

/// A log whose second segment begins with the last `16 - left + 8` bytes of a switch's header, and a third segment.
fn switch_over_a_boundary(left: u64) -> Log {
    let mut log = Log::new(16);
    log.fill_segment_up_to(left);
    log.switch();
    assert_eq!(log.bytes.len(), 32 << 10, "the whole second segment is unused");
    log.noop(100);
    log
}

#[test]
fn a_switch_over_a_segment_boundary_uses_up_the_next_segment() {
    for left in [8, 16] {
        check_every_prefix(&switch_over_a_boundary(left));
    }
}

#[test]
fn a_scan_that_begins_inside_a_switch_waits_for_the_next_segment_to_prove_it() {
    for left in [8, 16] {
        let log = switch_over_a_boundary(left);
        let (second, third) = (log.ctx.segment_size.start_of(2), log.ctx.segment_size.start_of(3));
        let mut scanner = RecordScanner::at_segment_start(log.ctx, second);
        for byte in &log.bytes[log.index_of(second)..log.index_of(third) + 39] {
            scanner.feed(&[*byte]).unwrap();
            assert_eq!(found(&scanner), (second, None));
        }
        assert!(scanner.is_start_ambiguous());
        scanner.feed(&log.from(third)[39..40]).unwrap();
        assert_eq!(found(&scanner), (third, None));
        assert!(!scanner.is_start_ambiguous());
        scanner.feed(&log.from(third)[40..]).unwrap();
        assert_eq!(scanner.record_end(), log.end());
    }
}

/// The last 8 bytes of a record, and so of its payload, that look like those of a switch's header.
const LOOKS_LIKE_A_SWITCH: [u8; 8] = [0x40, 0, 0, 0, 1, 2, 3, 4];

fn ordinary_record_that_looks_like_a_switch() -> (Log, Lsn) {
    let mut log = Log::new(16);
    log.fill_segment_up_to(24 + 2 + 22);
    let end = log.record(&[&[7; 22][..], &LOOKS_LIKE_A_SWITCH].concat());
    let second = log.ctx.segment_size.start_of(2);
    assert_eq!(end, second.advance(40 + 8));
    (log, end)
}

#[test]
fn what_only_looks_like_a_switch_is_told_by_the_record_behind_it() {
    let (mut log, end) = ordinary_record_that_looks_like_a_switch();
    let next = log.noop(50);
    let second = log.ctx.segment_size.start_of(2);
    let mut scanner = RecordScanner::at_segment_start(log.ctx, second);
    scanner.feed(&log.bytes[log.index_of(second)..log.index_of(end)]).unwrap();
    assert_eq!(found(&scanner), (second, None));
    scanner.feed(log.from(end)).unwrap();
    assert_eq!(found(&scanner), (next, Some(end)));
}

#[test]
fn what_only_looks_like_a_switch_is_not_proven_when_other_bytes_than_zeros_follow() {
    for at in [4, 7, 23, 24, 5000, (16 << 10) - 48 - 1] {
        let log = switch_over_a_boundary(16);
        let second = log.ctx.segment_size.start_of(2);
        let mut bytes = log.from(second).to_vec();
        bytes[48 + at] = 1;
        let mut scanner = RecordScanner::at_segment_start(log.ctx, second);
        assert_eq!(scanner.feed(&bytes), Err(ScanError::EndOfLog { at: second.advance(48) }), "at {at}");
        assert_eq!(found(&scanner), (second, None));
    }
}

#[test]
fn the_end_of_a_record_that_cannot_be_a_switch_counts_at_once() {
    for tail in [[0x40, 0, 0, 1, 1, 2, 3, 4], [0x50, 0, 0, 0, 1, 2, 3, 4], [0x40, 1, 0, 0, 1, 2, 3, 4]] {
        let mut log = Log::new(16);
        log.fill_segment_up_to(24 + 2 + 22);
        let end = log.record(&[&[7; 22][..], &tail].concat());
        let second = log.ctx.segment_size.start_of(2);
        let mut scanner = RecordScanner::at_segment_start(log.ctx, second);
        scanner.feed(log.from(second)).unwrap();
        assert_eq!(found(&scanner), (end, None));
    }
}

#[test]
fn an_ambiguous_start_without_proof_is_reported_and_a_scan_from_before_knows() {
    let (mut log, end) = ordinary_record_that_looks_like_a_switch();
    let second = log.ctx.segment_size.start_of(2);
    log.bytes.resize(32 << 10, 0);
    let read = |lsn: Lsn, buffer: &mut [u8]| {
        let left = log.from(lsn);
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        Ok(count)
    };
    let found = find_end_of_log(RecordScanner::at_segment_start(log.ctx, second), read).unwrap();
    assert_eq!((found.record_end, found.stopped), (second, StopReason::AmbiguousStart));
    let found = find_end_of_log(log.scanner(), read).unwrap();
    assert_eq!((found.record_end, found.stopped), (end, StopReason::NotWal(ScanError::EndOfLog { at: end })));
}

#[test]
fn a_record_that_a_crash_cut_off_is_no_end_and_the_record_after_it_is() {
    for pages in 1..=4 {
        let mut log = Log::new(16);
        let before = log.noop(100);
        let (_, last) = log.ends[0];
        let end = log.overwrite_contrecord(40_000, pages);
        let boundary = log.start.advance((pages * PAGE_BYTES) as u64);
        assert!(end > boundary && end < boundary.advance(200));
        let mut scanner = log.scanner();
        scanner.feed(&log.bytes[..log.index_of(boundary) + 24]).unwrap();
        assert_eq!(found(&scanner), (before, Some(last)), "the boundary itself is no record end");
        log.noop(100);
        check_every_prefix(&log);
    }
}

#[test]
fn a_header_that_a_crash_cut_off_is_dropped_too() {
    for left in [8, 16, 24] {
        let mut log = Log::new(16);
        log.fill_segment_up_to(left);
        log.overwrite_contrecord(30_000, 1);
        log.noop(100);
        check_every_prefix(&log);
    }
}

#[test]
fn a_scan_may_begin_inside_a_record_that_a_crash_cut_off() {
    let mut log = Log::new(16);
    log.noop(100);
    let end = log.overwrite_contrecord(100_000, 5);
    for segment in [2, 3] {
        let start = log.ctx.segment_size.start_of(segment);
        let mut scanner = RecordScanner::at_segment_start(log.ctx, start);
        scanner.feed(log.from(start)).unwrap();
        assert_eq!(found(&scanner), (end, Some(log.ends[1].1)));
    }
}

#[test]
fn bytes_under_no_checksum_count_only_where_they_are_trusted() {
    for kind in ["switch", "overwrite"] {
        let mut log = Log::new(64);
        let before = log.noop(100);
        let (after, unchecked) = match kind {
            "switch" => (log.switch(), log.start.advance(64 << 10)),
            _ => (log.overwrite_contrecord(20_000, 1), log.start.advance(8192)),
        };
        // trusted up to, record end that is found
        for (trusted, expected) in
            [(Lsn::MAX, after), (unchecked, after), (Lsn(unchecked.0 - 1), before), (before, before)]
        {
            let mut scanner =
                RecordScanner::at_segment_start(log.ctx, log.start).trust_unchecked_up_to(trusted);
            let result = scanner.feed(&log.bytes);
            assert_eq!(scanner.record_end(), expected, "{kind} trusted up to {trusted}");
            assert_eq!(
                result.err(),
                (expected == before).then_some(ScanError::Unchecked { upto: unchecked }),
                "{kind} {trusted}"
            );
            assert_eq!(scanner.unchecked_end(), if expected == after { unchecked } else { Lsn::INVALID });
        }
    }
}

#[test]
fn bytes_under_no_checksum_that_no_record_has_ended_behind_do_not_hide_those_before() {
    let mut log = Log::new(16);
    log.noop(100);
    let switched = log.switch();
    let before = log.noop(100);
    let after = log.overwrite_contrecord(20_000, 1);
    let mut scanner = RecordScanner::at_segment_start(log.ctx, log.start);
    let flagged_page = switched.advance(8192);
    scanner.feed(&log.bytes[..log.index_of(flagged_page.advance(24))]).unwrap();
    assert_eq!((scanner.record_end(), scanner.unchecked_end()), (before, switched));
    scanner.feed(log.from(scanner.position())).unwrap();
    assert_eq!((scanner.record_end(), scanner.unchecked_end()), (after, flagged_page));
}

#[test]
fn the_rest_of_a_record_that_began_before_the_scan_has_no_checksum() {
    let mut log = Log::new(16);
    log.noop(100);
    let record_end = log.noop(20_000);
    let next_end = log.noop(100);
    let start = log.ctx.segment_size.start_of(2);
    assert!(start > log.start && start < record_end);
    let stored = &log.bytes[log.index_of(start)..];
    for (trusted, expected) in [(Lsn(record_end.0 - 8), start), (record_end, next_end), (Lsn::MAX, next_end)]
    {
        let mut scanner = RecordScanner::at_segment_start(log.ctx, start).trust_unchecked_up_to(trusted);
        let fed = scanner.feed(stored);
        assert_eq!(fed.is_err(), expected == start, "{fed:?}");
        assert_eq!(scanner.record_end(), expected, "trusted up to {trusted}");
        assert!(expected == start || (start..=record_end).contains(&scanner.unchecked_end()));
    }
}
