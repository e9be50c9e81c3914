//! Real WAL that is truncated, or changed, at every byte of a page: the record end is that of the last whole record, and
//! the scan continues from there.

use std::collections::BTreeMap;

use wal_format::{PAGE_BYTES, PageFlags, RecordScanner, find_end_of_log};
use wal_types::{Lsn, Tli};

use crate::fixture::{Fixture, SEGMENT_BYTES};
use crate::record_ends::is_switch;

/// Bytes that are fed behind the cut.
const BEHIND_BYTES: usize = PAGE_BYTES + PAGE_BYTES / 2;
/// One of so many cuts is tried with the whole rest of the log, and from the last record end on.
const THOROUGH_EVERY: usize = 61;

#[test]
fn postgres_14_truncated_at_every_byte() {
    check_cuts(14);
}

#[test]
fn postgres_15_truncated_at_every_byte() {
    check_cuts(15);
}

#[test]
fn postgres_16_truncated_at_every_byte() {
    check_cuts(16);
}

#[test]
fn postgres_17_truncated_at_every_byte() {
    check_cuts(17);
}

#[test]
fn postgres_18_truncated_at_every_byte() {
    check_cuts(18);
}

fn check_cuts(major: u32) {
    let fixture = Fixture::load(major);
    let pages = telling_pages(&fixture);
    assert!(pages.len() >= 10, "{major}: {pages:?}");
    for (page, what) in pages {
        check_page(&fixture, page, &format!("PostgreSQL {}, {what} at {page}", fixture.version));
    }
}

/// Special pages, each with what is special about it.
fn telling_pages(fixture: &Fixture) -> BTreeMap<Lsn, &'static str> {
    let page_bytes = PAGE_BYTES as u64;
    let pages = fixture.pages();
    let first =
        |is: &dyn Fn(&(Lsn, wal_format::PageHeader)) -> bool| pages.iter().find(|page| is(page)).unwrap().0;
    let switch = fixture.records.iter().map(|(start, _)| *start);
    let mut switches = switch.filter(|start| is_switch(&fixture.bytes[fixture.index_of(*start)..]));
    let switch = switches.next().unwrap().align_down(page_bytes);
    let overwriting = first(&|(_, page)| page.flags.contains(PageFlags::FIRST_IS_OVERWRITE_CONTRECORD));
    let partial_start = fixture.expected_at(overwriting).0;
    let on_a_boundary = fixture.records.iter().map(|(_, end)| *end).find(|end| end.0 % page_bytes == 0);
    let last = fixture.records.last().unwrap().1.align_down(page_bytes);
    BTreeMap::from([
        (fixture.start, "the first page"),
        (fixture.start.advance(page_bytes), "the page after it"),
        (first(&|(_, page)| page.remaining_bytes > SEGMENT_BYTES && page.long.is_none()), "a long record"),
        (first(&|(_, page)| page.remaining_bytes > 0 && page.long.is_some()), "a segment in a record"),
        (
            first(&|(at, page)| *at > fixture.start && page.remaining_bytes == 0 && page.long.is_some()),
            "a segment",
        ),
        (switch, "a segment switch"),
        (switch.advance(page_bytes), "the unused rest of a segment"),
        (on_a_boundary.unwrap().align_down(page_bytes), "a page behind a record end"),
        (partial_start.align_down(page_bytes), "the beginning of a partial record"),
        (Lsn(overwriting.0 - page_bytes), "the end of a partial record"),
        (overwriting, "the record that says so"),
        (first(&|(_, page)| page.tli == Tli(2)), "the second timeline"),
        (last, "the last page"),
    ])
}

fn check_page(fixture: &Fixture, page: Lsn, what: &str) {
    let from = fixture.index_of(page);
    let mut scanner = fixture.scanner();
    scanner.feed(&fixture.bytes[..from]).unwrap();
    let mut log_has_ended = false;
    for cut in from..=from + PAGE_BYTES {
        check_answer(fixture, &scanner, fixture.start.advance(cut as u64), what);
        check_zeros_behind(fixture, &scanner, cut, what);
        if !log_has_ended {
            check_goes_on(fixture, &scanner, cut, what);
            check_changed_byte(fixture, scanner.clone(), cut, what);
        }
        if let Some(byte) = fixture.bytes.get(cut) {
            log_has_ended |= scanner.feed(&[*byte]).is_err();
        }
    }
}

fn check_answer(fixture: &Fixture, scanner: &RecordScanner, position: Lsn, what: &str) {
    let answer = (scanner.record_end(), scanner.last_record_start());
    assert_eq!(answer, fixture.expected_at(position), "{what}, at {position}");
}

/// The scanner at the cut continues, and so does one that starts at the record end.
fn check_goes_on(fixture: &Fixture, scanner: &RecordScanner, cut: usize, what: &str) {
    let thorough = cut.is_multiple_of(THOROUGH_EVERY);
    let upto = if thorough { fixture.bytes.len() } else { fixture.bytes.len().min(cut + BEHIND_BYTES) };
    let check = |mut scanner: RecordScanner, from: usize| {
        let went_on = scanner.feed(&fixture.bytes[from..upto]);
        check_answer(fixture, &scanner, fixture.start.advance(upto as u64), what);
        assert!(went_on.is_ok() || went_on.unwrap_err().is_end_of_log(), "{what}: {went_on:?}");
    };
    check(scanner.clone(), cut);
    if thorough {
        check(scanner.rewound_to_record_end(), fixture.index_of(scanner.record_end()));
    }
}

/// The byte at the cut is changed, and the log continues behind it.
fn check_changed_byte(fixture: &Fixture, mut scanner: RecordScanner, cut: usize, what: &str) {
    let upto = fixture.bytes.len().min(cut + BEHIND_BYTES);
    let Some((byte, behind)) = fixture.bytes[cut..upto].split_first() else { return };
    let _ = scanner.feed(&[!byte]).and_then(|()| scanner.feed(behind));
    let position = fixture.start.advance(cut as u64);
    let found = scanner.record_end();
    if fixture.is_under_checksum(position) {
        assert_eq!(found, fixture.expected_at(position).0, "{what}, byte {position} changed");
    } else {
        assert_eq!(found, fixture.expected_at(found).0, "{what}, byte {position} changed: no record end");
    }
}

/// Zeros are behind the cut, as in a file whose last write is missing. They count where the log had zeros, too.
fn check_zeros_behind(fixture: &Fixture, scanner: &RecordScanner, cut: usize, what: &str) {
    let zeros = [0; PAGE_BYTES];
    let behind = &fixture.bytes[cut..fixture.bytes.len().min(cut + PAGE_BYTES)];
    let same = behind.iter().take_while(|byte| **byte == 0).count();
    let mut left = &zeros[..behind.len()];
    let found = find_end_of_log(scanner.clone(), |_, buffer| {
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        left = &left[count..];
        Ok(count)
    })
    .unwrap();
    let position = fixture.start.advance((cut + same) as u64);
    let answer = (found.record_end, found.last_record_start);
    assert_eq!(answer, fixture.expected_at(position), "{what}, zeros from {cut:#x} on");
}
