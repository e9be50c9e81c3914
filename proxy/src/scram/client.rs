//! The client's side, for whoever has the ClientKey and not the password: logs into the compute.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::keys::{Key, ScramKeys};
use super::messages::{ScramError, ServerFirst, parse_server_final};

/// No channel binding: the proxy's channel to the compute is not the client's.
const GS2_HEADER: &str = "n,,";

/// `client-first-message` is made, the challenge is not there yet.
#[derive(Debug)]
pub(crate) struct Waiting {
    message: String,
    nonce: String,
}

/// The proof is made, the server's is not there yet.
#[derive(Debug)]
pub(crate) struct Answered {
    message: String,
    server_signature: Key,
}

impl Waiting {
    /// `nonce` is random and used once.
    pub(crate) fn new(nonce: &[u8]) -> Self {
        let nonce = BASE64.encode(nonce);
        Self { message: format!("{GS2_HEADER}n=,r={nonce}"), nonce }
    }

    /// `client-first-message`
    pub(crate) fn client_first(&self) -> &str {
        &self.message
    }

    /// Answers `server-first-message`. Salt and rounds do not matter: the key is there already.
    pub(crate) fn answer(self, server_first: &str, keys: ScramKeys) -> Result<Answered, ScramError> {
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
    pub(crate) fn client_final(&self) -> &str {
        &self.message
    }

    /// Checks `server-final-message`: whoever answers knows the verifier too.
    pub(crate) fn check(self, server_final: &str) -> Result<(), ScramError> {
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
    use super::*;

    #[test]
    fn a_challenge_must_continue_our_nonce() {
        let keys = ScramKeys { client_key: Key::new([1; 32]), server_key: Key::new([2; 32]) };
        for (nonce, fits) in [("AQEBmore", true), ("AQEB", false), ("else", false)] {
            let challenge = format!("r={nonce},s=c2FsdA==,i=1");
            assert_eq!(Waiting::new(&[1; 3]).answer(&challenge, keys).is_ok(), fits, "{nonce}");
        }
    }
}
