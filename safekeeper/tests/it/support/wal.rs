//! [`Wal`]: WAL of many records, made for the tests.

use wal_format::{PageMagic, ScanContext, WalBuilder};
use wal_types::{Lsn, SegmentSize, Tli};

use super::{SEGMENT_BYTES, START, SYSTEM};

/// WAL from `START` on.
pub(crate) struct Wal {
    builder: WalBuilder,
    pub(crate) bytes: Vec<u8>,
}

impl Wal {
    pub(crate) fn new() -> Self {
        let ctx = ScanContext { segment_size: SegmentSize::new(SEGMENT_BYTES).unwrap(), system_id: SYSTEM };
        Self {
            builder: WalBuilder::new(ctx, PageMagic::POSTGRES_15, Tli::FIRST, START, Lsn(0)),
            bytes: Vec::new(),
        }
    }

    /// Adds records of many lengths, at least `bytes` bytes; returns the new bytes.
    pub(crate) fn grow(&mut self, bytes: usize) -> Vec<u8> {
        let before = self.bytes.len();
        let mut length = 30 + before % 1000;
        while self.bytes.len() < before + bytes {
            length = length * 7 % 9001 + 27;
            self.bytes.extend_from_slice(&self.builder.noop(length).bytes);
        }
        self.bytes[before..].to_vec()
    }

    /// A copy that goes on with another record.
    pub(crate) fn fork(&self, payload: &[u8]) -> Self {
        let mut fork = Self { builder: self.builder.clone(), bytes: self.bytes.clone() };
        fork.bytes.extend_from_slice(&fork.builder.record(0, 0x20, payload).bytes);
        fork
    }

    pub(crate) fn set_tli(&mut self, tli: Tli) {
        self.builder.set_tli(tli);
    }

    pub(crate) fn end(&self) -> Lsn {
        self.builder.position()
    }
}
