//! WAL in units: a record is eight equal bytes that name the term that wrote it, a log is a list of records.
//!
//! Positions are counted in records; [`lsn`] and [`records_below`] translate. All of a modelled log lies in one segment.

use bytes::Bytes;
use wal_types::{Lsn, SegmentSize, Term};

/// Segment size of modelled logs. They never fill one.
pub(crate) const SEGMENT_SIZE: SegmentSize = match SegmentSize::new(SegmentSize::BYTES_MIN) {
    Ok(size) => size,
    Err(_) => panic!("the smallest size is a size"),
};

/// First byte of modelled logs.
pub(crate) const START: Lsn = Lsn(SegmentSize::BYTES_MIN as u64);

/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = 8;

/// The first term's records. No count, length or term of a model is that high.
const RECORD_FIRST: u8 = 0x90;

/// One record: the term in which it was written. Who leads a term writes one record at a position, so two records at one
/// position are the same only if one was copied from the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Record(u8);

impl Record {
    /// What the leader of `term` writes.
    pub(crate) const fn of(term: Term) -> Self {
        Self(RECORD_FIRST + term.0 as u8)
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

/// Position behind `records` records.
pub(crate) const fn lsn(records: usize) -> Lsn {
    START.advance((records * RECORD_BYTES) as u64)
}

/// Records below `lsn`.
pub(crate) const fn records_below(lsn: Lsn) -> usize {
    lsn.bytes_since(START) as usize / RECORD_BYTES
}

/// The bytes of records.
pub(crate) fn to_wal(records: &[Record]) -> Bytes {
    records.iter().flat_map(|record| [record.0; RECORD_BYTES]).collect()
}

/// The records in bytes.
pub(crate) fn from_wal(wal: &[u8]) -> impl Iterator<Item = Record> {
    wal.chunks(RECORD_BYTES).map(|bytes| Record(bytes[0]))
}
