//! Round trips: the scanner reads what the builder writes, in pieces of any size and from any segment on.

mod common;

use common::{Log, check_every_prefix, found};
use proptest::prelude::*;
use wal_format::{PAGE_BYTES, RecordScanner, WalBuilder, page_header_bytes};
use wal_types::{Lsn, Tli};

#[derive(Clone, Debug)]
enum Op {
    Noop(usize),
    Switch,
    Overwrite(usize, usize),
    NextTimeline,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (24_usize..400).prop_map(Op::Noop),
        // Around what fills a page.
        3 => (8100_usize..8300).prop_map(Op::Noop),
        2 => (400_usize..70_000).prop_map(Op::Noop),
        1 => Just(Op::Switch),
        1 => (9000_usize..60_000, 1_usize..=7).prop_map(|(length, pages)| Op::Overwrite(length, pages)),
        1 => Just(Op::NextTimeline),
    ]
}

fn log() -> impl Strategy<Value = Log> {
    let sizes = prop_oneof![Just(16_u32), Just(32), Just(128)];
    (sizes, prop::collection::vec(op(), 1..40)).prop_map(|(segment_kib, ops)| {
        let mut log = Log::new(segment_kib);
        let mut tli = 1;
        for op in ops {
            match op {
                Op::Noop(length) => _ = log.noop(length),
                Op::Switch => _ = log.switch(),
                Op::Overwrite(length, pages) => {
                    _ = log.overwrite_contrecord(length, pages.min(length / PAGE_BYTES))
                }
                Op::NextTimeline => {
                    tli += 1;
                    log.builder.set_tli(Tli(tli));
                }
            }
        }
        log
    })
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} from {} to {}, records (end, start) {:?}",
            self.ctx,
            self.start,
            self.end(),
            self.ends
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn built_record_ends_are_independent_of_pieces(log in log(), cuts in prop::collection::vec(1_usize..9000, 1..50)) {
        let mut scanner = log.scanner();
        let mut left = &log.bytes[..];
        for cut in cuts.iter().cycle() {
            let (piece, rest) = left.split_at(left.len().min(*cut));
            scanner.feed(piece).unwrap();
            prop_assert_eq!(found(&scanner), log.expected_at(scanner.position()));
            left = rest;
            if left.is_empty() {
                break;
            }
        }
    }

    #[test]
    fn built_log_scans_from_any_segment(log in log(), pick in any::<prop::sample::Index>(), cut in 1_usize..3000) {
        let segments = log.bytes.len() / log.ctx.segment_size.bytes() as usize + 1;
        let start = log.ctx.segment_size.start_of(1 + pick.index(segments) as u64);
        let mut scanner = RecordScanner::at_segment_start(log.ctx, start);
        for piece in log.from(start).chunks(cut) {
            scanner.feed(piece).unwrap();
            let (end, record_start) = log.expected_at(scanner.position());
            if scanner.is_start_ambiguous() || end <= start {
                prop_assert_eq!(found(&scanner), (start, None));
            } else {
                prop_assert_eq!(found(&scanner), (end, record_start.filter(|record_start| *record_start > start)));
            }
        }
    }

    #[test]
    fn flipped_bit_ends_the_log_before_it(
        lengths in prop::collection::vec(24_usize..20_000, 2..20),
        pick in any::<prop::sample::Index>(),
        bit in 0_u32..8,
    ) {
        let mut log = Log::new(32);
        lengths.iter().for_each(|length| _ = log.noop(*length));
        let at = log.start.advance(pick.index(log.bytes.len()) as u64);
        prop_assume!(is_record_byte(&log, at));
        let index = log.index_of(at);
        log.bytes[index] ^= 1 << bit;

        let mut scanner = log.scanner();
        let _ = scanner.feed(&log.bytes);
        prop_assert_eq!(found(&scanner), log.expected_at(at));
    }

    #[test]
    fn builder_continues_where_another_stopped(log in log(), pick in any::<prop::sample::Index>(), length in 24_usize..30_000) {
        prop_assume!(!log.ends.is_empty());
        let mut first = log;
        let (end, record_start) = first.ends[pick.index(first.ends.len())];
        first.bytes.truncate(first.index_of(end));
        let mut scanner = first.scanner();
        scanner.feed(&first.bytes).unwrap();
        let mut second =
            WalBuilder::new(first.ctx, wal_format::PageMagic::POSTGRES_15, Tli(50), end, record_start);
        let appended = second.noop(length);
        scanner.feed(&appended.bytes).unwrap();
        prop_assert_eq!(found(&scanner), (appended.range.end, Some(appended.record_start)));
        prop_assert_eq!((second.position(), second.prev()), (appended.range.end, appended.record_start));
    }

    #[test]
    fn scanner_never_panics_on_any_bytes(
        log in log(),
        garbage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in 1_usize..3000,
    ) {
        let mut bytes = log.bytes.clone();
        if !bytes.is_empty() {
            garbage.iter().for_each(|(at, byte)| { let at = at.index(bytes.len()); bytes[at] = *byte; });
        }
        let mut scanner = log.scanner();
        for piece in bytes.chunks(cut) {
            let before = scanner.record_end();
            let outcome = scanner.feed(piece);
            prop_assert!(before <= scanner.record_end() && scanner.record_end() <= scanner.position());
            if let Err(error) = outcome {
                prop_assert_eq!(scanner.feed(piece), Err(error));
            }
        }
    }
}

/// True for a byte of a record, not of a page header or of alignment.
fn is_record_byte(log: &Log, at: Lsn) -> bool {
    let in_page_header = at.0 as usize % PAGE_BYTES < page_header_bytes(log.ctx.segment_size, at);
    let next = log.ends.partition_point(|(end, _)| *end <= at);
    let end = log.ends[next].0;
    // The last 7 bytes before the end may be alignment.
    !in_page_header && at.advance(8) <= end
}

/// Every prefix of logs with records of every length around a page has the right record end.
#[test]
fn scanner_ends_around_a_page_are_right() {
    for length in (24..60).chain(8000..8016).chain(8100..8200).step_by(3) {
        let mut log = Log::new(16);
        for _ in 0..3 {
            log.noop(length);
            log.noop(24);
        }
        check_every_prefix(&log);
    }
}

#[test]
fn record_end_on_page_boundary_excludes_next_header() {
    let mut log = Log::new(16);
    assert_eq!(log.noop(PAGE_BYTES - 40), log.start.advance(PAGE_BYTES as u64));
    assert_eq!(log.bytes.len(), PAGE_BYTES);
    assert_eq!(log.noop(PAGE_BYTES - 24), log.start.advance(2 * PAGE_BYTES as u64));
    log.noop(100);
    check_every_prefix(&log);
}

#[test]
fn record_header_may_cross_a_page_boundary() {
    for left in [8, 16, 24, 32] {
        let mut log = Log::new(16);
        log.fill_segment_up_to(left);
        log.noop(1000);
        log.noop(1000);
        check_every_prefix(&log);
    }
}

#[test]
fn scanner_follows_records_longer_than_segments() {
    let mut log = Log::new(16);
    log.noop(100);
    log.noop(100_000);
    log.noop(100);
    log.overwrite_contrecord(100_000, 9);
    log.noop(200_000);
    check_every_prefix(&log);
}

#[test]
fn scanner_refuses_positions_beyond_the_range() {
    let mut ctx = Log::new(16).ctx;
    ctx.system_id = wal_types::SystemId(0);
    let start = ctx.segment_size.start_of(ctx.segment_size.segment_of(Lsn::MAX));
    let magic = wal_format::PageMagic::POSTGRES_18;
    let mut builder = WalBuilder::new(ctx, magic, Tli(1), start, Lsn(0));
    let bytes = builder.noop(16_000).bytes;
    let mut scanner = RecordScanner::at_segment_start(ctx, start);
    scanner.feed(&bytes).unwrap();
    assert_eq!(scanner.record_end(), builder.position());
    let error = scanner.feed(&vec![0; 16 << 10]).unwrap_err();
    assert_eq!(error, wal_format::ScanError::OutOfRange { at: builder.position() });
}
