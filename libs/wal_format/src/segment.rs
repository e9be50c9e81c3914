//! [`SegmentName`]: parses and writes names of segment files. A name is the timeline, then the segment's number in two
//! halves, each as eight hexadecimal digits (PostgreSQL documentation, "WAL Internals").
//!
//! Not here: suffixes (`.partial`, `.history`) and directories.

use std::fmt;

use thiserror::Error;
use wal_types::{SegmentNumber, SegmentSize, Tli};

/// Digits in a name.
const NAME_DIGITS: usize = 24;

/// Name of a segment's file. It depends on the segment size as well as on the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentName {
    /// Timeline under which the segment was written.
    pub tli: Tli,
    /// Number of the segment.
    pub segment: SegmentNumber,
    /// Size of the segments of the cluster.
    pub size: SegmentSize,
}

impl SegmentName {
    /// Parses a name in upper case, as the server writes it, of a cluster with segments of `size`.
    pub fn parse(name: &str, size: SegmentSize) -> Result<Self, ParseSegmentNameError> {
        let plain = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        if name.len() != NAME_DIGITS || !name.bytes().all(plain) {
            return Err(ParseSegmentNameError);
        }
        let part = |at: usize| u32::from_str_radix(&name[at..at + 8], 16).map_err(|_| ParseSegmentNameError);
        let (tli, high, low) = (part(0)?, u64::from(part(8)?), u64::from(part(16)?));
        if tli == 0 || low >= segments_per_high(size) {
            return Err(ParseSegmentNameError);
        }
        Ok(Self { tli: Tli(tli), segment: high * segments_per_high(size) + low, size })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_high = segments_per_high(self.size);
        write!(f, "{:08X}{:08X}{:08X}", self.tli.0, self.segment / per_high, self.segment % per_high)
    }
}

/// Number of segments in 4 GiB of WAL, the unit of the name's middle part.
fn segments_per_high(size: SegmentSize) -> u64 {
    (1 << 32) / u64::from(size.bytes())
}

/// A text that is not the name of a segment of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not the name of a WAL segment")]
pub struct ParseSegmentNameError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_name_is_the_servers_and_round_trips() {
        for (mib, tli, segment, text) in [
            (16, 1, 1, "000000010000000000000001"),
            (16, 1, 0xff, "0000000100000000000000FF"),
            (16, 2, 0x100, "000000020000000100000000"),
            (1, 0xabc, 0x1fff, "00000ABC0000000100000FFF"),
            (1024, 1, 7, "000000010000000100000003"),
            (16, 1, (1 << 40) - 1, "00000001FFFFFFFF000000FF"),
        ] {
            let size = SegmentSize::new(mib << 20).unwrap();
            let name = SegmentName { tli: Tli(tli), segment, size };
            assert_eq!(name.to_string(), text);
            assert_eq!(SegmentName::parse(text, size), Ok(name));
        }
    }

    #[test]
    fn segment_name_refuses_other_spellings() {
        for text in [
            "",
            "00000001000000000000000",
            "0000000100000000000000010",
            "00000001000000000000000g",
            "00000001000000000000000a",
            "+00000010000000000000001",
            "000000010000000000000100",
            "000000000000000000000001",
            "00000001000000000000001é",
        ] {
            assert!(SegmentName::parse(text, SegmentSize::POSTGRES_DEFAULT).is_err(), "{text:?}");
        }
    }
}
