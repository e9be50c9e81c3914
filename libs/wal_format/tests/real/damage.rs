//! Real WAL in random pieces and with one byte changed.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use wal_format::PAGE_BYTES;
use wal_types::Lsn;

use crate::fixture::{Fixture, MAJORS};

static FIXTURES: LazyLock<Vec<Fixture>> = LazyLock::new(|| MAJORS.map(Fixture::load).into());

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn real_record_ends_are_independent_of_pieces(
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
    fn changed_record_byte_ends_the_real_log(
        version in 0..MAJORS.len(),
        record: Index,
        offset: Index,
        change in 1_u8..,
    ) {
        let fixture = &FIXTURES[version];
        let (start, end) = *record.get(&fixture.records);
        let changed = start.advance(offset.index(end.bytes_since(start) as usize) as u64);
        let found = scan_with(fixture, changed, change);
        if fixture.is_under_checksum(changed) {
            prop_assert_eq!(found, fixture.expected_at(start).0);
        } else {
            prop_assert!(found == fixture.expected_at(found).0, "{} is no record end", found);
        }
    }

    #[test]
    fn changed_byte_makes_no_new_record_end(
        version in 0..MAJORS.len(),
        page: Index,
        offset in 0..PAGE_BYTES,
        in_header: bool,
        change in 1_u8..,
    ) {
        let fixture = &FIXTURES[version];
        let page = page.index(fixture.bytes.len() / PAGE_BYTES) * PAGE_BYTES;
        let offset = if in_header { offset % 40 } else { offset };
        let found = scan_with(fixture, fixture.start.advance((page + offset) as u64), change);
        prop_assert!(found == fixture.expected_at(found).0, "{} is no record end", found);
    }
}

/// Scans the log with one byte changed; returns the record end.
fn scan_with(fixture: &Fixture, changed: Lsn, change: u8) -> Lsn {
    let at = fixture.index_of(changed);
    let mut scanner = fixture.scanner();
    let _ = scanner
        .feed(&fixture.bytes[..at])
        .and_then(|()| scanner.feed(&[fixture.bytes[at] ^ change]))
        .and_then(|()| scanner.feed(&fixture.bytes[at + 1..]));
    scanner.record_end()
}
