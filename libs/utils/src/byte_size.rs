//! [`ByteSize`]: reads a size in bytes from a command line or a file, written as in PostgreSQL's settings. Called by the
//! flags of each server.

use std::fmt;
use std::str::FromStr;

/// Units and the binary digits that each adds, the smallest first. As in PostgreSQL they are powers of 1024.
const UNITS: [(&str, u32); 5] = [("B", 0), ("kB", 10), ("MB", 20), ("GB", 30), ("TB", 40)];

/// A number of bytes: `0`, `65536`, `64kB`, `16MB`, `1 GB`. Shown in the largest unit that divides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A text that is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSizeError;

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = if unit.is_empty() { "B" } else { unit.trim_start_matches(' ') };

        let (_, shift) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(ByteSizeError)?;
        let number: u64 = number.parse().map_err(|_| ByteSizeError)?;
        number.checked_mul(1 << shift).map(Self).ok_or(ByteSizeError)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match UNITS.iter().skip(1).rev().find(|(_, shift)| divides(*shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for ByteSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected a number of bytes, or one with a unit (kB, MB, GB, TB; powers of 1024), such as 16GB",
        )
    }
}

impl std::error::Error for ByteSizeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_size_reads_postgresql_units() {
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("17", 17, "17"),
            ("3 B", 3, "3"),
            ("64kB", 64 << 10, "64kB"),
            ("1024kB", 1 << 20, "1MB"),
            ("2 MB", 2 << 20, "2MB"),
            ("16GB", 16 << 30, "16GB"),
            ("1TB", 1 << 40, "1TB"),
            ("1025", 1025, "1025"),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
            assert_eq!(ByteSize(bytes).to_string(), shown);
        }
    }

    #[test]
    fn byte_size_refuses_other_text() {
        for text in ["", "GB", "-1", "1 GiB", "1gb", "1.5GB", "1GB ", " 1", "1\tMB", "99999999999TB"] {
            assert_eq!(text.parse::<ByteSize>(), Err(ByteSizeError), "{text:?}");
        }
    }
}
