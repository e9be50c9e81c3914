//! [`Token`]: the secret that clients of both ports have to present. A client that may read WAL may read the database, so
//! there is one role: all or nothing.

use std::fmt;

/// Longest token in bytes.
pub(crate) const TOKEN_BYTES_MAX: usize = 1024;

/// A secret of 1 to 1024 printable ASCII characters without blanks.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl Token {
    /// A token of this text. `None` when it cannot be sent both as a password and as an HTTP header.
    pub fn new(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        ((1..=TOKEN_BYTES_MAX).contains(&text.len()) && printable).then(|| Self(text.as_bytes().into()))
    }

    /// True when `presented` is the token. The time does not depend on which byte differs.
    pub fn matches(&self, presented: &[u8]) -> bool {
        if presented.len() != self.0.len() {
            return false;
        }
        let difference = self.0.iter().zip(presented).fold(0, |found, (own, other)| found | (own ^ other));
        std::hint::black_box(difference) == 0
    }

    /// True when `header`, the value of HTTP's `Authorization`, has the token (RFC 6750 section 2.1).
    pub fn matches_bearer(&self, header: Option<&[u8]>) -> bool {
        let scheme_and_token = header.and_then(|header| header.split_at_checked("bearer ".len()));
        scheme_and_token.is_some_and(|(scheme, presented)| {
            scheme.eq_ignore_ascii_case(b"bearer ") && self.matches(presented)
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_matches_only_whole() {
        let token = Token::new("s3cret").unwrap();
        assert!(token.matches(b"s3cret"));
        for wrong in [&b""[..], b"s3cre", b"s3crets", b"S3cret", b"s3cret\0"] {
            assert!(!token.matches(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn matches_bearer_needs_scheme_and_token() {
        let token = Token::new("s3cret").unwrap();
        for (header, matches) in [
            (Some(&b"Bearer s3cret"[..]), true),
            (Some(b"bearer s3cret"), true),
            (Some(b"Basic s3cret"), false),
            (Some(b"Bearer  s3cret"), false),
            (Some(b"Bear"), false),
            (None, false),
        ] {
            assert_eq!(token.matches_bearer(header), matches, "{header:?}");
        }
    }

    #[test]
    fn token_refuses_unsendable_text() {
        for text in ["", "two words", "tab\t", "umläut", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
            assert!(Token::new(text).is_none(), "{text:?}");
        }
    }
}
