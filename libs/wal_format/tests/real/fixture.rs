//! [`Fixture`]: loads recorded WAL of a server, with the positions of its records.

use std::fmt::Write;
use std::path::PathBuf;

use wal_format::{PAGE_BYTES, PageHeader, RecordScanner, ScanContext, page_header_bytes};
use wal_types::{Lsn, SegmentSize, SystemId};

/// Highest compression level that is not needlessly slow.
const COMPRESSION_LEVEL: u8 = 9;
/// Largest size of a decompressed file, in bytes.
const FIXTURE_BYTES_MAX: usize = 64 << 20;

pub(crate) const SEGMENT_BYTES: u32 = 1 << 20;
pub(crate) const MAJORS: [u32; 5] = [14, 15, 16, 17, 18];

/// Start of a record, and its end as the server's reader reports it.
pub(crate) type RecordRange = (Lsn, Lsn);

pub(crate) struct Fixture {
    /// Exact version of the server.
    pub(crate) version: String,
    pub(crate) system_id: SystemId,
    /// Start of the first segment.
    pub(crate) start: Lsn,
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: Vec<RecordRange>,
}

impl Fixture {
    pub(crate) fn load(major: u32) -> Self {
        let bytes = unpack(&path(major, "wal"));
        let text = String::from_utf8(unpack(&path(major, "records"))).unwrap();
        let mut lines = text.lines();
        let words: Vec<&str> = lines.next().unwrap().split(' ').collect();
        let range = |line: &str| {
            let (start, end) = line.split_once(' ').unwrap();
            (start.parse().unwrap(), end.parse().unwrap())
        };
        Self {
            version: words[0].to_owned(),
            system_id: SystemId(words[1].parse().unwrap()),
            start: words[2].parse().unwrap(),
            bytes,
            records: lines.map(range).collect(),
        }
    }

    pub(crate) fn save(&self, major: u32) {
        let mut text = format!("{} {} {}\n", self.version, self.system_id, self.start);
        for (start, end) in &self.records {
            writeln!(text, "{start} {end}").unwrap();
        }
        pack(&path(major, "wal"), &self.bytes);
        pack(&path(major, "records"), text.as_bytes());
    }

    pub(crate) fn context(&self) -> ScanContext {
        let segment_size = SegmentSize::new(SEGMENT_BYTES).unwrap();
        ScanContext { segment_size, system_id: self.system_id }
    }

    pub(crate) fn scanner(&self) -> RecordScanner {
        RecordScanner::at_segment_start(self.context(), self.start)
    }

    pub(crate) fn index_of(&self, lsn: Lsn) -> usize {
        lsn.bytes_since(self.start) as usize
    }

    /// Record end and last record start that a scan from the log's start must have at `position`.
    pub(crate) fn expected_at(&self, position: Lsn) -> (Lsn, Option<Lsn>) {
        match self.records.partition_point(|(_, end)| *end <= position) {
            0 => (self.start, None),
            n => (self.records[n - 1].1, Some(self.records[n - 1].0)),
        }
    }

    /// True for a byte of a record: not of a page header, of alignment, or of a partial record.
    pub(crate) fn is_under_checksum(&self, at: Lsn) -> bool {
        let behind = self.records.partition_point(|(start, _)| *start <= at);
        let Some((start, _)) = behind.checked_sub(1).map(|last| self.records[last]) else { return false };
        let length = self.bytes[self.index_of(start)..][..4].try_into().unwrap();
        let (mut lsn, mut left) = (start, u64::from(u32::from_le_bytes(length)));
        loop {
            let page = lsn.align_down(PAGE_BYTES as u64);
            let header_bytes = page_header_bytes(self.context().segment_size, page);
            lsn = lsn.max(page.advance(header_bytes as u64));
            let next = page.advance(PAGE_BYTES as u64);
            let here = left.min(next.bytes_since(lsn));
            if at < next || here == left {
                return at >= lsn && at < lsn.advance(here);
            }
            (lsn, left) = (next, left - here);
        }
    }

    /// Position and header of each page that was written.
    pub(crate) fn pages(&self) -> Vec<(Lsn, PageHeader)> {
        let position = |at: usize| self.start.advance((at * PAGE_BYTES) as u64);
        let pages = self.bytes.chunks(PAGE_BYTES).enumerate();
        pages
            .filter_map(|(at, page)| Some((position(at), PageHeader::parse(page).ok()?)))
            .filter(|(at, header)| *at == header.address)
            .collect()
    }
}

fn path(major: u32, what: &str) -> PathBuf {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    directory.join(format!("postgres{major}.{what}.zlib"))
}

fn pack(path: &PathBuf, bytes: &[u8]) {
    std::fs::write(path, miniz_oxide::deflate::compress_to_vec_zlib(bytes, COMPRESSION_LEVEL)).unwrap();
}

fn unpack(path: &PathBuf) -> Vec<u8> {
    let packed = std::fs::read(path).unwrap();
    miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(&packed, FIXTURE_BYTES_MAX).unwrap()
}
