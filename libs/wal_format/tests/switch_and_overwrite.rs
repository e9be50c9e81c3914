//! Gaps in WAL: the unused rest of a segment behind a switch, and the partial record that a crash leaves.

mod common;

use common::{Log, check_every_prefix, found};
use wal_format::{PAGE_BYTES, RecordScanner, ScanError, StopReason, find_end_of_log};
use wal_types::Lsn;

#[test]
fn switch_counts_once_its_segment_is_full() {
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
fn switch_padding_may_hold_anything() {
    let mut log = Log::new(64);
    let before = log.noop(100);
    log.switch();
    log.noop(100);
    let (padding, segment_end) = (log.index_of(before) + 24, 64 << 10);
    log.bytes[padding..segment_end].fill(0xd1);
    check_every_prefix(&log);
}

#[test]
fn switch_at_segment_start_writes_nothing() {
    let mut log = Log::new(16);
    log.switch();
    assert!(log.bytes.is_empty());
    log.noop(100);
    log.switch();
    log.switch();
    assert_eq!(log.bytes.len(), 16 << 10);
}

#[test]
fn switch_at_segment_end_has_no_padding() {
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
fn switch_over_segment_boundary_fills_the_next() {
    for left in [8, 16] {
        check_every_prefix(&switch_over_a_boundary(left));
    }
}

/// A scan that starts inside a switch record counts its end only when the next segment proves it.
#[test]
fn scan_from_inside_a_switch_awaits_proof() {
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
fn switch_lookalike_is_told_by_next_record() {
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
fn switch_lookalike_is_disproved_by_other_bytes() {
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
fn continuation_that_is_no_switch_counts_at_once() {
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

/// A scan that starts one segment earlier is not ambiguous.
#[test]
fn ambiguous_start_is_reported() {
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

/// A partial record is no record end; the overwrite record behind it is.
#[test]
fn overwrite_record_end_counts_partial_does_not() {
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
fn overwrite_replaces_a_partial_header_too() {
    for left in [8, 16, 24] {
        let mut log = Log::new(16);
        log.fill_segment_up_to(left);
        log.overwrite_contrecord(30_000, 1);
        log.noop(100);
        check_every_prefix(&log);
    }
}

#[test]
fn scan_may_start_inside_a_partial_record() {
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
fn unchecked_bytes_count_only_where_trusted() {
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

/// Unchecked bytes behind the last record end do not hide those before it.
#[test]
fn unchecked_end_ignores_bytes_without_record_end() {
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
fn continuation_from_before_the_scan_is_unchecked() {
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
