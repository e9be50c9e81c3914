//! [`WalSource`]: makes valid WAL for a load generator, ahead of the measurement.

use bytes::Bytes;
use wal_format::{PageMagic, ScanContext, WalBuilder};
use wal_types::{Lsn, SegmentSize, SystemId, Tli};

/// Longest record that is made: what COPY writes for a page of rows.
const RECORD_BYTES_MAX: usize = 8 * 1024;
/// Shortest rest that a record can fill exactly.
const RECORD_BYTES_MIN: usize = 32;

/// The cluster that all WAL of the benchmarks belongs to.
pub(crate) const SYSTEM_ID: SystemId = SystemId(7_710_999_284_697_415_315);

/// A position in endless WAL.
#[derive(Debug)]
pub(crate) struct WalSource {
    builder: WalBuilder,
    segment_size: SegmentSize,
}

/// WAL that ends at a record end.
#[derive(Clone, Debug)]
pub(crate) struct WalPiece {
    pub(crate) begin: Lsn,
    pub(crate) bytes: Bytes,
}

impl WalSource {
    /// WAL that begins at `start`, the start of a segment.
    pub(crate) fn new(segment_size: SegmentSize, start: Lsn) -> Self {
        let ctx = ScanContext { segment_size, system_id: SYSTEM_ID };
        let builder = WalBuilder::new(ctx, PageMagic::POSTGRES_15, Tli::FIRST, start, Lsn::INVALID);
        Self { builder, segment_size }
    }

    /// End of the WAL that was made.
    pub(crate) fn position(&self) -> Lsn {
        self.builder.position()
    }

    /// Bytes from the current position to the end of its segment.
    pub(crate) fn left_in_segment(&self) -> u64 {
        let size = u64::from(self.segment_size.bytes());
        size - u64::from(self.segment_size.offset_of(self.position()))
    }

    /// One record of about `bytes` bytes.
    pub(crate) fn record(&mut self, bytes: usize) -> WalPiece {
        let begin = self.position();
        WalPiece { begin, bytes: self.builder.noop(bytes).bytes.into() }
    }

    /// At least `bytes` bytes, in records of at most `record_bytes` and [`RECORD_BYTES_MAX`].
    pub(crate) fn records(&mut self, bytes: u64, record_bytes: usize) -> WalPiece {
        let begin = self.position();
        let length = record_bytes.clamp(RECORD_BYTES_MIN, RECORD_BYTES_MAX);
        let mut wal = Vec::with_capacity(bytes as usize + 2 * RECORD_BYTES_MAX);
        while (wal.len() as u64) < bytes {
            wal.extend_from_slice(&self.builder.noop(length).bytes);
        }
        WalPiece { begin, bytes: wal.into() }
    }
}

impl WalPiece {
    /// Position behind the last byte.
    pub(crate) fn end(&self) -> Lsn {
        self.begin.advance(self.bytes.len() as u64)
    }

    /// Cuts the WAL into appends of `bytes`; the last one may be shorter.
    pub(crate) fn cut(&self, bytes: usize) -> impl Iterator<Item = Self> + '_ {
        (0..self.bytes.len()).step_by(bytes).map(move |from| Self {
            begin: self.begin.advance(from as u64),
            bytes: self.bytes.slice(from..self.bytes.len().min(from + bytes)),
        })
    }
}
