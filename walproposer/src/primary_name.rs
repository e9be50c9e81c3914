//! [`PrimaryName`]: the operator's name of the one primary whose WAL a log takes.
//!
//! On the wire and on disk it is 16 bytes ([`PrimaryId`]): the characters of the name, padded with zeros. An id that is not
//! a name, because another program made it, is printed and parsed as 32 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use wal_types::PrimaryId;

/// Longest name.
const NAME_BYTES_MAX: usize = 16;

/// A name of 1 to 16 letters, digits, `.`, `_` and `-`; or any 16 bytes, written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrimaryName(pub PrimaryId);

/// The text is neither a name nor 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-', as in pg-a")]
pub struct PrimaryNameError;

const fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

impl FromStr for PrimaryName {
    type Err = PrimaryNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(id) = text.parse::<PrimaryId>() {
            return Ok(Self(id));
        }
        let mut id = [0; NAME_BYTES_MAX];
        let bytes = id.get_mut(..text.len()).ok_or(PrimaryNameError)?;
        if bytes.is_empty() || !text.bytes().all(is_allowed) {
            return Err(PrimaryNameError);
        }
        bytes.copy_from_slice(text.as_bytes());
        Ok(Self(PrimaryId(id)))
    }
}

impl fmt::Display for PrimaryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = &self.0.0;
        let length = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        match std::str::from_utf8(&bytes[..length]) {
            Ok(name) if length > 0 && name.bytes().all(is_allowed) => f.write_str(name),
            Ok(_) | Err(_) => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primary_name_prints_as_it_was_parsed() {
        for text in ["a", "pg-a.example_1", "0123456789abcdef", "00112233445566778899aabbccddeeff"] {
            let name: PrimaryName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
        }
        let hex = "70672d61000000000000000000000000";
        assert_eq!(hex.parse::<PrimaryName>().unwrap().to_string(), "pg-a");
    }

    #[test]
    fn primary_name_refuses_other_characters() {
        for text in ["", "pg a", "pg\0a", "p\u{e9}", "0123456789abcdefg", "pg'"] {
            assert_eq!(text.parse::<PrimaryName>(), Err(PrimaryNameError), "{text:?}");
        }
    }
}
