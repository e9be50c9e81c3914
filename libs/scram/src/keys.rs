//! Keys of a password (RFC 5802, section 3) and the operations on them. Used by both sides of the exchange.

use std::fmt;
use std::num::NonZeroU32;

use ring::{digest, hmac, pbkdf2};
use subtle::{Choice, ConstantTimeEq};

use super::saslprep::prepare;

/// Iterations of PBKDF2 in PostgreSQL's verifiers, unless `scram_iterations` is set.
pub const ITERATIONS_DEFAULT: NonZeroU32 = NonZeroU32::new(4096).unwrap();
/// Most iterations that a login may cost. More would take a processor for seconds.
pub const ITERATIONS_MAX: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();

/// Bytes of a SHA-256 hash and of every key.
pub(crate) const KEY_BYTES: usize = 32;

/// A key, or a hash that is as secret as one. `Debug` does not show it, and comparisons take constant time.
#[derive(Clone, Copy)]
pub(crate) struct Key([u8; KEY_BYTES]);

impl Key {
    pub(crate) const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// HMAC-SHA-256 of the message under this key.
    pub(crate) fn sign(&self, message: &[u8]) -> Self {
        Self(hmac_sha256(&self.0, &[message]))
    }

    /// SHA-256 of the key: the StoredKey of a ClientKey.
    pub(crate) fn hash(&self) -> Self {
        Self(to_array(digest::digest(&digest::SHA256, &self.0).as_ref()))
    }

    /// Exclusive or. ClientKey and signature give the proof; proof and signature give the ClientKey.
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

/// ClientKey and ServerKey of a password for one salt and one number of iterations. With them a client logs in
/// wherever the same verifier is stored, and checks that a server has that verifier.
#[derive(Debug, Clone, Copy)]
pub struct ScramKeys {
    pub(crate) client_key: Key,
    pub(crate) server_key: Key,
}

impl ScramKeys {
    /// Derives the keys of a password, which is normalised with SASLprep first. Blocks for milliseconds of PBKDF2:
    /// never call it on an async thread.
    pub fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        // `Hi` of RFC 5802, section 2.2, is PBKDF2 with one block of output.
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, &prepare(password), &mut salted);
        let salted = Key(salted);
        Self { client_key: salted.sign(b"Client Key"), server_key: salted.sign(b"Server Key") }
    }
}

/// HMAC-SHA-256 of the concatenated parts.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_BYTES] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    to_array(context.sign().as_ref())
}

fn to_array(sha256: &[u8]) -> [u8; KEY_BYTES] {
    sha256.try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys were computed with Python's `hashlib.pbkdf2_hmac` and `hmac`. HMAC hashes a password of more than 64
    /// bytes first.
    #[test]
    fn derived_keys_match_another_implementation() {
        for (password, salt, iterations, client_key, server_key) in [
            (
                &b"pencil"[..],
                &b"salt"[..],
                1,
                "9e4d5d14360707bbd9bc313e0f0ed61254be5ef13070505f4b08815c66027640",
                "51ce030dc411379589e3878d8b228f10ef8c26f568f3851caf8588f678b1cfad",
            ),
            (
                b"pencil",
                &b"sixteen bytes at"[..],
                4096,
                "a210d99e2ea9e57f713ab99b292ae330f943160acbe6384c9a856964d029a011",
                "16e98ee755342016d256fd55465daab30067b08f0d16789d2741f8b7a4efbe84",
            ),
            (
                &[b'x'; 64],
                &b"salt"[..],
                3,
                "2fb48328f44763a2e7994e017c57a1becf3259524b00036a9ad3721611743bcc",
                "80bebd600d4ac5adb1421ba14735b473c0e4ef8c11c268c73eb4f8064b2dd1e1",
            ),
            (
                &[b'x'; 65],
                &b"salt"[..],
                3,
                "e85c344d081fd50ad4a1534a69ba9ec8f4e373b018719ad5635037f8c9972102",
                "3c5827b660c61decfd424828a40d5b661da36904d45d56e49ff3f29061286dbd",
            ),
            (
                b"",
                &b"salt"[..],
                2,
                "f48921798abfe25faec6f3ab9371f2ebddc2c4c63cf7faf1b3e6d27073c31e1e",
                "b2afa3d8065731378b6acc2015dc2b698d92423b5a27354bf30850e370d6ac91",
            ),
        ] {
            let keys = ScramKeys::derive(password, salt, NonZeroU32::new(iterations).unwrap());
            assert_eq!(hex::encode(keys.client_key.as_bytes()), client_key);
            assert_eq!(hex::encode(keys.server_key.as_bytes()), server_key);
        }
    }
}
