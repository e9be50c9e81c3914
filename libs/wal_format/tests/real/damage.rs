//! Real WAL in random pieces and with one byte changed.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use wal_format::{PAGE_BYTES, ScanError, page_header_bytes};
use wal_types::{Lsn, SegmentSize};

use crate::fixture::{Fixture, MAJORS, SEGMENT_BYTES};

static FIXTURES: LazyLock<Vec<Fixture>> = LazyLock::new(|| MAJORS.map(Fixture::load).into());

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn record_ends_do_not_depend_on_the_pieces(
        version in 0..MAJORS.len(),
        pieces in prop::collection::vec(1_usize..100_000, 1..20),
    ) {
        let fixture = &FIXTURES[version];
        let mut scanner = fixture.scanner();
        let mut rest = &fixture.bytes[..];
        let written = fixture.records.last().unwrap().1;
        for length in pieces.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(*length));
            let position = scanner.position().advance(piece.len() as u64);
            let fed = scanner.feed(piece);
            prop_assert!(fed.is_ok() || position > written, "{:?}", fed);
            prop_assert_eq!((scanner.record_end(), scanner.last_record_start()), fixture.expected_at(position));
            if fed.is_err() {
                break;
            }
            rest = behind;
        }
    }

    #[test]
    fn behind_a_changed_byte_of_a_record_is_no_record_end(
        version in 0..MAJORS.len(),
        record: Index,
        offset: Index,
        change in 1_u8..,
    ) {
        let fixture = &FIXTURES[version];
        let (start, end) = *record.get(&fixture.records);
        let changed = start.advance(offset.index(end.bytes_since(start) as usize) as u64);
        let (found, _) = scan_with(fixture, changed, change);
        if is_checked(fixture, start, changed) {
            prop_assert_eq!(found, fixture.expected_at(start).0);
        } else {
            prop_assert!(found == fixture.expected_at(found).0, "{} is no record end", found);
        }
    }

    #[test]
    fn a_changed_byte_anywhere_makes_no_new_record_end(
        version in 0..MAJORS.len(),
        page: Index,
        offset in 0..PAGE_BYTES,
        in_header: bool,
        change in 1_u8..,
    ) {
        let fixture = &FIXTURES[version];
        let page = page.index(fixture.bytes.len() / PAGE_BYTES) * PAGE_BYTES;
        let offset = if in_header { offset % 40 } else { offset };
        let (found, _) = scan_with(fixture, fixture.start.advance((page + offset) as u64), change);
        prop_assert!(found == fixture.expected_at(found).0, "{} is no record end", found);
    }
}

/// Scans the log with one byte changed: the record end, and why the scan went no further.
fn scan_with(fixture: &Fixture, changed: Lsn, change: u8) -> (Lsn, Result<(), ScanError>) {
    let at = fixture.index_of(changed);
    let mut scanner = fixture.scanner();
    let fed = scanner
        .feed(&fixture.bytes[..at])
        .and_then(|()| scanner.feed(&[fixture.bytes[at] ^ change]))
        .and_then(|()| scanner.feed(&fixture.bytes[at + 1..]));
    (scanner.record_end(), fed)
}

/// True if `at` is one of the record's bytes: not of a page header inside it, not of what fills it up to its end.
fn is_checked(fixture: &Fixture, start: Lsn, at: Lsn) -> bool {
    let segment_size = SegmentSize::new(SEGMENT_BYTES).unwrap();
    let length = fixture.bytes[fixture.index_of(start)..][..4].try_into().unwrap();
    let (mut lsn, mut left) = (start, u64::from(u32::from_le_bytes(length)));
    loop {
        let page = lsn.align_down(PAGE_BYTES as u64);
        lsn = lsn.max(page.advance(page_header_bytes(segment_size, page) as u64));
        let next = page.advance(PAGE_BYTES as u64);
        let here = left.min(next.bytes_since(lsn));
        if at < next || here == left {
            return at >= lsn && at < lsn.advance(here);
        }
        (lsn, left) = (next, left - here);
    }
}
