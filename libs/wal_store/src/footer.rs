//! [`Footer`]: the acknowledged position, written behind each segment's WAL.
//!
//! A checksum cannot tell a batch that a power failure tore from a sector that rotted after it was acknowledged: both
//! end the scan. The footer can. It is written with the same `fdatasync` as a batch, and holds the position that was
//! acknowledged **before** that batch. So a log that ends below it has lost WAL that proposers rely on.
//!
//! ```text
//! page of 4 KiB behind the WAL │ slot 0 │ … │ slot 1 │ …      the newer sequence wins; slot = sequence % 2
//!                              0        100  2048     2148
//! ```
//!
//! A slot lies inside one sector, and the slots are written in turn, so a torn write damages one at most. The first slot
//! is whole from the moment that the segment's file has its name. So a crash never leaves two damaged slots.

use consensus::Lineage;
use wal_types::{Lsn, SegmentNumber, TenantTimelineId, Term};

use crate::disk::SECTOR_BYTES;

/// Bytes behind a segment's WAL.
pub(crate) const FOOTER_PAGE_BYTES: u64 = 4096;
/// Bytes of one slot, the checksum included.
pub(crate) const FOOTER_SLOT_BYTES: usize = 100;
/// Distance of the two slots in the page.
const SLOT_DISTANCE_BYTES: usize = 2048;
const MAGIC: [u8; 8] = *b"WALFOOT1";

const _: () = assert!(FOOTER_SLOT_BYTES <= SECTOR_BYTES && SLOT_DISTANCE_BYTES.is_multiple_of(SECTOR_BYTES));

/// Content of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Log that the segment belongs to.
    pub(crate) id: TenantTimelineId,
    /// Segment that the footer belongs to.
    pub(crate) segment: SegmentNumber,
    /// Term of the node when the footer was written. The control file is written first, so it knows the term already.
    pub(crate) term: Term,
    /// Rises by one with each footer of the file.
    pub(crate) sequence: u64,
    /// Everything below was acknowledged: a record end at or below the end of this segment.
    pub(crate) acked_upto: Lsn,
}

impl Footer {
    /// The first footer of a new file.
    pub(crate) fn first(lineage: &Lineage, segment: SegmentNumber, term: Term, acked_upto: Lsn) -> Self {
        Self { id: lineage.id, segment, term, sequence: 0, acked_upto }
    }

    /// Offset of the slot in the page, and its bytes.
    pub(crate) fn encode(&self) -> (u64, [u8; FOOTER_SLOT_BYTES]) {
        let mut bytes = Vec::with_capacity(FOOTER_SLOT_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.id.tenant.0);
        bytes.extend_from_slice(&self.id.timeline.0);
        for number in [self.segment, self.term.0, self.sequence, self.acked_upto.0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let mut slot = [0; FOOTER_SLOT_BYTES];
        slot[..bytes.len()].copy_from_slice(&bytes);
        let checksum = crc32c::crc32c(&slot[..FOOTER_SLOT_BYTES - 4]);
        slot[FOOTER_SLOT_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        (self.sequence % 2 * SLOT_DISTANCE_BYTES as u64, slot)
    }

    /// The newest whole slot of a page that belongs to this segment; `None` when both are damaged.
    pub(crate) fn newest(
        page: &[u8; FOOTER_PAGE_BYTES as usize],
        lineage: &Lineage,
        segment: SegmentNumber,
    ) -> Option<Self> {
        let end = lineage.segment_size.start_of(segment.saturating_add(1));
        (0..2)
            .filter_map(|slot| {
                let at = slot as usize * SLOT_DISTANCE_BYTES;
                let footer = Self::decode(page[at..].first_chunk()?)?;
                let belongs = footer.id == lineage.id
                    && footer.segment == segment
                    && footer.sequence % 2 == slot
                    && footer.acked_upto <= end;
                belongs.then_some(footer)
            })
            .max_by_key(|footer| footer.sequence)
    }

    fn decode(slot: &[u8; FOOTER_SLOT_BYTES]) -> Option<Self> {
        let (body, checksum) = slot.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) || body[..8] != MAGIC {
            return None;
        }
        let id = |at: usize| body[at..].first_chunk::<16>().copied();
        let number = |at: usize| body[at..].first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        Some(Self {
            id: TenantTimelineId {
                tenant: wal_types::TenantId(id(8)?),
                timeline: wal_types::TimelineId(id(24)?),
            },
            segment: number(40)?,
            term: Term(number(48)?),
            sequence: number(56)?,
            acked_upto: Lsn(number(64)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use consensus::Dialect;
    use wal_types::{SegmentSize, SystemId, TenantId, TimelineId, Tli};

    use super::*;

    fn lineage() -> Lineage {
        Lineage {
            id: TenantTimelineId { tenant: TenantId([1; 16]), timeline: TimelineId([2; 16]) },
            dialect: Dialect::Holdfast,
            system_id: SystemId(7),
            pg_version: 150_018,
            segment_size: SegmentSize::new(16 * 1024).unwrap(),
            start_lsn: Lsn(0x4000),
            start_tli: Tli::FIRST,

            birth: None,
            start_history: None,
        }
    }

    fn page(footers: &[Footer]) -> [u8; FOOTER_PAGE_BYTES as usize] {
        let mut page = [0; FOOTER_PAGE_BYTES as usize];
        for footer in footers {
            let (at, slot) = footer.encode();
            page[at as usize..at as usize + slot.len()].copy_from_slice(&slot);
        }
        page
    }

    fn footer(sequence: u64, acked_upto: u64) -> Footer {
        Footer { sequence, ..Footer::first(&lineage(), 3, Term(9), Lsn(acked_upto)) }
    }

    #[test]
    fn footer_newest_skips_a_torn_slot() {
        let (old, new) = (footer(4, 0xC100), footer(5, 0xC200));
        let mut both = page(&[old, new]);
        assert_eq!(Footer::newest(&both, &lineage(), 3), Some(new));
        both[2048 + 64] ^= 1;
        assert_eq!(Footer::newest(&both, &lineage(), 3), Some(old));
        both[8] ^= 1;
        assert_eq!(Footer::newest(&both, &lineage(), 3), None);
    }

    #[test]
    fn footer_of_something_else_is_ignored() {
        let good = footer(0, 0xC100);
        let mut other = lineage();
        other.id.timeline = TimelineId([3; 16]);
        assert_eq!(Footer::newest(&page(&[good]), &other, 3), None, "of another log");
        assert_eq!(Footer::newest(&page(&[good]), &lineage(), 4), None, "of another segment");
        assert_eq!(Footer::newest(&page(&[footer(0, 0x10001)]), &lineage(), 3), None, "beyond its segment");
        assert_eq!(Footer::newest(&page(&[]), &lineage(), 3), None, "zeros");
        let mut misplaced = [0; FOOTER_PAGE_BYTES as usize];
        misplaced[2048..2048 + FOOTER_SLOT_BYTES].copy_from_slice(&good.encode().1);
        assert_eq!(Footer::newest(&misplaced, &lineage(), 3), None, "in the other's place");
    }

    #[test]
    fn footer_checksum_covers_every_bit() {
        let good = page(&[footer(0, 0xC100)]);
        for bit in 0..FOOTER_SLOT_BYTES * 8 {
            let mut flipped = good;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Footer::newest(&flipped, &lineage(), 3), None, "bit {bit}");
        }
    }
}
