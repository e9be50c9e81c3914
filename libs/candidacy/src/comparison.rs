//! [`Comparison`]: compares the primary's bytes with those of one safekeeper, by checksum.

use bytes::Bytes;
use consensus::{ChecksumResponse, Election, WalBuffer, compare_from};
use thiserror::Error;
use wal_types::{Lsn, NodeId, SegmentSize};

/// Range of the log that is compared, and the safekeeper that has the newest log. At most one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComparedRange {
    /// Safekeeper whose bytes count.
    pub donor: NodeId,
    /// First byte.
    pub from: Lsn,
    /// Position behind the last byte.
    pub to: Lsn,
}

impl ComparedRange {
    /// The range to compare before a term is spent: the committed part of the log's last segment. `None` when no byte of
    /// that segment is known to be committed.
    ///
    /// `donor` has the newest log of a quorum, which ends at `end` and begins at `log_start`; `commit` is the highest
    /// commit LSN that the quorum reported. Bytes above it may still be truncated, so that they prove nothing about the
    /// primary. They are compared when the votes have settled them.
    pub fn of_survey(
        donor: NodeId,
        end: Lsn,
        commit: Lsn,
        log_start: Lsn,
        segment_size: SegmentSize,
    ) -> Option<Self> {
        let (from, to) = (compare_from(end, log_start, segment_size), commit.min(end));
        (from < to).then_some(Self { donor, from, to })
    }

    /// The range to compare before an elected candidate leads: the log's last segment, up to the end of the log.
    pub fn of_election(election: &Election, segment_size: SegmentSize) -> Self {
        Self { donor: election.donor, from: election.compare_from(segment_size), to: election.start }
    }
}

/// The primary's stream has a hole or an overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the primary's WAL continues at {got} instead of {expected}")]
pub struct Gap {
    /// End of the WAL that was received before.
    pub expected: Lsn,
    /// Position of the WAL that came.
    pub got: Lsn,
}

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both have the same bytes.
    SameBytes,
    /// They have other bytes.
    OtherBytes,
    /// The safekeeper no longer holds all of the range, or has promised a higher term.
    NotHeld,
}

/// One comparison: takes the primary's WAL and the safekeeper's checksum, in any order.
#[derive(Clone, Debug)]
pub struct Comparison {
    range: ComparedRange,
    /// WAL behind the range is dropped.
    cuts: bool,
    wal: WalBuffer,
    primary_crc: u32,
    /// Outer option: the safekeeper has answered. Inner option: it holds the whole range.
    donor_crc: Option<Option<u32>>,
}

impl Comparison {
    /// A comparison that has seen no bytes yet. The driver requests the donor's checksum, unless
    /// [`Comparison::needs_answer`] is false, and reads the primary's WAL from `range.from` on. With `cuts`, WAL behind the
    /// range is dropped: the stream is of an older timeline, which ends where the log does.
    pub fn new(range: ComparedRange, cuts: bool) -> Self {
        let donor_crc = (range.from == range.to).then_some(Some(0));
        Self { range, cuts, wal: WalBuffer::new(range.from), primary_crc: 0, donor_crc }
    }

    /// The range.
    pub const fn range(&self) -> ComparedRange {
        self.range
    }

    /// True while WAL of the primary is missing.
    pub fn needs_wal(&self) -> bool {
        self.wal.end() < self.range.to
    }

    /// True while the donor's checksum is missing.
    pub const fn needs_answer(&self) -> bool {
        self.donor_crc.is_none()
    }

    /// Takes the next bytes of the primary.
    pub fn push(&mut self, at: Lsn, mut data: Bytes) -> Result<(), Gap> {
        let covered = self.range.to.bytes_since(at).min(data.len() as u64) as usize;
        self.primary_crc = crc32c::crc32c_append(self.primary_crc, &data[..covered]);
        if self.cuts {
            data.truncate(covered);
        }
        let expected = self.wal.end();
        if self.wal.push(at, data) { Ok(()) } else { Err(Gap { expected, got: at }) }
    }

    /// Takes a checksum. One of another range, or of another safekeeper, is ignored.
    pub fn answered(&mut self, from: NodeId, response: &ChecksumResponse) {
        let ComparedRange { donor, from: first, to } = self.range;
        if (from, response.from, response.to) == (donor, first, to) {
            self.donor_crc = Some(response.crc32c);
        }
    }

    /// The result; `None` while something is missing.
    pub fn verdict(&self) -> Option<Verdict> {
        match self.donor_crc? {
            None => Some(Verdict::NotHeld),
            Some(_) if self.needs_wal() => None,
            Some(crc) if crc == self.primary_crc => Some(Verdict::SameBytes),
            Some(_) => Some(Verdict::OtherBytes),
        }
    }

    /// The WAL that was read from the primary.
    pub fn into_wal(self) -> WalBuffer {
        self.wal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: ComparedRange = ComparedRange { donor: NodeId(2), from: Lsn(100), to: Lsn(108) };

    fn answer(crc32c: Option<u32>) -> ChecksumResponse {
        ChecksumResponse { from: RANGE.from, to: RANGE.to, crc32c }
    }

    #[test]
    fn comparison_needs_both_sides() {
        let crc = crc32c::crc32c(b"8 bytes.");
        for (answered, expected) in
            [(Some(crc), Verdict::SameBytes), (Some(crc ^ 1), Verdict::OtherBytes), (None, Verdict::NotHeld)]
        {
            let mut comparison = Comparison::new(RANGE, false);
            assert_eq!(comparison.verdict(), None);
            comparison.push(Lsn(100), Bytes::from_static(b"8 byt")).unwrap();
            comparison.answered(NodeId(1), &answer(Some(0)));
            comparison.answered(NodeId(2), &ChecksumResponse { to: Lsn(107), ..answer(Some(0)) });
            assert!(comparison.needs_answer() && comparison.needs_wal());
            comparison.answered(NodeId(2), &answer(answered));
            assert_eq!(comparison.verdict().is_some(), answered.is_none());
            comparison.push(Lsn(105), Bytes::from_static(b"es. and more")).unwrap();
            assert_eq!(comparison.verdict(), Some(expected));
            assert_eq!(comparison.into_wal().end(), Lsn(117), "what follows the range is kept");
        }
    }

    #[test]
    fn comparison_refuses_a_hole() {
        let mut comparison = Comparison::new(RANGE, true);
        comparison.push(Lsn(100), Bytes::from_static(b"8 bytes. and more")).unwrap();
        assert_eq!(comparison.wal.end(), Lsn(108), "an older timeline ends where the log does");
        let gap = Gap { expected: Lsn(108), got: Lsn(109) };
        assert_eq!(comparison.push(Lsn(109), Bytes::from_static(b"x")), Err(gap));
    }

    #[test]
    fn empty_range_is_equal_at_once() {
        let comparison = Comparison::new(ComparedRange { to: RANGE.from, ..RANGE }, false);
        assert_eq!(comparison.verdict(), Some(Verdict::SameBytes));
    }

    /// Only committed bytes of the log's last segment are compared before a term is spent.
    #[test]
    fn survey_compares_committed_bytes_of_last_segment() {
        let size = SegmentSize::new(SegmentSize::BYTES_MIN).unwrap();
        let segment = u64::from(SegmentSize::BYTES_MIN);
        let begin = |at| segment * at;
        // End of the log, commit, log start; first and last position of the range.
        for (end, commit, log_start, expected) in [
            (begin(5) + 80, begin(5) + 80, begin(1), Some((begin(5), begin(5) + 80))),
            (begin(5) + 80, begin(5) + 40, begin(1), Some((begin(5), begin(5) + 40))),
            (begin(5) + 80, begin(6), begin(1), Some((begin(5), begin(5) + 80))),
            (begin(5), begin(5), begin(1), Some((begin(4), begin(5)))),
            (begin(5) + 80, begin(5) + 80, begin(5) + 8, Some((begin(5) + 8, begin(5) + 80))),
            (begin(5) + 80, begin(5), begin(1), None),
            (begin(5) + 80, 0, begin(1), None),
            (begin(5), begin(5), begin(5), None),
        ] {
            let range = ComparedRange::of_survey(NodeId(1), Lsn(end), Lsn(commit), Lsn(log_start), size);
            assert_eq!(range.map(|range| (range.from.0, range.to.0)), expected, "{end} {commit} {log_start}");
        }
    }
}
