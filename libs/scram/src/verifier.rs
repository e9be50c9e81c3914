//! [`Verifier`]: form in which PostgreSQL stores a password (`rolpassword` in `pg_authid`), and the mock verifier of a
//! role that does not exist.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::keys::{KEY_BYTES, Key, ScramKeys, hmac_sha256};

/// Bytes of the salts that PostgreSQL makes.
pub(crate) const SALT_BYTES: usize = 16;

/// Longest text of a verifier, in bytes. Usual ones have about 130.
const VERIFIER_BYTES_MAX: usize = 4096;

const PREFIX: &str = "SCRAM-SHA-256$";

/// Stored form of a password. As text: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
#[derive(Debug, Clone)]
pub struct Verifier {
    pub(crate) iterations: NonZeroU32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: Key,
    pub(crate) server_key: Key,
}

/// Error in the text of a verifier. Does not repeat the text, which may be a password put there by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// The text is of another kind, or empty.
    #[error("verifier does not begin with {PREFIX}")]
    OtherMethod,
    /// Iterations, salt and keys are not where they belong, or the text is too long.
    #[error("verifier is not {PREFIX}<iterations>:<salt>$<StoredKey>:<ServerKey>")]
    Shape,
    /// The iterations are not a number, or out of range.
    #[error("verifier's number of iterations is not between 1 and 2147483647")]
    Iterations,
    /// Salt or key is not base64, the salt is empty, or a key is not of 32 bytes.
    #[error("verifier's salt or one of its keys is malformed")]
    Encoding,
}

impl Verifier {
    /// Makes the verifier of a password. Blocks for milliseconds of PBKDF2: never call it on an async thread.
    pub fn from_password(password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        let keys = ScramKeys::derive(password.as_bytes(), salt, iterations);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: keys.client_key.hash(),
            server_key: keys.server_key,
        }
    }

    /// Returns the keys of the password if it is the right one. Blocks for as many [`iterations`](Self::iterations) of
    /// PBKDF2 as the verifier has, a number that the caller has to limit: never call it on an async thread.
    pub fn check_password(&self, password: &[u8]) -> Option<ScramKeys> {
        let keys = ScramKeys::derive(password, &self.salt, self.iterations);
        bool::from(keys.client_key.hash().ct_eq(&self.stored_key)).then_some(keys)
    }

    /// Iterations of PBKDF2 that a login costs.
    pub const fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// Makes the verifier of a role that does not exist. Salt and iterations look real and are the same at every
    /// attempt, so that a client cannot find out which roles exist. No password fits: the keys are no hashes of a
    /// known password.
    pub fn mock(secret: &[u8], endpoint: &str, role: &[u8], iterations: NonZeroU32) -> Self {
        // The length keeps apart pairs with equal concatenation, such as ("main", "app") and ("mai", "napp").
        let length = (endpoint.len() as u64).to_be_bytes();
        let derive =
            |purpose: &str| hmac_sha256(secret, &[purpose.as_bytes(), &length, endpoint.as_bytes(), role]);
        Self {
            iterations,
            salt: derive("mock salt")[..SALT_BYTES].to_vec(),
            stored_key: Key::new(derive("mock stored key")),
            server_key: Key::new(derive("mock server key")),
        }
    }
}

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > VERIFIER_BYTES_MAX {
            return Err(VerifierError::Shape);
        }

        let rest = text.strip_prefix(PREFIX).ok_or(VerifierError::OtherMethod)?;
        let (rounds, keys) = rest.split_once('$').ok_or(VerifierError::Shape)?;
        let (iterations, salt) = rounds.split_once(':').ok_or(VerifierError::Shape)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(VerifierError::Shape)?;

        let iterations = iterations.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
        let iterations = iterations.and_then(NonZeroU32::new).ok_or(VerifierError::Iterations)?;
        let salt = BASE64.decode(salt).map_err(|_| VerifierError::Encoding)?;
        if salt.is_empty() {
            return Err(VerifierError::Encoding);
        }
        Ok(Self {
            iterations,
            salt,
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
        })
    }
}

fn decode_key(text: &str) -> Result<Key, VerifierError> {
    let bytes = BASE64.decode(text).map_err(|_| VerifierError::Encoding)?;
    let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| VerifierError::Encoding)?;
    Ok(Key::new(bytes))
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored_key, server_key] =
            [&self.salt[..], self.stored_key.as_bytes(), self.server_key.as_bytes()]
                .map(|bytes| BASE64.encode(bytes));
        write!(f, "{PREFIX}{}:{salt}${stored_key}:{server_key}", self.iterations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::ITERATIONS_DEFAULT;

    /// Verifier of the password `foobar` in `pg_authid` of PostgreSQL 15.
    const FOOBAR: &str = "SCRAM-SHA-256$4096:2i0EAVfwP1kQr/0xvOuoZw==$36aGuKbCg1/9iLj8nJ9qJCGzLxPMsn7Ck0IamkMFNMk=:\
         hGMITnlbDLBdMOth621nj+R5YTm5cWAF7tPCU4DMhhY=";

    #[test]
    fn from_password_matches_postgres() {
        let stored: Verifier = FOOBAR.parse().unwrap();
        assert_eq!(Verifier::from_password("foobar", &stored.salt, stored.iterations).to_string(), FOOBAR);
    }

    #[test]
    fn check_password_accepts_only_the_password() {
        let stored: Verifier = FOOBAR.parse().unwrap();
        let keys = stored.check_password(b"foobar").unwrap();
        assert!(bool::from(keys.server_key.ct_eq(&stored.server_key)));
        for wrong in [&b""[..], b"foobaz", b"foobar ", b"\xff"] {
            assert!(stored.check_password(wrong).is_none(), "{wrong:?}");
        }
        assert!(
            Verifier::mock(b"secret", "main", b"app", NonZeroU32::MIN).check_password(b"foobar").is_none()
        );
    }

    #[test]
    fn from_str_refuses_malformed_verifiers() {
        let key = BASE64.encode([7; 32]);
        for (text, expected) in [
            (String::new(), VerifierError::OtherMethod),
            ("md55f4dcc3b5aa765d61d8327deb882cf99".into(), VerifierError::OtherMethod),
            ("hunter2".into(), VerifierError::OtherMethod),
            (PREFIX.into(), VerifierError::Shape),
            (format!("{PREFIX}4096:c2FsdA==${key}"), VerifierError::Shape),
            (format!("{PREFIX}4096${key}:{key}"), VerifierError::Shape),
            (format!("{PREFIX}0:c2FsdA==${key}:{key}"), VerifierError::Iterations),
            (format!("{PREFIX}-1:c2FsdA==${key}:{key}"), VerifierError::Iterations),
            (format!("{PREFIX}4294967295:c2FsdA==${key}:{key}"), VerifierError::Iterations),
            (format!("{PREFIX}4096:${key}:{key}"), VerifierError::Encoding),
            (format!("{PREFIX}4096:salt!${key}:{key}"), VerifierError::Encoding),
            (format!("{PREFIX}4096:c2FsdA==$c2hvcnQ=:{key}"), VerifierError::Encoding),
            (format!("{PREFIX}4096:c2FsdA==${key}:{key}:"), VerifierError::Encoding),
            (format!("{PREFIX}4096:{}${key}:{key}", "A".repeat(5000)), VerifierError::Shape),
        ] {
            assert_eq!(text.parse::<Verifier>().unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn mock_is_stable_and_looks_real() {
        let mock =
            |endpoint, role: &str| Verifier::mock(b"secret", endpoint, role.as_bytes(), ITERATIONS_DEFAULT);
        assert_eq!(mock("main", "app").to_string(), mock("main", "app").to_string());
        assert_eq!(
            (mock("main", "app").iterations, mock("main", "app").salt.len()),
            (ITERATIONS_DEFAULT, 16)
        );
        for (endpoint, role) in [("main", "app2"), ("mai", "napp"), ("other", "app")] {
            assert_ne!(mock(endpoint, role).salt, mock("main", "app").salt);
        }
        assert_ne!(
            Verifier::mock(b"other", "main", b"app", ITERATIONS_DEFAULT).salt,
            mock("main", "app").salt
        );
    }

    #[test]
    fn debug_hides_keys() {
        let shown = format!("{:?}", FOOBAR.parse::<Verifier>().unwrap());
        assert!(shown.contains("stored_key: Key(..)"), "{shown}");
    }
}
