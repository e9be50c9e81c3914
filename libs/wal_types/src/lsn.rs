//! [`Lsn`]: a byte position in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A byte position in the WAL of one cluster, counted from the cluster's beginning.
///
/// Text form is PostgreSQL's `X/X`: high and low 32 bits in hexadecimal (PostgreSQL documentation, "pg_lsn Type").
/// Zero is never a valid position of WAL and stands for "none" on the wire.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// "No position": what PostgreSQL calls `InvalidXLogRecPtr`.
    pub const INVALID: Self = Self(0);
    /// The highest position that can be represented.
    pub const MAX: Self = Self(u64::MAX);

    /// True unless this is [`Lsn::INVALID`].
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` further on; `None` beyond [`Lsn::MAX`].
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// The position `bytes` further on. Saturates at [`Lsn::MAX`]: positions that come from a peer are compared
    /// afterwards, never trusted.
    #[must_use]
    pub const fn advance(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to here; zero when `earlier` is not earlier.
    pub const fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Rounded up to the next multiple of `unit` (a power of two), saturating.
    #[must_use]
    pub const fn align_up(self, unit: u64) -> Self {
        match self.0.checked_add(unit - 1) {
            Some(raised) => Self(raised & !(unit - 1)),
            None => Self(!(unit - 1)),
        }
    }

    /// Rounded down to a multiple of `unit` (a power of two).
    #[must_use]
    pub const fn align_down(self, unit: u64) -> Self {
        Self(self.0 & !(unit - 1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseLsnError;

impl fmt::Display for ParseLsnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a WAL position: expected two hexadecimal numbers of 1 to 8 digits, as in 0/16B3748")
    }
}

impl std::error::Error for ParseLsnError {}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

/// One half of the text form. `u32::from_str_radix` alone would also take a sign.
fn half(digits: &str) -> Result<u32, ParseLsnError> {
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !plain {
        return Err(ParseLsnError);
    }
    u32::from_str_radix(digits, 16).map_err(|_| ParseLsnError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_round_trips() {
        for (text, value) in [("0/0", 0), ("0/16B3748", 0x16b_3748), ("A/FFFFFFFF", 0xa_ffff_ffff)] {
            assert_eq!(text.parse(), Ok(Lsn(value)));
            assert_eq!(Lsn(value).to_string(), text);
        }
    }

    #[test]
    fn parse_refuses_anything_but_two_hex_numbers() {
        for text in ["", "0", "/", "0/", "/0", "0/0/0", "+1/0", "0/ 1", "000000001/0", "0/G", "-1/0"] {
            assert_eq!(text.parse::<Lsn>(), Err(ParseLsnError), "{text:?}");
        }
    }

    #[test]
    fn align_up_saturates() {
        assert_eq!(Lsn(1).align_up(8), Lsn(8));
        assert_eq!(Lsn(8).align_up(8), Lsn(8));
        assert_eq!(Lsn::MAX.align_up(8), Lsn(u64::MAX - 7));
        assert_eq!(Lsn(15).align_down(8), Lsn(8));
    }
}
