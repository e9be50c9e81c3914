//! [`Mirror`]: copy of a node's log as the oracle last read it, so that only changed bytes are read and compared again.

use wal_types::Lsn;

use crate::primary::START;

/// A copy of a node's log.
pub(crate) struct Mirror {
    /// Position of the first byte.
    base: Lsn,
    bytes: Vec<u8>,
    /// The node's incarnation and its number of truncations at the last read. While both are the same, nothing below
    /// the end has changed.
    pub(crate) seen: (u64, u64),
}

impl Mirror {
    pub(crate) fn new(base: Lsn) -> Self {
        Self { base, bytes: Vec::new(), seen: (0, 0) }
    }

    pub(crate) fn base(&self) -> Lsn {
        self.base
    }

    pub(crate) fn end(&self) -> Lsn {
        self.base.advance(self.bytes.len() as u64)
    }

    /// Drops the bytes below `lsn`, which the node has removed.
    pub(crate) fn forget_below(&mut self, lsn: Lsn) {
        let count = lsn.bytes_since(self.base) as usize;
        self.bytes.drain(..count.min(self.bytes.len()));
        self.base = self.base.max(lsn);
    }

    /// The bytes `[from, to)`, as far as the mirror has them.
    pub(crate) fn slice(&self, from: Lsn, to: Lsn) -> &[u8] {
        let offset = |lsn: Lsn| (lsn.bytes_since(self.base) as usize).min(self.bytes.len());
        let (from, to) = (offset(from.max(self.base)), offset(to.max(self.base)));
        &self.bytes[from.min(to)..to]
    }

    /// Replaces everything from `from` on by `bytes`. Returns the position below which nothing changed.
    pub(crate) fn replace(&mut self, from: Lsn, bytes: &[u8]) -> Lsn {
        debug_assert!(from <= self.end() && from >= self.base);
        let at = from.bytes_since(self.base) as usize;
        let same = first_difference(&self.bytes[at..], bytes);
        self.bytes.truncate(at + same);
        self.bytes.extend_from_slice(&bytes[same..]);
        self.base.advance((at + same) as u64)
    }
}

/// Index of the first difference of two slices; the length of the shorter one when there is none.
pub(crate) fn first_difference(one: &[u8], other: &[u8]) -> usize {
    let common = one.len().min(other.len());
    if one[..common] == other[..common] {
        return common;
    }
    one.iter().zip(other).position(|(a, b)| a != b).unwrap_or(common)
}

/// Offset of a position in the committed log.
pub(crate) fn offset(lsn: Lsn) -> usize {
    lsn.bytes_since(START) as usize
}
