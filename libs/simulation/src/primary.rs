//! [`Primary`]: a PostgreSQL server that writes WAL. It never loses flushed WAL, and no other primary writes the same
//! bytes.

use bytes::Bytes;
use candidacy::{PrimaryPosition, TimelineFork};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use wal_format::{PageMagic, RecordScanner, ScanContext, WalBuilder};
use wal_types::{Lsn, SegmentSize, SystemId, Term, Tli};

/// Segment size of simulated logs: the smallest possible, so that segments change often.
pub(crate) const SEGMENT_SIZE: SegmentSize = match SegmentSize::new(SegmentSize::BYTES_MIN) {
    Ok(size) => size,
    Err(_) => panic!("the smallest size is a size"),
};

/// First byte of simulated logs.
pub(crate) const START: Lsn = Lsn(SegmentSize::BYTES_MIN as u64 * 4);

/// Segment size and system identifier of the simulated PostgreSQL cluster.
pub(crate) const CONTEXT: ScanContext =
    ScanContext { segment_size: SEGMENT_SIZE, system_id: SystemId(0x5eed) };

/// Largest ordinary record, in bytes. A few records are much larger.
const RECORD_BYTES_MAX: usize = 400;
/// Largest record, in bytes: longer than a segment.
const LARGE_RECORD_BYTES_MAX: usize = 20_000;

/// One primary and all WAL that it has ever flushed.
pub(crate) struct Primary {
    wal: Vec<u8>,
    /// Every record end, ascending. The start of the log counts as one.
    ends: Vec<Lsn>,
    builder: WalBuilder,
    layout: Layout,
    /// End of the WAL that it replayed before its promotion.
    pub(crate) base: Lsn,
    /// The PostgreSQL timeline that it writes.
    pub(crate) timeline: Timeline,
    /// The last term that a proposer inside this server led (dialect `neon`).
    pub(crate) led: Option<Term>,
}

/// A PostgreSQL timeline and its origin, as in the last line of its history file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeline {
    pub(crate) tli: Tli,
    /// The parent timeline and the fork position; none for the first timeline.
    pub(crate) fork: Option<(Tli, Lsn)>,
    /// Index of the primary that began it.
    pub(crate) begun_by: usize,
}

impl Timeline {
    pub(crate) const FIRST: Self = Self { tli: Tli::FIRST, fork: None, begun_by: 0 };
}

/// Lengths of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Any length.
    Mixed,
    /// One length that divides a segment exactly: rival logs have records at the same positions throughout, and often
    /// end with a segment.
    Equal,
}

/// Payload of a record of which 120 fill a segment of 16 KiB.
const EQUAL_PAYLOAD_BYTES: usize = 110;

impl Primary {
    /// A new server that has not written anything yet.
    pub(crate) fn new(layout: Layout) -> Self {
        Self::promoted(Vec::new(), layout, Timeline::FIRST)
    }

    /// A standby that replayed `wal`, which must end with a record, and was promoted.
    pub(crate) fn promoted(wal: Vec<u8>, layout: Layout, timeline: Timeline) -> Self {
        let mut scanner = RecordScanner::at_segment_start(CONTEXT, START);
        let mut ends = vec![START];
        for piece in wal.chunks(8) {
            scanner.feed(piece).expect("only whole logs are promoted");
            if scanner.record_end() != *ends.last().expect("the start is there") {
                ends.push(scanner.record_end());
            }
        }
        let base = START.advance(wal.len() as u64);
        let prev = scanner.last_record_start().unwrap_or(Lsn(START.0 - 8));
        let builder = WalBuilder::new(CONTEXT, PageMagic::POSTGRES_15, timeline.tli, base, prev);
        Self { wal, ends, builder, layout, base, timeline, led: None }
    }

    /// Writes and flushes one record with random content.
    pub(crate) fn write(&mut self, rng: &mut SmallRng) {
        let appended = match rng.random_range(0..100) {
            _ if self.layout == Layout::Equal => self.record(rng, RECORD_BYTES_MAX),
            0 => self.builder.switch(),
            1 => self.builder.overwrite_contrecord(20_000, 1),
            2 => self.record(rng, LARGE_RECORD_BYTES_MAX),
            _ => self.record(rng, RECORD_BYTES_MAX),
        };
        self.wal.extend_from_slice(&appended.bytes);
        self.ends.push(appended.range.end);
    }

    /// Writes and flushes one ordinary record.
    pub(crate) fn write_plain(&mut self, rng: &mut SmallRng) {
        let appended = self.record(rng, RECORD_BYTES_MAX);
        self.wal.extend_from_slice(&appended.bytes);
        self.ends.push(appended.range.end);
    }

    /// WAL without the last `records` records.
    pub(crate) fn without_last_records(&self, records: usize) -> &[u8] {
        let end = self.ends.iter().rev().nth(records).copied().unwrap_or(START);
        self.slice(START, end)
    }

    fn record(&mut self, rng: &mut SmallRng, bytes_max: usize) -> wal_format::Appended {
        // Few different lengths, so that rival logs often have records at the same positions.
        let length = match self.layout {
            Layout::Mixed => (rng.random_range(8..bytes_max) / 64 + 1) * 64,
            Layout::Equal => EQUAL_PAYLOAD_BYTES,
        };
        let mut payload = vec![0; length];
        rng.fill_bytes(&mut payload[..8]);
        self.builder.record(1, 0, &payload)
    }

    /// End of the flushed WAL.
    pub(crate) fn flush_lsn(&self) -> Lsn {
        START.advance(self.wal.len() as u64)
    }

    /// The bytes `[from, to)`.
    pub(crate) fn read(&self, from: Lsn, to: Lsn) -> Bytes {
        Bytes::copy_from_slice(self.slice(from, to))
    }

    /// The bytes `[from, to)`, which must be flushed.
    pub(crate) fn slice(&self, from: Lsn, to: Lsn) -> &[u8] {
        &self.wal[from.bytes_since(START) as usize..to.bytes_since(START) as usize]
    }

    /// True when a record ends at `lsn`.
    pub(crate) fn is_record_end(&self, lsn: Lsn) -> bool {
        self.ends.binary_search(&lsn).is_ok()
    }

    /// Description for a violation: timeline, base and the record ends around `lsn`.
    pub(crate) fn describe(&self, lsn: Lsn) -> String {
        let above = self.ends.partition_point(|end| *end <= lsn);
        let around = &self.ends[above.saturating_sub(2)..(above + 2).min(self.ends.len())];
        format!("{:?} from {} on, records end at {around:?}", self.timeline, self.base)
    }

    /// Record ends above `from`, up to `to`.
    pub(crate) fn record_ends(&self, from: Lsn, to: Lsn) -> impl Iterator<Item = Lsn> {
        let first = self.ends.partition_point(|end| *end <= from);
        self.ends[first..].iter().copied().take_while(move |end| *end <= to)
    }

    /// Records that end at or below `lsn`.
    pub(crate) fn records_up_to(&self, lsn: Lsn) -> u64 {
        self.ends.partition_point(|end| *end <= lsn).saturating_sub(1) as u64
    }

    /// True when a log that ends at `end` on timeline `log` may be a prefix of this server's own WAL, as far as
    /// positions tell (PostgreSQL documentation, "Timelines").
    pub(crate) fn continues(&self, end: Lsn, log: Option<Tli>) -> bool {
        let Timeline { tli, fork, .. } = self.timeline;
        let position = PrimaryPosition { tli, flush_lsn: self.flush_lsn() };
        let fork = fork.map(|(parent, at)| TimelineFork { parent, at });
        candidacy::check(position, fork, end, log).is_ok()
    }
}
