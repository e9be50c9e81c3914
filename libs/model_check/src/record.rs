//! Records of a modelled log: a record is eight equal bytes that name its term, and a log is a list of records.
//!
//! Positions are counted in records; [`lsn`] and [`records_below`] convert them. A modelled log never leaves one
//! segment.

use bytes::Bytes;
use wal_types::{Lsn, SegmentSize, Term};

/// Segment size of modelled logs, which never fill a segment.
pub(crate) const SEGMENT_SIZE: SegmentSize = match SegmentSize::new(SegmentSize::BYTES_MIN) {
    Ok(size) => size,
    Err(_) => panic!("the smallest size is a size"),
};

/// First byte of modelled logs.
pub(crate) const START: Lsn = Lsn(SegmentSize::BYTES_MIN as u64);

/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = 8;

/// Byte of a record of term 0. No count, length or term of a model is that high.
const RECORD_FIRST: u8 = 0x90;

/// One record, named by its term. The leader of a term writes one record at a position, so two equal records at one
/// position are copies of one record.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Record(u8);

impl Record {
    /// The record that the leader of `term` writes.
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

/// Number of records below `lsn`.
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
