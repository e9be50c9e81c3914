//! Client's side: proves a password, or the ClientKey of one, and checks the server's signature.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use subtle::ConstantTimeEq;

use super::keys::{ITERATIONS_MAX, Key, ScramKeys};
use super::messages::{ScramError, ServerFirst, parse_server_final};

/// GS2 header without channel binding: the TLS channel from a relay to its database is not the channel of its client.
const GS2_HEADER: &str = "n,,";

/// Secret that a client logs in with. `Debug` does not show it.
#[derive(Clone)]
pub enum Credentials {
    /// Keys of a password.
    Keys(ScramKeys),
    /// A password, as its user typed it.
    Password(Bytes),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// Derives the keys of a password for the salt and the iterations in `server_first`. Blocks for milliseconds of PBKDF2:
/// never call it on an async thread. More than [`ITERATIONS_MAX`] iterations are refused.
pub fn derive_keys(server_first: &str, password: &[u8]) -> Result<ScramKeys, ScramError> {
    let challenge = ServerFirst::parse(server_first)?;
    if challenge.iterations > ITERATIONS_MAX {
        return Err(ScramError::Unsupported("more than 1000000 iterations"));
    }
    Ok(ScramKeys::derive(password, &challenge.salt, challenge.iterations))
}

/// Exchange whose `client-first-message` is made and whose `server-first-message` has not come.
#[derive(Debug)]
pub struct Exchange {
    message: String,
    nonce: String,
}

/// Exchange whose `client-final-message` is made and whose `server-final-message` has not come.
#[derive(Debug)]
pub struct Proof {
    message: String,
    server_signature: Key,
}

impl Exchange {
    /// Begins an exchange. `nonce` is [`NONCE_BYTES`](crate::NONCE_BYTES) random bytes that are used once.
    pub fn new(nonce: &[u8]) -> Self {
        let nonce = BASE64.encode(nonce);
        Self { message: format!("{GS2_HEADER}n=,r={nonce}"), nonce }
    }

    /// The `client-first-message`.
    pub fn client_first(&self) -> &str {
        &self.message
    }

    /// Answers `server_first` with a proof. Its salt and iterations are not used: `keys` were derived with them.
    pub fn prove(self, server_first: &str, keys: ScramKeys) -> Result<Proof, ScramError> {
        let challenge = ServerFirst::parse(server_first)?;
        let is_longer = challenge.nonce.len() > self.nonce.len();
        if !challenge.nonce.starts_with(&self.nonce) || !is_longer {
            return Err(ScramError::Malformed("the server's nonce does not continue the client's"));
        }

        let bare = &self.message[GS2_HEADER.len()..];
        let without_proof = format!("c={},r={}", BASE64.encode(GS2_HEADER), challenge.nonce);
        let signed = format!("{bare},{server_first},{without_proof}");

        let stored_key = keys.client_key.hash();
        let proof = keys.client_key.xor(&stored_key.sign(signed.as_bytes()));
        Ok(Proof {
            message: format!("{without_proof},p={}", BASE64.encode(proof.as_bytes())),
            server_signature: keys.server_key.sign(signed.as_bytes()),
        })
    }
}

impl Proof {
    /// The `client-final-message`.
    pub fn client_final(&self) -> &str {
        &self.message
    }

    /// Checks the signature in `server_final`. Only a server that knows the verifier can make it.
    pub fn verify_server(self, server_final: &str) -> Result<(), ScramError> {
        let signature = parse_server_final(server_final)?;
        if bool::from(signature.ct_eq(&self.server_signature)) {
            Ok(())
        } else {
            Err(ScramError::WrongServerSignature)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn derive_keys_limits_iterations() {
        let keys = derive_keys("r=abc,s=c2FsdA==,i=2", b"pencil").unwrap();
        let expected = ScramKeys::derive(b"pencil", b"salt", NonZeroU32::new(2).unwrap());
        assert!(bool::from(keys.client_key.ct_eq(&expected.client_key)));
        let error = derive_keys("r=abc,s=c2FsdA==,i=4000000000", b"pencil").unwrap_err();
        assert_eq!(error, ScramError::Unsupported("more than 1000000 iterations"));
    }

    #[test]
    fn prove_requires_continued_nonce() {
        let keys = ScramKeys { client_key: Key::new([1; 32]), server_key: Key::new([2; 32]) };
        for (nonce, fits) in [("AQEBmore", true), ("AQEB", false), ("else", false)] {
            let challenge = format!("r={nonce},s=c2FsdA==,i=1");
            assert_eq!(Exchange::new(&[1; 3]).prove(&challenge, keys).is_ok(), fits, "{nonce}");
        }
    }
}
