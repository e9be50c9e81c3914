//! [`WalBuffer`]: holds the newest stretch of WAL, as it came from the primary.
//!
//! The WAL is contiguous; bytes are appended at the end and dropped at the front. The buffer holds `Bytes` slices as
//! they were received. A read copies only where it crosses two of them.

use std::collections::VecDeque;

use bytes::Bytes;
use wal_types::Lsn;

/// WAL `[start, end)` in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WalBuffer {
    start: Lsn,
    end: Lsn,
    /// `(position of the first byte, bytes)`; contiguous, never empty slices.
    chunks: VecDeque<(Lsn, Bytes)>,
}

impl WalBuffer {
    /// An empty buffer; the next byte to push is the one at `at`.
    pub const fn new(at: Lsn) -> Self {
        Self { start: at, end: at, chunks: VecDeque::new() }
    }

    /// First byte held.
    pub const fn start(&self) -> Lsn {
        self.start
    }

    /// Position behind the last byte held.
    pub const fn end(&self) -> Lsn {
        self.end
    }

    /// Bytes held.
    pub const fn len(&self) -> u64 {
        self.end.bytes_since(self.start)
    }

    /// True when nothing is held.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends bytes. Returns false, and appends nothing, when `at` is not the end of the buffer.
    #[must_use]
    pub fn push(&mut self, at: Lsn, bytes: Bytes) -> bool {
        if at != self.end {
            return false;
        }
        if !bytes.is_empty() {
            self.end = self.end.advance(bytes.len() as u64);
            self.chunks.push_back((at, bytes));
        }
        true
    }

    /// Up to `bytes_max` bytes from `from` on; empty when `from` is outside the buffer.
    pub fn read(&self, from: Lsn, bytes_max: usize) -> Bytes {
        if from < self.start || from >= self.end {
            return Bytes::new();
        }

        let first = self.chunks.partition_point(|(at, bytes)| at.advance(bytes.len() as u64) <= from);
        let mut room = bytes_max;
        let mut pieces = Vec::new();
        for (at, bytes) in self.chunks.range(first..) {
            let skip = from.bytes_since(*at) as usize;
            let piece = bytes.slice(skip..bytes.len().min(skip.saturating_add(room)));
            room -= piece.len();
            pieces.push(piece);
            if room == 0 {
                break;
            }
        }

        match pieces.as_slice() {
            [one] => one.clone(),
            many => many.concat().into(),
        }
    }

    /// Drops whole slices below `lsn`. What is left begins at or below `lsn`, unless the buffer ends below `lsn`.
    pub fn drop_below(&mut self, lsn: Lsn) {
        while let Some((at, bytes)) = self.chunks.front() {
            let end = at.advance(bytes.len() as u64);
            if end > lsn {
                break;
            }
            self.start = end;
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> WalBuffer {
        let mut buffer = WalBuffer::new(Lsn(100));
        for (at, bytes) in [(100, "abc"), (103, "d"), (104, "efgh")] {
            assert!(buffer.push(Lsn(at), Bytes::from_static(bytes.as_bytes())));
        }
        buffer
    }

    /// A read returns the same bytes wherever the slices begin and end.
    #[test]
    fn read_ignores_slice_boundaries() {
        for (from, max, expected) in [
            (100, 8, "abcdefgh"),
            (100, 2, "ab"),
            (102, 3, "cde"),
            (107, 9, "h"),
            (108, 9, ""),
            (99, 9, ""),
            (104, 4, "efgh"),
        ] {
            assert_eq!(filled().read(Lsn(from), max), expected, "{from} {max}");
        }
    }

    /// Bytes that do not continue the buffer change nothing.
    #[test]
    fn push_refuses_a_gap() {
        let mut buffer = filled();
        assert!(!buffer.push(Lsn(109), Bytes::from_static(b"x")));
        assert!(!buffer.push(Lsn(107), Bytes::from_static(b"x")));
        assert_eq!(buffer.end(), Lsn(108));
    }

    /// Only whole slices are dropped: one that reaches beyond the position stays.
    #[test]
    fn drop_below_keeps_the_slice_across_it() {
        let mut buffer = filled();
        buffer.drop_below(Lsn(105));
        assert_eq!((buffer.start(), buffer.end()), (Lsn(104), Lsn(108)));
        assert_eq!(buffer.read(Lsn(104), 9), "efgh");
        assert_eq!(buffer.read(Lsn(103), 9), "");
    }
}
