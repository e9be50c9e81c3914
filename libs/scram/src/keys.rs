//! Keys, and the few operations on them. Used by both sides of the exchange.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::password::prepare;

/// Bytes of a SHA-256 hash, and so of every key here.
pub(crate) const KEY_BYTES: usize = 32;

/// A key, or a hash that is as secret as one. Neither shown nor compared in a time that depends on it.
#[derive(Clone, Copy)]
pub(crate) struct Key([u8; KEY_BYTES]);

impl Key {
    pub(crate) const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// HMAC with this key.
    pub(crate) fn sign(&self, message: &[u8]) -> Self {
        Self(hmac_sha256(&self.0, &[message]))
    }

    /// StoredKey of a ClientKey.
    pub(crate) fn hash(&self) -> Self {
        Self(Sha256::digest(self.0).into())
    }

    /// A proof of a key and the key of a proof: either is the other with the signature over it.
    pub(crate) fn xor(&self, other: &Self) -> Self {
        let mut bytes = self.0;
        bytes.iter_mut().zip(other.0).for_each(|(byte, other)| *byte ^= other);
        Self(bytes)
    }
}

impl ConstantTimeEq for Key {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What an exchange with a client leaves behind: enough to log in elsewhere with the same verifier, and to tell
/// whether whoever is there has it.
#[derive(Debug, Clone, Copy)]
pub struct ScramKeys {
    pub(crate) client_key: Key,
    pub(crate) server_key: Key,
}

impl ScramKeys {
    /// As somebody has them who knows the password, which is [prepared](super::password::prepare) here. Hashes
    /// `iterations` times: not to be done where others wait.
    pub fn of_password(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(&prepare(password), salt, iterations);
        Self { client_key: salted.sign(b"Client Key"), server_key: salted.sign(b"Server Key") }
    }
}

/// HMAC over the parts, one after the other.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_BYTES] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// `Hi` of RFC 5802, section 2.2, which is PBKDF2 with one block. Milliseconds of work at the usual 4096 rounds.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let mut previous = hmac_sha256(password, &[salt, &1u32.to_be_bytes()]);
    let mut result = Key(previous);
    for _ in 1..iterations {
        previous = hmac_sha256(password, &[&previous]);
        result = result.xor(&Key(previous));
    }
    result
}
