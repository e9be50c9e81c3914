//! Refusals: bytes that are not WAL, or not the WAL that belongs there, get the right error; the record end stays valid.

mod common;

use common::{Log, found};
use wal_format::{
    PAGE_BYTES, PageError, PageFlags, PageMagic, RecordError, RecordScanner, ScanError, WalBuilder,
};
use wal_types::{Lsn, SystemId, Tli};

/// Three records over the first two pages and into the third, the last of them crossing the second boundary.
fn three_pages() -> Log {
    let mut log = Log::new(64);
    log.noop(100);
    log.noop(10_000);
    log.noop(8_000);
    log
}

/// Overwrites bytes of a page's header and scans.
fn scan_with(page: usize, offset: usize, bytes: &[u8]) -> (RecordScanner, Option<PageError>) {
    let mut log = three_pages();
    let at = page * PAGE_BYTES + offset;
    log.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    let mut scanner = log.scanner();
    let problem = scanner.feed(&log.bytes).err().map(|error| match error {
        ScanError::Page { at, problem } => {
            assert_eq!(at, log.start.advance((page * PAGE_BYTES) as u64));
            problem
        }
        other => panic!("{other}"),
    });
    assert_eq!(found(&scanner), log.expected_at(log.start.advance((page * PAGE_BYTES) as u64)));
    (scanner, problem)
}

#[test]
fn scanner_refuses_a_misplaced_page() {
    let cluster = three_pages().ctx.system_id;
    let flags = PageFlags::FIRST_IS_CONTRECORD;
    let both = flags.with(PageFlags::FIRST_IS_OVERWRITE_CONTRECORD);
    for (page, offset, bytes, expected) in [
        (0, 0, &[0x11, 0xd1][..], PageError::UnknownMagic(0xd111)),
        (
            1,
            0,
            &[0x13, 0xd1],
            PageError::MagicChanged { before: PageMagic::POSTGRES_15, found: PageMagic::POSTGRES_16 },
        ),
        (1, 2, &[0x11, 0], PageError::UnknownFlags(0x11)),
        (0, 2, &[0, 0], PageError::HeaderLength),
        (1, 2, &[3, 0], PageError::Truncated),
        (1, 2, &[0, 0], PageError::Contradiction { flags: PageFlags::NONE, remaining_bytes: 1952 }),
        (1, 2, &[9, 0], PageError::Contradiction { flags: both, remaining_bytes: 1952 }),
        (1, 16, &[0, 0], PageError::Contradiction { flags, remaining_bytes: 0 }),
        (1, 16, &[0xa1, 7], PageError::RemainingBytes { expected: 1952, found: 1953 }),
        (0, 4, &[0], PageError::TimelineDecreased { before: Tli(1), found: Tli(0) }),
        (1, 9, &[0], PageError::Address(Lsn(0x1_0000))),
        (0, 24, &[0; 8], PageError::SystemId { expected: cluster, found: SystemId(0) }),
        (
            0,
            32,
            &[0, 0x80],
            PageError::SegmentSize { expected: three_pages().ctx.segment_size, found: 0x1_8000 },
        ),
        (0, 36, &[0, 0x40], PageError::PageSize(0x4000)),
    ] {
        assert_eq!(scan_with(page, offset, bytes).1, Some(expected), "{bytes:?} at {offset} of page {page}");
    }
}

/// A page cannot claim to overwrite a partial record where no record was open.
#[test]
fn scanner_refuses_overwrite_flag_between_records() {
    let mut log = Log::new(64);
    log.noop(PAGE_BYTES - 40);
    log.noop(100);
    log.bytes[PAGE_BYTES + 2] = 8;
    let error = log.scanner().feed(&log.bytes).unwrap_err();
    let problem =
        PageError::Contradiction { flags: PageFlags::FIRST_IS_OVERWRITE_CONTRECORD, remaining_bytes: 0 };
    assert_eq!(error, ScanError::Page { at: log.start.advance(PAGE_BYTES as u64), problem });
}

#[test]
fn scanner_refuses_a_decreasing_timeline() {
    let mut log = Log::new(64);
    log.builder.set_tli(Tli(2));
    log.noop(9000);
    log.builder.set_tli(Tli(5));
    log.noop(9000);
    let mut scanner = log.scanner();
    scanner.feed(&log.bytes).unwrap();
    assert_eq!(scanner.tli(), Tli(5));
    log.builder.set_tli(Tli(4));
    log.noop(9000);
    let error = log.scanner().feed(&log.bytes).unwrap_err();
    let problem = PageError::TimelineDecreased { before: Tli(5), found: Tli(4) };
    assert_eq!(error, ScanError::Page { at: log.start.advance(3 * PAGE_BYTES as u64), problem });
}

#[test]
fn scanner_refuses_timelines_above_the_limit() {
    let mut log = Log::new(64);
    log.noop(9000);
    log.builder.set_tli(Tli(2));
    log.noop(9000);
    let error = log.scanner().limit_timeline(Tli(1)).feed(&log.bytes).unwrap_err();
    let problem = PageError::TimelineAbove { highest: Tli(1), found: Tli(2) };
    let at = log.start.advance(2 * PAGE_BYTES as u64);
    assert_eq!(error, ScanError::Page { at, problem });

    // What was learnt later counts from there on, what was learnt before also after going back.
    let mut scanner = log.scanner().limit_timeline(Tli(1));
    scanner.feed(&log.bytes[..log.index_of(at)]).unwrap();
    let rewound = scanner.rewound_to_record_end();
    scanner.limit_timeline(Tli(2)).feed(&log.bytes[log.index_of(at)..]).unwrap();
    let from = log.index_of(rewound.position());
    assert_eq!(rewound.clone().feed(&log.bytes[from..]), Err(ScanError::Page { at, problem }));
}

#[test]
fn scanner_without_system_id_accepts_any_cluster() {
    let log = three_pages();
    let mut ctx = log.ctx;
    for (system_id, taken) in [(SystemId(0), true), (log.ctx.system_id, true), (SystemId(1), false)] {
        ctx.system_id = system_id;
        let mut scanner = RecordScanner::at_segment_start(ctx, log.start);
        assert_eq!(scanner.feed(&log.bytes).is_ok(), taken);
    }
}

#[test]
fn scanner_refuses_a_wrong_prev_link() {
    let mut log = Log::new(16);
    log.noop(100);
    let before = log.noop(100);
    let (_, expected) = log.ends[1];
    for prev in [Lsn(0), log.start, expected.advance(8), before, before.advance(8)] {
        let mut scanner = log.scanner();
        scanner.feed(&log.bytes).unwrap();
        let mut builder = WalBuilder::new(log.ctx, PageMagic::POSTGRES_15, Tli(1), before, prev);
        let error = scanner.feed(&builder.noop(24).bytes).unwrap_err();
        let problem = RecordError::Prev { expected, found: prev };
        assert_eq!(error, ScanError::Record { at: before, problem });
        assert_eq!(found(&scanner), (before, Some(expected)));
    }
}

#[test]
fn scanner_refuses_a_first_prev_not_before() {
    for (offset, taken) in [(0, true), (32, true), (40, false), (48, false)] {
        let log = Log::new(16);
        let prev = log.start.advance(offset);
        let mut builder = WalBuilder::new(log.ctx, PageMagic::POSTGRES_15, Tli(1), log.start, prev);
        let outcome = log.scanner().feed(&builder.noop(24).bytes);
        let problem = RecordError::PrevNotBefore(prev);
        let error = ScanError::Record { at: log.start.advance(40), problem };
        assert_eq!(outcome, if taken { Ok(()) } else { Err(error) });
    }
}

#[test]
fn scanner_start_checks_a_known_prev_link() {
    let mut log = Log::new(16);
    let end = log.noop(100);
    log.noop(100);
    let (_, record_start) = log.ends[0];
    for (known, taken) in [(Some(record_start), true), (None, true), (Some(log.start), false)] {
        let mut scanner = RecordScanner::at_record_end(log.ctx, end, known);
        assert_eq!(found(&scanner), (end, known));
        assert_eq!(scanner.feed(log.from(end)).is_ok(), taken);
        assert_eq!(scanner.record_end(), if taken { log.end() } else { end });
    }
}

/// A known record end on a page boundary is not inside a record: a page that continues one is refused.
#[test]
fn scanner_start_on_page_boundary_expects_no_rest() {
    let mut log = Log::new(64);
    log.noop(10_000);
    let boundary = log.start.advance(PAGE_BYTES as u64);
    let mut scanner = RecordScanner::at_record_end(log.ctx, boundary, None);
    let problem = PageError::RemainingBytes { expected: 0, found: 1848 };
    assert_eq!(scanner.feed(log.from(boundary)), Err(ScanError::Page { at: boundary, problem }));
}

/// No record ends inside a page header or off the alignment.
#[test]
fn scanner_start_must_be_a_possible_end() {
    let log = three_pages();
    for (offset, possible) in [
        (0, true),
        (8, false),
        (40, false),
        (44, false),
        (48, true),
        (8184, true),
        (8192, true),
        (8192 + 8, false),
        (8192 + 24, false),
        (8192 + 32, true),
    ] {
        let at = log.start.advance(offset);
        let outcome = std::panic::catch_unwind(|| RecordScanner::at_record_end(log.ctx, at, None));
        assert_eq!(outcome.is_ok(), possible, "{at}");
    }
}

#[test]
fn scanner_refuses_impossible_lengths_at_once() {
    for length in [1, 23, 0x3fc0_0001, u32::MAX] {
        let mut log = Log::new(16);
        let end = log.noop(100);
        let mut scanner = log.scanner();
        scanner.feed(&log.bytes).unwrap();
        let error = scanner.feed(&length.to_le_bytes()).unwrap_err();
        assert_eq!(error, ScanError::Record { at: end, problem: RecordError::Length(length) });
    }
}

/// Zeros where a record or a page would begin are the end of the log, not damage.
#[test]
fn scanner_calls_zeros_the_end_of_log() {
    let mut log = Log::new(16);
    let end = log.noop(100);
    let boundary = log.noop(PAGE_BYTES - 40 - 104);
    for (until, at) in [(log.start, log.start), (end, end), (boundary, boundary)] {
        let mut scanner = log.scanner();
        scanner.feed(&log.bytes[..log.index_of(until)]).unwrap();
        let error = scanner.feed(&[0; 64]).unwrap_err();
        assert_eq!(error, ScanError::EndOfLog { at });
        assert!(error.is_end_of_log());
        assert_eq!(error.position(), at);
        assert_eq!(scanner.record_end(), until);
    }
}

/// Two servers that part from one log: the same lengths at the same positions, other contents.
fn forks() -> (Log, Log, Lsn) {
    let fork = |payload: u8| {
        let mut log = Log::new(64);
        log.noop(300);
        let common = log.end();
        [500, 700, 9000, 100].iter().for_each(|length| _ = log.record(&vec![payload; *length]));
        (log, common)
    };
    let ((old, common), (new, _)) = (fork(1), fork(2));
    (old, new, common)
}

/// No check can tell a dead tail of equal layout from the log: only zeros behind the end are safe.
#[test]
fn dead_tail_of_equal_layout_scans_as_log() {
    let (old, new, common) = forks();
    let (end, _) = new.ends[1];
    assert!(end > common);
    let written = &new.bytes[..new.index_of(end)];

    let mut scanner = new.scanner();
    scanner.feed(written).unwrap();
    scanner.feed(old.from(end)).unwrap();
    assert_eq!(scanner.record_end(), old.end(), "no check can tell: this is why a store zeroes");

    let mut scanner = new.scanner();
    scanner.feed(written).unwrap();
    assert_eq!(scanner.feed(&[0; 100]), Err(ScanError::EndOfLog { at: end }));
    assert_eq!(scanner.record_end(), end);
}

/// A dead tail is noticed when its layout differs, or at a page of a lower timeline.
#[test]
fn dead_tail_of_other_layout_is_refused() {
    let (mut old, mut new, _) = forks();
    // Another layout: what is behind does not begin where the record ends, or names another one before it.
    let shifted = new.builder.noop(24).range.end;
    old.noop(32);
    old.noop(32);
    let mut scanner = old.scanner();
    scanner.feed(&old.bytes[..old.index_of(shifted)]).unwrap();
    assert_eq!(scanner.record_end(), old.ends[4].0);

    // A promotion: pages of the new server are of timeline 2, those of the tail of timeline 1.
    let mut promoted = Log::new(64);
    let mut fallen = Log::new(64);
    for log in [&mut promoted, &mut fallen] {
        log.noop(300);
    }
    promoted.builder.set_tli(Tli(2));
    for log in [&mut promoted, &mut fallen] {
        [9000, 9000, 9000].iter().for_each(|length| _ = log.noop(*length));
    }
    let (end, _) = promoted.ends[2];
    let mut scanner = promoted.scanner();
    scanner.feed(&promoted.bytes[..promoted.index_of(end)]).unwrap();
    let error = scanner.feed(fallen.from(end)).unwrap_err();
    let problem = PageError::TimelineDecreased { before: Tli(2), found: Tli(1) };
    assert_eq!(error, ScanError::Page { at: end.align_up(PAGE_BYTES as u64), problem });
    assert_eq!(scanner.record_end(), end);
}
