//! [`Token`]: the secret that servers want as `Authorization: Bearer`.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use hyper::header::HeaderValue;
use thiserror::Error;

/// Bytes that are read of a token file. Servers take tokens of 1024 characters.
const TOKEN_FILE_BYTES_MAX: u64 = 16 * 1024;

/// A token. It is never shown.
#[derive(Clone)]
pub(crate) struct Token(HeaderValue);

/// A token file that cannot be used.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    #[error("{0}")]
    Read(#[from] std::io::Error),
    #[error("expected one line with a token of printable characters")]
    NotAToken,
}

impl Token {
    /// Reads the token, without surrounding white space.
    pub(crate) fn read(path: &Path) -> Result<Self, TokenError> {
        let mut text = String::new();
        fs::File::open(path)?.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text)?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::NotAToken);
        }
        let mut header =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| TokenError::NotAToken)?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    /// The value of the header `Authorization`.
    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}
