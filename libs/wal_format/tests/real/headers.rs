//! Damage in page headers, which no checksum covers: their fields follow from the log, so a flipped bit is noticed at its
//! own page.

use wal_format::{PAGE_BYTES, PageMagic, RecordScanner, page_header_bytes};
use wal_types::{Lsn, Tli};

use crate::fixture::{Fixture, MAJORS};

/// Bits of a header, `from` to `to`, that may flip, and why that does no harm.
const HARMLESS: [(usize, usize, &str); 2] = [
    (
        18,
        19,
        "whether blocks are optional in what begins on the page: a hint to archivers, which no reader of WAL heeds",
    ),
    (160, 192, "padding, which no reader uses"),
];

/// The highest timeline in the fixtures.
const HIGHEST: Tli = Tli(2);

fn scanner(major: u32, fixture: &Fixture) -> RecordScanner {
    fixture.scanner().require_version(PageMagic::of_major(major).unwrap()).limit_timeline(HIGHEST)
}

/// Each page with a header, and a scanner that has seen everything before it.
fn pages(major: u32, fixture: &Fixture) -> Vec<(Lsn, RecordScanner)> {
    let mut scanner = scanner(major, fixture);
    let written = fixture.records.last().unwrap().1;
    let mut pages = Vec::new();
    for (at, _) in fixture.pages().into_iter().filter(|(at, _)| *at < written) {
        scanner.feed(&fixture.bytes[fixture.index_of(scanner.position())..fixture.index_of(at)]).unwrap();
        pages.push((at, scanner.clone()));
    }
    pages
}

/// Each bit of each page header is flipped; only those listed as harmless go unnoticed.
#[test]
fn flipped_page_header_bit_is_noticed() {
    let harmless = |bit: usize| HARMLESS.iter().any(|&(from, to, _)| (from..to).contains(&bit));
    for major in MAJORS {
        let fixture = Fixture::load(major);
        let written = fixture.records.last().unwrap().1;
        let pages = pages(major, &fixture);
        assert!(pages.len() > 128, "more than one segment");
        for (at, before) in pages {
            let length = page_header_bytes(fixture.context().segment_size, at);
            let page_end = at.advance(PAGE_BYTES as u64).min(written);
            let page = &fixture.bytes[fixture.index_of(at)..fixture.index_of(page_end)];
            for bit in 0..length * 8 {
                let mut turned = page.to_vec();
                turned[bit / 8] ^= 1 << (bit % 8);
                let noticed = before.clone().feed(&turned).is_err();
                assert_ne!(noticed, harmless(bit), "bit {bit} of the page at {at} of version {major}");
            }
        }
    }
}

#[test]
fn harmless_page_header_bits_change_no_record() {
    for major in MAJORS {
        let fixture = Fixture::load(major);
        let mut bytes = fixture.bytes.clone();
        for (at, _) in pages(major, &fixture) {
            let header = &mut bytes[fixture.index_of(at)..][..PAGE_BYTES];
            HARMLESS
                .iter()
                .flat_map(|&(from, to, _)| from..to)
                .for_each(|bit| header[bit / 8] ^= 1 << (bit % 8));
        }
        let (end, last) = (fixture.records.last().unwrap().1, fixture.records.last().unwrap().0);
        let mut scanner = scanner(major, &fixture);
        scanner.feed(&bytes[..fixture.index_of(end)]).unwrap();
        assert_eq!((scanner.record_end(), scanner.last_record_start()), (end, Some(last)));
    }
}

#[test]
fn require_version_refuses_pages_of_another() {
    for major in MAJORS {
        let fixture = Fixture::load(major);
        for other in MAJORS {
            let mut scanner = fixture.scanner().require_version(PageMagic::of_major(other).unwrap());
            assert_eq!(scanner.feed(&fixture.bytes[..PAGE_BYTES]).is_ok(), other == major);
        }
    }
}
