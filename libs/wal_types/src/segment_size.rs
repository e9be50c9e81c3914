//! [`SegmentSize`]: size of the files that WAL is divided into.

use std::fmt;

use crate::Lsn;

/// Bytes of WAL in one segment file: a power of two. PostgreSQL allows 1 MiB to 1 GiB (`initdb --wal-segsize`). Sizes
/// down to 16 KiB (two pages) are accepted, so that a simulation crosses segments often.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

/// Ordinal of a segment: `lsn / segment size`.
pub type SegmentNumber = u64;

impl SegmentSize {
    /// Smallest accepted size, in bytes.
    pub const BYTES_MIN: u32 = 16 * 1024;
    /// Largest accepted size, in bytes.
    pub const BYTES_MAX: u32 = 1024 * 1024 * 1024;
    /// Default of `initdb`: 16 MiB.
    pub const POSTGRES_DEFAULT: Self = Self(16 * 1024 * 1024);

    /// Checks that `bytes` is a power of two in the accepted range.
    pub const fn new(bytes: u32) -> Result<Self, InvalidSegmentSize> {
        if bytes.is_power_of_two() && bytes >= Self::BYTES_MIN && bytes <= Self::BYTES_MAX {
            Ok(Self(bytes))
        } else {
            Err(InvalidSegmentSize(bytes))
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// The segment that holds the byte at `lsn`.
    pub const fn segment_of(self, lsn: Lsn) -> SegmentNumber {
        lsn.0 / self.0 as u64
    }

    /// Distance of `lsn` from the start of its segment, in bytes.
    pub const fn offset_of(self, lsn: Lsn) -> u32 {
        (lsn.0 & (self.0 as u64 - 1)) as u32
    }

    /// First position of `segment`, saturating (a segment number from a file name may be anything).
    pub const fn start_of(self, segment: SegmentNumber) -> Lsn {
        Lsn(segment.saturating_mul(self.0 as u64))
    }
}

impl fmt::Debug for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// The number of bytes is no WAL segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidSegmentSize(pub u32);

impl fmt::Display for InvalidSegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not a WAL segment size: {} bytes; expected a power of two from {} to {} bytes",
            self.0,
            SegmentSize::BYTES_MIN,
            SegmentSize::BYTES_MAX
        )
    }
}

impl std::error::Error for InvalidSegmentSize {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_accepts_powers_of_two_in_range() {
        for bytes in [16 * 1024, 1 << 20, 16 << 20, 1 << 30] {
            assert!(SegmentSize::new(bytes).is_ok(), "{bytes}");
        }
        for bytes in [0, 1, 8192, 3 << 20, (16 << 20) + 1, 1 << 31] {
            assert_eq!(SegmentSize::new(bytes), Err(InvalidSegmentSize(bytes)));
        }
    }

    #[test]
    fn segment_start_plus_offset_is_the_position() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let lsn = Lsn(0x1_0030_0123);
        assert_eq!(size.start_of(size.segment_of(lsn)).advance(size.offset_of(lsn).into()), lsn);
    }
}
