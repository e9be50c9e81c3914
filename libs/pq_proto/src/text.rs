//! [`Text`]: a string as the protocol carries it. Used in the messages of this crate and by their callers.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use crate::error::ProtocolError;

/// Bytes in the client's encoding, without a zero byte (PostgreSQL documentation, "Message Data Types", `String`).
///
/// It is nearly always UTF-8, but a peer may use another encoding, and a message must not be refused for that. A caller
/// that needs characters asks with [`Text::to_str`].
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Bytes);

impl Text {
    /// The empty string.
    pub const EMPTY: Self = Self(Bytes::new());

    /// Keeps `bytes` up to the first zero byte, as a C string with this content would end there. So no text can end its
    /// field early and have its remainder read as the next field.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let mut bytes = bytes.into();
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            bytes.truncate(end);
        }
        Self(bytes)
    }

    /// The characters; an error when the bytes are not UTF-8.
    pub fn to_str(&self) -> Result<&str, ProtocolError> {
        str::from_utf8(&self.0).map_err(|_| ProtocolError::NotUtf8)
    }

    /// The characters for a log or an error message; bytes that are not UTF-8 are replaced.
    pub fn to_str_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// The bytes, without a terminator.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True when there is no character.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_str_lossy(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_at_its_first_zero_byte() {
        assert_eq!(Text::from("user\0database"), "user");
        assert_eq!(Text::from("\0"), Text::EMPTY);
    }

    #[test]
    fn text_keeps_bytes_that_are_not_utf8() {
        let latin1 = Text::new(&b"M\xfcller"[..]);
        assert_eq!(latin1.to_str(), Err(ProtocolError::NotUtf8));
        assert_eq!(latin1.to_str_lossy(), "M\u{fffd}ller");
        assert_eq!(latin1.as_bytes(), b"M\xfcller");
    }
}
