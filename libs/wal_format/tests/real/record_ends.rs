//! Contents of the fixtures, and record ends that match those of the server.

use wal_format::{PAGE_BYTES, PageFlags, RecordScanner, StopReason, find_end_of_log};
use wal_types::{Lsn, Tli};

use crate::fixture::{Fixture, MAJORS, RecordRange, SEGMENT_BYTES};

#[test]
fn real_records_are_where_pg_waldump_sees_them() {
    for major in MAJORS {
        let fixture = Fixture::load(major);
        let mut scanner = fixture.scanner();
        let mut found: Vec<RecordRange> = Vec::new();
        for piece in fixture.bytes.chunks(8) {
            let before = scanner.record_end();
            let failed = scanner.feed(piece).is_err();
            if scanner.record_end() > before {
                found.push((scanner.last_record_start().unwrap(), scanner.record_end()));
            }
            if failed {
                break;
            }
        }
        let same = found.iter().zip(&fixture.records).take_while(|(found, listed)| found == listed).count();
        assert_eq!(found.get(same), fixture.records.get(same), "{major}: after {same} records");
    }
}

#[test]
fn real_log_ends_where_the_server_stopped() {
    for major in MAJORS {
        let fixture = Fixture::load(major);
        let end = find_end_of_log(fixture.scanner(), |lsn, buffer| {
            let left = &fixture.bytes[fixture.index_of(lsn)..];
            let count = left.len().min(buffer.len());
            buffer[..count].copy_from_slice(&left[..count]);
            Ok(count)
        })
        .unwrap();
        let (start, listed) = *fixture.records.last().unwrap();
        assert_eq!((end.last_record_start, end.record_end), (Some(start), listed), "{major}");
        assert_eq!(end.scanner.tli(), Tli(2));
        match end.stopped {
            StopReason::NotWal(error) => assert!(error.is_end_of_log(), "{major}: {error}"),
            stopped => panic!("{major}: {stopped:?}"),
        }
    }
}

/// Also a segment that begins inside a record, or inside a partial one.
#[test]
fn real_log_scans_from_any_segment() {
    for major in MAJORS {
        let fixture = Fixture::load(major);
        for segment in 0..fixture.bytes.len() / SEGMENT_BYTES as usize {
            let from = segment * SEGMENT_BYTES as usize;
            let start = fixture.start.advance(from as u64);
            let mut scanner = RecordScanner::at_segment_start(fixture.context(), start);
            for piece in fixture.bytes[from..].chunks(1000) {
                let position = scanner.position().advance(piece.len() as u64);
                let failed = scanner.feed(piece).is_err();
                let expected = match fixture.expected_at(position) {
                    (end, record) if end > start => (end, record.filter(|record| *record >= start)),
                    _ => (start, None),
                };
                assert_eq!((scanner.record_end(), scanner.last_record_start()), expected, "{major}");
                if failed {
                    break;
                }
            }
            assert_eq!(scanner.record_end(), fixture.records.last().unwrap().1);
        }
    }
}

/// Without this check the tests here could pass on empty WAL.
#[test]
fn fixtures_have_all_kinds_of_records() {
    for major in MAJORS {
        let fixture = Fixture::load(major);
        let has = |what: &str, count: usize| assert!(count > 0, "{major}: no {what}");
        assert!(fixture.version.starts_with(&format!("{major}.")), "{major}: {}", fixture.version);
        assert!(fixture.records.len() > 1000);

        let pages = fixture.pages();
        assert!(pages.iter().all(|(_, page)| page.magic.major() == major));
        let with = |flag| pages.iter().filter(|(_, page)| page.flags.contains(flag)).count();
        has("record that goes on over pages", with(PageFlags::FIRST_IS_CONTRECORD));
        has("partial record of a crash", with(PageFlags::FIRST_IS_OVERWRITE_CONTRECORD));
        has("page of the first timeline", pages.iter().filter(|(_, page)| page.tli == Tli(1)).count());
        has("page of the second timeline", pages.iter().filter(|(_, page)| page.tli == Tli(2)).count());
        let goes_on =
            pages.iter().filter(|(_, page)| page.long.is_some() && page.remaining_bytes > SEGMENT_BYTES);
        has("record that goes on for more than a segment", goes_on.count());

        let is_in_page = |lsn: &Lsn| lsn.0 as usize % PAGE_BYTES < PAGE_BYTES - 100;
        let starts = || fixture.records.iter().map(|(start, _)| *start).filter(is_in_page);
        let at = |lsn: Lsn| &fixture.bytes[fixture.index_of(lsn)..];
        has("segment switch", starts().filter(|start| is_switch(at(*start))).count());
        has("full-page image", starts().filter(|start| has_image(at(*start))).count());
        has(
            "end on a page",
            fixture.records.iter().filter(|(_, end)| end.0 % PAGE_BYTES as u64 == 0).count(),
        );
    }
}

/// Resource manager 0, info 0x40, and no body.
pub(crate) fn is_switch(record: &[u8]) -> bool {
    record[..4] == 24_u32.to_le_bytes() && record[16..18] == [0x40, 0]
}

/// The first thing in the body is block reference 0, with the flag for an image.
fn has_image(record: &[u8]) -> bool {
    record[..4] != 24_u32.to_le_bytes() && record[24] == 0 && record[25] & 0x10 != 0
}
