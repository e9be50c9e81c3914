//! A partial record in the WAL of a real server, and the overwrite record behind it, which is accepted only if it is the one
//! that the server writes there.

use wal_format::{
    PAGE_BYTES, PageFlags, RECORD_HEADER_BYTES, RecordError, RecordHeader, RecordScanner, ScanEnd, ScanError,
    StopReason, find_end_of_log, page_header_bytes,
};
use wal_types::Lsn;

use crate::fixture::{Fixture, MAJORS, RecordRange};

/// Length of an overwrite record.
const RECORD_BYTES: usize = 42;

struct CutOff {
    fixture: Fixture,
    /// Start of the partial record, which is the end of the record before it.
    partial_start: Lsn,
    /// Start of the overwrite record.
    record: Lsn,
}

fn cut_off(major: u32) -> CutOff {
    let fixture = Fixture::load(major);
    let tells = |flags: PageFlags| flags.contains(PageFlags::FIRST_IS_OVERWRITE_CONTRECORD);
    let pages = fixture.pages();
    let (page, _) =
        pages.into_iter().find(|(_, header)| tells(header.flags)).expect("the server has seen a gap");
    let record = page.advance(page_header_bytes(fixture.context().segment_size, page) as u64);
    let partial_start = fixture.expected_at(page).0;
    assert!(partial_start < page && fixture.records.iter().any(|(start, _)| *start == record));
    CutOff { fixture, partial_start, record }
}

impl CutOff {
    /// The WAL with a changed overwrite record whose checksum is right.
    fn with(&self, change: impl FnOnce(&mut RecordHeader, &mut [u8])) -> Vec<u8> {
        let mut bytes = self.fixture.bytes.clone();
        let at = self.fixture.index_of(self.record);
        let (first, body) = bytes[at..at + RECORD_BYTES].split_at_mut(RECORD_HEADER_BYTES);
        let mut header = RecordHeader::parse((&*first).try_into().unwrap());
        change(&mut header, body);
        header.checksum = crc32c::crc32c_append(crc32c::crc32c(body), &header.encode()[..20]);
        first.copy_from_slice(&header.encode());
        bytes
    }

    /// The error of a scan of `bytes` at the overwrite record.
    fn refusal(&self, mut scanner: RecordScanner, bytes: &[u8]) -> Option<RecordError> {
        let from = self.fixture.index_of(scanner.position());
        let to = self.fixture.index_of(self.record) + RECORD_BYTES;
        let before = scanner.record_end();
        match scanner.feed(&bytes[from..to]) {
            Ok(()) => None,
            Err(ScanError::Record { at, problem }) => {
                assert_eq!(at, self.record);
                assert!(scanner.record_end() <= self.partial_start.max(before), "nothing of it counts");
                Some(problem)
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// The record behind a partial record has to name where that one begins.
#[test]
fn overwrite_record_must_name_the_partial_record() {
    for major in MAJORS {
        let log = cut_off(major);
        let scan = |bytes: &[u8]| log.refusal(log.fixture.scanner(), bytes);
        let told = |lsn: Lsn| log.with(|_, body| body[2..10].copy_from_slice(&lsn.0.to_le_bytes()));
        assert_eq!(scan(&log.fixture.bytes), None);
        assert_eq!(scan(&log.with(|_, _| {})), None);
        assert_eq!(scan(&told(log.partial_start)), None);
        for lsn in [Lsn(0), Lsn(log.partial_start.0 - 8), log.partial_start.advance(8), log.record] {
            assert_eq!(scan(&told(lsn)), Some(RecordError::Overwrites(lsn)));
        }
        let other = Some(RecordError::NotAnOverwrite);
        assert_eq!(scan(&log.with(|header, _| header.info = 0x20)), other, "a record of no meaning");
        assert_eq!(scan(&log.with(|header, _| header.rmid = 10)), other, "a resource manager's own");
        assert_eq!(scan(&log.with(|_, body| body[1] = 15)), other, "other main data");
        assert_eq!(scan(&log.with(|header, _| header.total_bytes = 50)), other, "a longer one");
    }
}

/// A scan that starts inside a partial record knows only that the record began before the scan.
#[test]
fn overwrite_seen_from_inside_a_partial_record() {
    for major in MAJORS {
        let log = cut_off(major);
        let segment_size = log.fixture.context().segment_size;
        let start = segment_size.start_of(segment_size.segment_of(log.record));
        assert!(start > log.partial_start, "a record of 1.5 segments is partial near its end");
        let scanner = || RecordScanner::at_segment_start(log.fixture.context(), start);
        let told = |lsn: Lsn| log.with(|_, body| body[2..10].copy_from_slice(&lsn.0.to_le_bytes()));
        assert_eq!(log.refusal(scanner(), &log.fixture.bytes), None);
        assert_eq!(log.refusal(scanner(), &told(Lsn(0))), None);
        let lsn = log.record.advance(8);
        assert_eq!(log.refusal(scanner(), &told(lsn)), Some(RecordError::Overwrites(lsn)));
    }
}

/// An overwrite record without a partial record before it is refused.
#[test]
fn overwrite_record_elsewhere_is_refused() {
    for major in MAJORS {
        let log = cut_off(major);
        let mut bytes = log.fixture.bytes.clone();
        let of = |lsn: Lsn| log.fixture.index_of(lsn)..log.fixture.index_of(lsn) + RECORD_BYTES;
        let place = |&&(start, end): &&RecordRange| start > log.record && end.bytes_since(start) > 42;
        let &(start, _) = log.fixture.records.iter().find(place).unwrap();
        // All is right about it but the place.
        let prev = bytes[of(start)][8..16].to_vec();
        let mut record = bytes[of(log.record)].to_vec();
        record[8..16].copy_from_slice(&prev);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&record[RECORD_HEADER_BYTES..]), &record[..20]);
        record[20..24].copy_from_slice(&checksum.to_le_bytes());
        bytes[of(start)].copy_from_slice(&record);
        let problem = RecordError::OverwritesNothing;
        let fed = log.fixture.scanner().feed(&bytes[..of(start).end]);
        assert_eq!(fed, Err(ScanError::Record { at: start, problem }));
    }
}

/// The server writes its end behind what was whole, over the partial record: so does the scan.
#[test]
fn torn_overwrite_ends_the_log_before_it() {
    for major in MAJORS {
        let log = cut_off(major);
        let (fixture, record) = (&log.fixture, log.fixture.index_of(log.record));
        let whole = &fixture.bytes[..record + RECORD_BYTES];
        let page_end = (record + RECORD_BYTES).next_multiple_of(PAGE_BYTES);
        let last_byte = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for written in record..=last_byte {
            for zeros in [page_end - written, 0] {
                let bytes = [&whole[..written], &vec![0; zeros]].concat();
                let end = scan(fixture, &bytes);
                assert_eq!(end.record_end, log.partial_start, "{} bytes of it", written - record);
                let nothing_there = StopReason::NoMoreBytes { at: fixture.start.advance(written as u64) };
                match end.stopped {
                    StopReason::NotWal(error) => assert!(zeros > 0 && error.position() == log.record),
                    stopped => assert_eq!((zeros, stopped), (0, nothing_there)),
                }
                let mut scanner = end.scanner;
                scanner.feed(&whole[fixture.index_of(log.partial_start)..]).unwrap();
            }
        }
    }
}

fn scan(fixture: &Fixture, bytes: &[u8]) -> ScanEnd {
    find_end_of_log(fixture.scanner(), |position, buffer| {
        let left = &bytes[fixture.index_of(position)..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        Ok(count)
    })
    .unwrap()
}
