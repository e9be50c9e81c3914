//! [`StartupPacket`]: the packets that open a connection and have no type byte: StartupMessage, SSLRequest,
//! GSSENCRequest, CancelRequest (PostgreSQL documentation, "Start-up" and "Message Formats").

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::ProtocolError;
use crate::text::Text;
use crate::version::ProtocolVersion;
use crate::wire::{Cursor, Encode, put_text, write_length_prefixed};

/// Longest startup packet in bytes, its length word included: PostgreSQL's own `MAX_STARTUP_PACKET_LENGTH`.
pub const STARTUP_PACKET_BYTES_MAX: usize = 10_000;

/// Shortest startup packet in bytes: the length word and the code.
pub const STARTUP_PACKET_BYTES_MIN: usize = 8;

/// Longest key of a cancel request in bytes (protocol 3.2; 3.0 has exactly 4).
pub const CANCEL_KEY_BYTES_MAX: usize = 256;

/// Stands in place of the major version in a packet that is a request and opens no session.
const REQUEST_MAJOR: u32 = 1234;
const CANCEL_REQUEST: u32 = REQUEST_MAJOR << 16 | 5678;
const SSL_REQUEST: u32 = REQUEST_MAJOR << 16 | 5679;
const GSSENC_REQUEST: u32 = REQUEST_MAJOR << 16 | 5680;

/// A packet that opens a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupPacket {
    /// Asks for TLS.
    Ssl,
    /// Asks for GSSAPI encryption.
    GssEnc,
    /// Asks to cancel what another connection does.
    Cancel {
        /// Process id from that connection's BackendKeyData.
        pid: i32,
        /// Secret from that connection's BackendKeyData.
        key: Bytes,
    },
    /// Opens a session.
    Startup {
        /// The version that the client asks for; the major is 3.
        version: ProtocolVersion,
        /// User, database and settings.
        params: StartupParams,
    },
}

impl StartupPacket {
    /// Decodes the bytes behind the length word.
    pub fn decode(body: Bytes) -> Result<Self, ProtocolError> {
        let mut cursor = Cursor::new(body);
        let packet = match cursor.u32()? {
            SSL_REQUEST => Self::Ssl,
            GSSENC_REQUEST => Self::GssEnc,
            CANCEL_REQUEST => {
                let pid = cursor.i32()?;
                let key = cursor.read_to_end();
                if key.len() < 4 {
                    return Err(ProtocolError::Truncated);
                }
                if key.len() > CANCEL_KEY_BYTES_MAX {
                    return Err(ProtocolError::TrailingBytes(key.len() - CANCEL_KEY_BYTES_MAX));
                }
                Self::Cancel { pid, key }
            }
            code if ProtocolVersion(code).major() == 3 => {
                Self::Startup { version: ProtocolVersion(code), params: StartupParams::decode(&mut cursor)? }
            }
            code => return Err(ProtocolError::UnsupportedVersion(ProtocolVersion(code))),
        };
        cursor.finish().map(|()| packet)
    }
}

impl Encode for StartupPacket {
    fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        write_length_prefixed(out, |out| {
            match self {
                Self::Ssl => out.put_u32(SSL_REQUEST),
                Self::GssEnc => out.put_u32(GSSENC_REQUEST),
                Self::Cancel { pid, key } => {
                    out.put_u32(CANCEL_REQUEST);
                    out.put_i32(*pid);
                    out.put_slice(key);
                }
                Self::Startup { version, params } => {
                    out.put_u32(version.0);
                    params.encode(out);
                }
            }
            Ok(())
        })
    }
}

/// Names and values of the parameters of a startup packet, in the order in which the client sent them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartupParams(Vec<(Text, Text)>);

impl StartupParams {
    /// The value of `name`. When a client repeats a name the last value counts, as in PostgreSQL.
    pub fn get(&self, name: &str) -> Option<&Text> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// All pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, &Text)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Removes the parameters for whose name `remove` is true, and returns these names.
    pub fn remove_names(&mut self, mut remove: impl FnMut(&Text) -> bool) -> Vec<Text> {
        self.0.extract_if(.., |(name, _)| remove(name)).map(|(name, _)| name).collect()
    }

    fn encode(&self, out: &mut BytesMut) {
        // An empty name would end the list.
        for (name, value) in self.0.iter().filter(|(name, _)| !name.is_empty()) {
            put_text(out, name);
            put_text(out, value);
        }
        out.put_u8(0);
    }

    fn decode(cursor: &mut Cursor) -> Result<Self, ProtocolError> {
        let mut pairs = Vec::new();
        loop {
            let name = cursor.text()?;
            if name.is_empty() {
                return Ok(Self(pairs));
            }
            pairs.push((name, cursor.text()?));
        }
    }
}

impl<N: Into<Text>, V: Into<Text>> FromIterator<(N, V)> for StartupParams {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Splits an `options` parameter into words as PostgreSQL does: white space ends a word, a backslash makes the next
/// character part of the word (PostgreSQL documentation, libpq, `options`).
pub fn option_words(options: &str) -> Vec<String> {
    let unescaped = |word: &str| {
        let mut text = String::with_capacity(word.len());
        let mut chars = word.chars();
        while let Some(next) = chars.next() {
            match next {
                // A backslash at the very end is dropped.
                '\\' => text.extend(chars.next()),
                _ => text.push(next),
            }
        }
        text
    };
    // A word ends before white space or at the end, never inside a character.
    option_word_ranges(options.as_bytes()).map(|word| unescaped(&options[word])).collect()
}

/// The byte ranges of the words of an `options` parameter, split as [`option_words`] does. Backslashes stay: for words that
/// another server reads again.
pub fn option_word_ranges(options: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += options[at..].iter().position(|byte| !is_space(*byte))?;
        let start = at;
        while at < options.len() && !is_space(options[at]) {
            at += if options[at] == b'\\' { 2 } else { 1 };
        }
        at = at.min(options.len());
        Some(start..at)
    })
}

/// C's `isspace`, which includes the vertical tab.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(body: &'static [u8]) -> Result<StartupPacket, ProtocolError> {
        StartupPacket::decode(Bytes::from_static(body))
    }

    #[test]
    fn startup_packet_kind_follows_its_code() {
        assert_eq!(decode(&[4, 210, 22, 47]), Ok(StartupPacket::Ssl));
        assert_eq!(decode(&[4, 210, 22, 48]), Ok(StartupPacket::GssEnc));
        let cancel = StartupPacket::Cancel { pid: 7, key: Bytes::from_static(b"abcd") };
        assert_eq!(decode(b"\x04\xd2\x16\x2e\0\0\0\x07abcd"), Ok(cancel));
    }

    #[test]
    fn malformed_startup_packet_is_refused() {
        for (body, expected) in [
            (&b""[..], ProtocolError::Truncated),
            (b"\0\x03\0", ProtocolError::Truncated),
            (b"\0\x03\0\0", ProtocolError::UnterminatedText),
            (b"\0\x03\0\0user\0me\0", ProtocolError::UnterminatedText),
            (b"\0\x03\0\0user\0\0\0\0", ProtocolError::TrailingBytes(1)),
            (b"\0\x02\0\0whatever", ProtocolError::UnsupportedVersion(ProtocolVersion(2 << 16))),
            (b"\x04\xd2\x16\x2f\0", ProtocolError::TrailingBytes(1)),
            (b"\x04\xd2\x16\x2e\0\0\0\x07abc", ProtocolError::Truncated),
        ] {
            assert_eq!(decode(body), Err(expected), "{body:?}");
        }
    }

    #[test]
    fn last_of_repeated_parameters_counts() {
        let params = StartupParams::from_iter([("user", "first"), ("database", "db"), ("user", "last")]);
        assert_eq!(params.get("user"), Some(&"last".into()));
        assert_eq!(params.get("options"), None);
    }

    #[test]
    fn option_words_split_as_postgres_does() {
        for (options, raw, escaped) in [
            ("", &[][..], &[][..]),
            (" \t\u{b} ", &[], &[]),
            ("-c a=b", &["-c", "a=b"], &["-c", "a=b"]),
            (r"-c a=b\ c  d", &["-c", r"a=b\ c", "d"], &["-c", "a=b c", "d"]),
            (r"a\\b end\", &[r"a\\b", r"end\"], &[r"a\b", "end"]),
        ] {
            let words: Vec<&str> =
                option_word_ranges(options.as_bytes()).map(|word| &options[word]).collect();
            assert_eq!(words, raw, "{options:?}");
            assert_eq!(option_words(options), escaped, "{options:?}");
        }
    }
}
