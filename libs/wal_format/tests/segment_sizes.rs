//! Segments of every size from 16 KiB to 1 GiB. The size matters at the ends of segments: there the scan is fed byte by
//! byte.

#![allow(clippy::unwrap_used, reason = "a panic here is the report of a test")]

mod common;

use common::{Log, check_every_prefix, found};
use wal_types::SegmentSize;

const SHORT_OF_THE_END_BYTES: u64 = 10_000;

fn sizes_kib() -> impl Iterator<Item = u32> {
    let (first, last) = (SegmentSize::BYTES_MIN >> 10, SegmentSize::BYTES_MAX >> 10);
    std::iter::successors(Some(first), move |size| (*size < last).then_some(size * 2))
}

#[test]
fn segment_size_limits() {
    assert_eq!(sizes_kib().next(), Some(16));
    assert_eq!(sizes_kib().last(), Some(1 << 20));
}

#[test]
fn record_continues_over_segments_of_any_size() {
    for segment_kib in sizes_kib() {
        let mut log = Log::near_segment_end(segment_kib, SHORT_OF_THE_END_BYTES);
        log.noop(300);
        log.noop(30_000);
        log.noop(24);
        assert!(log.ctx.segment_size.segment_of(log.end()) > 1, "{segment_kib} KiB");
        check_every_prefix(&log);
    }
}

#[test]
fn switch_ends_a_segment_of_any_size() {
    for segment_kib in sizes_kib() {
        let mut log = Log::near_segment_end(segment_kib, SHORT_OF_THE_END_BYTES);
        log.noop(300);
        let segment_end = log.segment_end();
        assert_eq!(log.switch(), segment_end);
        log.noop(200);
        check_every_prefix(&log);
    }
}

#[test]
fn record_ends_with_a_segment_of_any_size() {
    for segment_kib in sizes_kib() {
        let mut log = Log::near_segment_end(segment_kib, SHORT_OF_THE_END_BYTES);
        let segment_end = log.segment_end();
        log.fill_segment_up_to(0);
        assert_eq!(log.end(), segment_end);
        log.noop(200);
        check_every_prefix(&log);
    }
}

#[test]
fn overwrite_at_segment_end_of_any_size() {
    for segment_kib in sizes_kib() {
        for pages in 1..=3 {
            let mut log = Log::near_segment_end(segment_kib, SHORT_OF_THE_END_BYTES);
            log.overwrite_contrecord(40_000, pages);
            log.noop(77);
            check_every_prefix(&log);
        }
    }
}

#[test]
fn whole_segments_are_read() {
    for segment_kib in sizes_kib().take_while(|size| *size <= 16 << 10) {
        let mut log = Log::new(segment_kib);
        log.noop(5000);
        log.switch();
        log.noop(300_000);
        log.overwrite_contrecord(300_000, 20);
        log.noop(77);
        let mut scanner = log.scanner();
        for piece in log.bytes.chunks(100_001) {
            scanner.feed(piece).unwrap();
            assert_eq!(found(&scanner), log.expected_at(scanner.position()), "{segment_kib} KiB");
        }
    }
}
