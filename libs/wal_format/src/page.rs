//! Page header: decodes and encodes the header of a WAL page, 24 bytes, or 40 on the first page of a segment
//! (`XLogPageHeaderData`, `XLogLongPageHeaderData` in PostgreSQL's `access/xlog_internal.h`).
//!
//! Only the form is checked here. [`crate::page_chain`] checks whether a page belongs where it was found.

use thiserror::Error;
use wal_types::{Lsn, SegmentSize, SystemId, Tli};

/// Size of a WAL page (`XLOG_BLCKSZ`). Only builds from source change it, and those are not supported.
pub const PAGE_BYTES: usize = 8192;
/// Length of the header of every page but the first of a segment.
pub const PAGE_HEADER_SHORT_BYTES: usize = 24;
/// Length of the header of the first page of a segment.
pub const PAGE_HEADER_LONG_BYTES: usize = 40;

/// Length of the header of the page that holds `lsn`.
pub const fn page_header_bytes(segment_size: SegmentSize, lsn: Lsn) -> usize {
    if (segment_size.offset_of(lsn) as usize) < PAGE_BYTES {
        PAGE_HEADER_LONG_BYTES
    } else {
        PAGE_HEADER_SHORT_BYTES
    }
}

/// Header of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// Magic number of the major version that wrote the page.
    pub magic: PageMagic,
    /// Flags, without that of the long header, for which [`PageHeader::long`] stands.
    pub flags: PageFlags,
    /// PostgreSQL timeline on which the page was begun.
    pub tli: Tli,
    /// Position of the page's first byte.
    pub address: Lsn,
    /// Bytes that are missing of the record that the page before left open; they are on this page and later ones.
    pub remaining_bytes: u32,
    /// The additional fields of the first page of a segment.
    pub long: Option<LongHeader>,
}

/// The 16 additional bytes on the first page of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongHeader {
    /// System identifier of the cluster.
    pub system_id: SystemId,
    /// Size of a segment, as written; not checked yet.
    pub segment_bytes: u32,
    /// Size of a page, as written; not checked yet.
    pub page_bytes: u32,
}

impl PageHeader {
    /// Decodes the header at the start of `bytes`, which must hold all of it.
    pub fn parse(bytes: &[u8]) -> Result<Self, PageError> {
        let (short, rest) =
            bytes.split_first_chunk::<PAGE_HEADER_SHORT_BYTES>().ok_or(PageError::Truncated)?;
        let magic = PageMagic::from_wire(u16_at(short, 0))?;
        let flags = PageFlags::from_wire(u16_at(short, 2))?;
        let long = match flags.contains(PageFlags::LONG_HEADER) {
            false => None,
            true => {
                let rest = rest.first_chunk::<16>().ok_or(PageError::Truncated)?;
                Some(LongHeader {
                    system_id: SystemId(u64_at(rest, 0)),
                    segment_bytes: u32_at(rest, 8),
                    page_bytes: u32_at(rest, 12),
                })
            }
        };
        Ok(Self {
            magic,
            flags: flags.without(PageFlags::LONG_HEADER),
            tli: Tli(u32_at(short, 4)),
            address: Lsn(u64_at(short, 8)),
            remaining_bytes: u32_at(short, 16),
            long,
        })
    }

    /// Appends the header to `out`, in the server's byte order.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = match self.long {
            Some(_) => self.flags.with(PageFlags::LONG_HEADER),
            None => self.flags,
        };
        out.extend_from_slice(&self.magic.0.to_le_bytes());
        out.extend_from_slice(&flags.0.to_le_bytes());
        out.extend_from_slice(&self.tli.0.to_le_bytes());
        out.extend_from_slice(&self.address.0.to_le_bytes());
        out.extend_from_slice(&self.remaining_bytes.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        if let Some(long) = self.long {
            out.extend_from_slice(&long.system_id.0.to_le_bytes());
            out.extend_from_slice(&long.segment_bytes.to_le_bytes());
            out.extend_from_slice(&long.page_bytes.to_le_bytes());
        }
    }
}

/// Magic number at the start of every page. Each major version has its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageMagic(u16);

impl PageMagic {
    /// PostgreSQL 14.
    pub const POSTGRES_14: Self = Self(0xd10d);
    /// PostgreSQL 15.
    pub const POSTGRES_15: Self = Self(0xd110);
    /// PostgreSQL 16.
    pub const POSTGRES_16: Self = Self(0xd113);
    /// PostgreSQL 17.
    pub const POSTGRES_17: Self = Self(0xd116);
    /// PostgreSQL 18.
    pub const POSTGRES_18: Self = Self(0xd118);
    /// All known numbers, oldest first.
    pub const ALL: [Self; 5] =
        [Self::POSTGRES_14, Self::POSTGRES_15, Self::POSTGRES_16, Self::POSTGRES_17, Self::POSTGRES_18];

    /// The magic number of a major version; `None` for an unknown version.
    pub fn of_major(major: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|magic| magic.major() == major)
    }

    /// The major version that writes this number.
    pub const fn major(self) -> u32 {
        match self {
            Self::POSTGRES_14 => 14,
            Self::POSTGRES_15 => 15,
            Self::POSTGRES_16 => 16,
            Self::POSTGRES_17 => 17,
            _ => 18,
        }
    }

    fn from_wire(magic: u16) -> Result<Self, PageError> {
        Self::ALL.into_iter().find(|known| known.0 == magic).ok_or(PageError::UnknownMagic(magic))
    }
}

impl std::fmt::Debug for PageMagic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04X} (PostgreSQL {})", self.0, self.major())
    }
}

/// Flags of a page (`xlp_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageFlags(u16);

impl PageFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The page begins with the rest of a record of the page before.
    pub const FIRST_IS_CONTRECORD: Self = Self(1);
    /// The header is the long one.
    pub const LONG_HEADER: Self = Self(2);
    /// Blocks in records that begin on this page are optional.
    pub const BACKUP_BLOCKS_REMOVABLE: Self = Self(4);
    /// The record that was open at the end of the page before is partial; a new one begins here instead.
    pub const FIRST_IS_OVERWRITE_CONTRECORD: Self = Self(8);

    const KNOWN: u16 = 15;

    /// True if all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn from_wire(flags: u16) -> Result<Self, PageError> {
        if flags & !Self::KNOWN == 0 { Ok(Self(flags)) } else { Err(PageError::UnknownFlags(flags)) }
    }
}

/// Why a page header is invalid, or does not belong where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say what each one is")]
pub enum PageError {
    #[error("page header is truncated")]
    Truncated,
    #[error("magic number {0:04X} is not of PostgreSQL 14 to 18")]
    UnknownMagic(u16),
    #[error("info bits {0:04X} include unknown ones")]
    UnknownFlags(u16),
    #[error("magic number {found:?} in a log of {before:?}")]
    MagicChanged { before: PageMagic, found: PageMagic },
    #[error("page header claims position {0}")]
    Address(Lsn),
    #[error("timeline {found} after a page of timeline {before}")]
    TimelineDecreased { before: Tli, found: Tli },
    /// The log has no such timeline.
    #[error("timeline {found} in a log whose highest is timeline {highest}")]
    TimelineAbove { highest: Tli, found: Tli },
    #[error("header length is wrong: long headers are on the first page of a segment, and only there")]
    HeaderLength,
    #[error("database system identifier {found}, expected {expected}")]
    SystemId { expected: SystemId, found: SystemId },
    #[error("segment size of {found} bytes, expected {expected:?}")]
    SegmentSize { expected: SegmentSize, found: u32 },
    #[error("page size of {0} bytes, expected 8192")]
    PageSize(u32),
    #[error("page continues a record with {found} bytes, expected {expected}")]
    RemainingBytes { expected: u32, found: u32 },
    #[error("info bits {flags:?} contradict a record rest of {remaining_bytes} bytes")]
    Contradiction { flags: PageFlags, remaining_bytes: u32 },
}

// Callers pass arrays that are long enough for the offsets.

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: PageHeader = PageHeader {
        magic: PageMagic::POSTGRES_15,
        flags: PageFlags::FIRST_IS_CONTRECORD,
        tli: Tli(3),
        address: Lsn(0x1_0500_0000),
        remaining_bytes: 0x1234,
        long: Some(LongHeader {
            system_id: SystemId(7_710_999_284_697_415_315),
            segment_bytes: 16 << 20,
            page_bytes: 8192,
        }),
    };

    fn encoded(header: &PageHeader) -> Vec<u8> {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        bytes
    }

    #[test]
    fn page_header_round_trips_in_both_lengths() {
        let short = PageHeader { long: None, flags: PageFlags::NONE, remaining_bytes: 0, ..LONG };
        for (header, bytes) in [(LONG, PAGE_HEADER_LONG_BYTES), (short, PAGE_HEADER_SHORT_BYTES)] {
            let wire = encoded(&header);
            assert_eq!(wire.len(), bytes);
            assert_eq!(PageHeader::parse(&wire), Ok(header));
            assert_eq!(PageHeader::parse(&wire[..bytes - 1]), Err(PageError::Truncated));
        }
    }

    #[test]
    fn page_header_has_the_server_layout() {
        let wire = encoded(&LONG);
        assert_eq!(wire[..8], [0x10, 0xd1, 3, 0, 3, 0, 0, 0]);
        assert_eq!(wire[8..16], [0, 0, 0, 5, 1, 0, 0, 0]);
        assert_eq!(wire[16..24], [0x34, 0x12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(wire[32..], [0, 0, 0, 1, 0, 0x20, 0, 0]);
    }

    #[test]
    fn page_header_refuses_unknown_magic_and_flags() {
        let mut wire = encoded(&LONG);
        wire[2] = 0x12;
        assert_eq!(PageHeader::parse(&wire), Err(PageError::UnknownFlags(0x12)));
        wire[0] = 0x11;
        assert_eq!(PageHeader::parse(&wire), Err(PageError::UnknownMagic(0xd111)));
    }

    #[test]
    fn page_magic_and_major_version_match() {
        for major in 14..=18 {
            assert_eq!(PageMagic::of_major(major).map(PageMagic::major), Some(major));
        }
        assert_eq!(PageMagic::of_major(13), None);
    }
}
