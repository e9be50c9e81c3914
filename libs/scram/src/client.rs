//! The client's side, for whoever has the ClientKey of a password or the password itself: logs into the compute.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use subtle::ConstantTimeEq;

use super::ITERATIONS_MAX;
use super::keys::{Key, ScramKeys};
use super::messages::{ScramError, ServerFirst, parse_server_final};

/// No channel binding: the proxy's channel to the compute is not the client's.
const GS2_HEADER: &str = "n,,";

/// What somebody logs in with.
#[derive(Clone)]
pub enum Credentials {
    /// The keys of a password.
    Keys(ScramKeys),
    /// A password itself.
    Password(Bytes),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// The keys of a password for this `server-first-message`. Hashes as often as the server says: not to be done where
/// others wait. A number with which it would take seconds is refused.
pub fn keys_for(server_first: &str, password: &[u8]) -> Result<ScramKeys, ScramError> {
    let challenge = ServerFirst::parse(server_first)?;
    if challenge.iterations > ITERATIONS_MAX {
        return Err(ScramError::Unsupported("so many iterations"));
    }
    Ok(ScramKeys::of_password(password, &challenge.salt, challenge.iterations))
}

/// `client-first-message` is made, the challenge is not there yet.
#[derive(Debug)]
pub struct Waiting {
    message: String,
    nonce: String,
}

/// The proof is made, the server's is not there yet.
#[derive(Debug)]
pub struct Answered {
    message: String,
    server_signature: Key,
}

impl Waiting {
    /// `nonce` is random and used once.
    pub fn new(nonce: &[u8]) -> Self {
        let nonce = BASE64.encode(nonce);
        Self { message: format!("{GS2_HEADER}n=,r={nonce}"), nonce }
    }

    /// `client-first-message`
    pub fn client_first(&self) -> &str {
        &self.message
    }

    /// Answers `server-first-message`. Salt and rounds do not matter: the key is there already.
    pub fn answer(self, server_first: &str, keys: ScramKeys) -> Result<Answered, ScramError> {
        let challenge = ServerFirst::parse(server_first)?;
        let is_longer = challenge.nonce.len() > self.nonce.len();
        if !challenge.nonce.starts_with(&self.nonce) || !is_longer {
            return Err(ScramError::Malformed("the server's nonce does not continue ours"));
        }
        let bare = &self.message[GS2_HEADER.len()..];
        let without_proof = format!("c={},r={}", BASE64.encode(GS2_HEADER), challenge.nonce);
        let signed = format!("{bare},{server_first},{without_proof}");
        let stored_key = keys.client_key.hash();
        let proof = keys.client_key.xor(&stored_key.sign(signed.as_bytes()));
        Ok(Answered {
            message: format!("{without_proof},p={}", BASE64.encode(proof.as_bytes())),
            server_signature: keys.server_key.sign(signed.as_bytes()),
        })
    }
}

impl Answered {
    /// `client-final-message`
    pub fn client_final(&self) -> &str {
        &self.message
    }

    /// Checks `server-final-message`: whoever answers knows the verifier too.
    pub fn check(self, server_final: &str) -> Result<(), ScramError> {
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
    fn the_keys_of_a_password_are_made_for_the_challenge_unless_it_asks_too_much() {
        let keys = keys_for("r=abc,s=c2FsdA==,i=2", b"pencil").unwrap();
        let expected = ScramKeys::of_password(b"pencil", b"salt", NonZeroU32::new(2).unwrap());
        assert!(bool::from(keys.client_key.ct_eq(&expected.client_key)));
        let error = keys_for("r=abc,s=c2FsdA==,i=4000000000", b"pencil").unwrap_err();
        assert_eq!(error, ScramError::Unsupported("so many iterations"));
    }

    #[test]
    fn a_challenge_must_continue_our_nonce() {
        let keys = ScramKeys { client_key: Key::new([1; 32]), server_key: Key::new([2; 32]) };
        for (nonce, fits) in [("AQEBmore", true), ("AQEB", false), ("else", false)] {
            let challenge = format!("r={nonce},s=c2FsdA==,i=1");
            assert_eq!(Waiting::new(&[1; 3]).answer(&challenge, keys).is_ok(), fits, "{nonce}");
        }
    }
}
