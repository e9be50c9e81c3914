//! [`SqlState`]: the five-character error code, and the codes that this project sends or reacts to.

use std::fmt;

/// An error code (PostgreSQL documentation, Appendix A, "PostgreSQL Error Codes").
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// `00000`
    pub const SUCCESSFUL_COMPLETION: Self = Self(*b"00000");
    /// `08P01`
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    /// `08006`
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    /// `0A000`
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    /// `22021`
    pub const CHARACTER_NOT_IN_REPERTOIRE: Self = Self(*b"22021");
    /// `22023`
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// `26000`
    pub const INVALID_SQL_STATEMENT_NAME: Self = Self(*b"26000");
    /// `28000`
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    /// `28P01`
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// `34000`
    pub const INVALID_CURSOR_NAME: Self = Self(*b"34000");
    /// `3D000`
    pub const INVALID_CATALOG_NAME: Self = Self(*b"3D000");
    /// `42501`
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    /// `42601`
    pub const SYNTAX_ERROR: Self = Self(*b"42601");
    /// `42602`
    pub const INVALID_NAME: Self = Self(*b"42602");
    /// `42622`
    pub const NAME_TOO_LONG: Self = Self(*b"42622");
    /// `42704`
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    /// `42710`
    pub const DUPLICATE_OBJECT: Self = Self(*b"42710");
    /// `53100`
    pub const DISK_FULL: Self = Self(*b"53100");
    /// `53300`
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// `53400`
    pub const CONFIGURATION_LIMIT_EXCEEDED: Self = Self(*b"53400");
    /// `55000`
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// `55006`
    pub const OBJECT_IN_USE: Self = Self(*b"55006");
    /// `57014`
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    /// `57P01`
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// `57P03`
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// `58P01`
    pub const UNDEFINED_FILE: Self = Self(*b"58P01");
    /// `58030`
    pub const IO_ERROR: Self = Self(*b"58030");
    /// `XX000`
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");
    /// `XX001`
    pub const DATA_CORRUPTED: Self = Self(*b"XX001");

    /// The code in `text`; `None` unless it is five upper-case letters or digits.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let code: [u8; 5] = text.try_into().ok()?;
        code.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()).then_some(Self(code))
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstate_has_five_capitals_or_digits() {
        assert_eq!(SqlState::parse(b"28P01"), Some(SqlState::INVALID_PASSWORD));
        for text in [&b""[..], b"28P0", b"28P011", b"28p01", b"28 01"] {
            assert_eq!(SqlState::parse(text), None);
        }
    }
}
