//! Server's side: checks a client's proof against a stored verifier and recovers the ClientKey. Each step consumes the
//! one before: a proof cannot be checked without a challenge.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::keys::ScramKeys;
use super::messages::{BindingFlag, ClientFinal, ClientFirst, ScramError};
use super::verifier::Verifier;

/// The only type of channel binding that PostgreSQL has (RFC 5929, section 4).
const TLS_SERVER_END_POINT: &str = "tls-server-end-point";

/// Whether the exchange is bound to the TLS channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding<'a> {
    /// The server did not offer it: the session has no TLS, or the certificate has no hash to bind to.
    NotOffered,
    /// The server offered it, and the client chose the mechanism without it.
    Declined,
    /// The client chose it. Holds the hash of the server's certificate.
    Chosen(&'a [u8]),
}

/// Exchange whose `server-first-message` is made and whose `client-final-message` has not come.
#[derive(Debug)]
pub struct Challenge {
    verifier: Verifier,
    client_first_bare: String,
    /// GS2 header and hash of the certificate, which the client must repeat.
    channel_binding: Vec<u8>,
    nonce: String,
    server_first: String,
}

/// Client that has proved its password.
#[derive(Debug)]
pub struct VerifiedClient {
    /// Keys recovered from the proof, or derived from a password in clear text.
    pub keys: ScramKeys,
    /// The `server-final-message`, to be sent when the login is complete. `None` after a password in clear text.
    pub server_final: Option<String>,
}

impl Challenge {
    /// Answers `client_first`. `nonce` is [`NONCE_BYTES`](crate::NONCE_BYTES) random bytes that are used once.
    pub fn new(
        verifier: Verifier,
        client_first: &str,
        nonce: &[u8],
        binding: ChannelBinding<'_>,
    ) -> Result<Self, ScramError> {
        let first = ClientFirst::parse(client_first)?;
        let mut channel_binding = first.gs2_header.as_bytes().to_vec();
        match (first.binding, binding) {
            (BindingFlag::No, ChannelBinding::NotOffered | ChannelBinding::Declined)
            | (BindingFlag::ServerCannot, ChannelBinding::NotOffered) => {}
            // The client did not see the offer: an attacker in the middle removed it.
            (BindingFlag::ServerCannot, ChannelBinding::Declined) => return Err(ScramError::ChannelBinding),
            (BindingFlag::Required(TLS_SERVER_END_POINT), ChannelBinding::Chosen(hash)) => {
                channel_binding.extend_from_slice(hash);
            }
            (BindingFlag::Required(_), ChannelBinding::Chosen(_)) => {
                return Err(ScramError::Unsupported("this channel binding type"));
            }
            (BindingFlag::Required(_), _) | (_, ChannelBinding::Chosen(_)) => {
                return Err(ScramError::Malformed(
                    "channel binding flag and mechanism contradict each other",
                ));
            }
        }

        let nonce = format!("{}{}", first.nonce, BASE64.encode(nonce));
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        Ok(Self { verifier, client_first_bare: first.bare.to_owned(), channel_binding, nonce, server_first })
    }

    /// The `server-first-message`.
    pub fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Checks the proof in `client_final`. A wrong password is [`ScramError::WrongProof`].
    pub fn verify(self, client_final: &str) -> Result<VerifiedClient, ScramError> {
        let last = ClientFinal::parse(client_final)?;
        if !bool::from(last.nonce.as_bytes().ct_eq(self.nonce.as_bytes())) {
            return Err(ScramError::Malformed("the nonce is not the one of the challenge"));
        }
        if !bool::from(last.channel_binding.ct_eq(&self.channel_binding)) {
            return Err(ScramError::ChannelBinding);
        }

        let signed = format!("{},{},{}", self.client_first_bare, self.server_first, last.without_proof);
        let client_key = last.proof.xor(&self.verifier.stored_key.sign(signed.as_bytes()));
        if !bool::from(client_key.hash().ct_eq(&self.verifier.stored_key)) {
            return Err(ScramError::WrongProof);
        }

        let server_key = self.verifier.server_key;
        let signature = BASE64.encode(server_key.sign(signed.as_bytes()).as_bytes());
        let server_final = Some(format!("v={signature}"));
        Ok(VerifiedClient { keys: ScramKeys { client_key, server_key }, server_final })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::client;
    use crate::keys::ITERATIONS_DEFAULT;

    const NONCE: [u8; 18] = [9; 18];
    const ITERATIONS: NonZeroU32 = NonZeroU32::new(2).unwrap();

    fn verifier() -> Verifier {
        Verifier::from_password("pencil", b"some salt", ITERATIONS)
    }

    fn challenge(client_first: &str, binding: ChannelBinding<'_>) -> Result<Challenge, ScramError> {
        Challenge::new(verifier(), client_first, &NONCE, binding)
    }

    #[test]
    fn challenge_matches_rfc_7677() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let mut challenge = Challenge::new(
            Verifier::from_password("pencil", &salt, ITERATIONS_DEFAULT),
            "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            &NONCE,
            ChannelBinding::NotOffered,
        )
        .unwrap();
        // `Challenge::new` cannot make the RFC's nonce, which is not base64.
        challenge.nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into();
        challenge.server_first = format!("r={},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", challenge.nonce);
        let verified = challenge
            .verify(
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            )
            .unwrap();
        assert_eq!(verified.server_final.unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn recovered_keys_need_the_same_verifier() {
        let verified = login("pencil", verifier()).unwrap();
        for (salt, fits) in [(&b"some salt"[..], true), (b"other salt", false)] {
            let there = Verifier::from_password("pencil", salt, ITERATIONS);
            assert_eq!(login_with_keys(verified.keys, there).is_ok(), fits);
        }
    }

    #[test]
    fn verify_server_detects_an_impostor() {
        let keys = login("pencil", verifier()).unwrap().keys;
        let impostor = Verifier { server_key: keys.client_key, ..verifier() };
        assert_eq!(login_with_keys(keys, impostor).unwrap_err(), ScramError::WrongServerSignature);
    }

    #[test]
    fn wrong_password_and_mock_verifier_fail_alike() {
        assert_eq!(login("pencils", verifier()).unwrap_err(), ScramError::WrongProof);
        let mock = Verifier::mock(b"secret", "main", b"unknown", ITERATIONS);
        assert_eq!(login("pencil", mock).unwrap_err(), ScramError::WrongProof);
    }

    #[test]
    fn verify_refuses_proof_for_other_challenge() {
        let keys = keys_of("pencil", &verifier());
        let exchange = client::Exchange::new(&NONCE);
        let other = challenge(exchange.client_first(), ChannelBinding::NotOffered).unwrap();
        let proof = exchange.prove(other.server_first(), keys).unwrap();
        let this = Challenge::new(verifier(), "n,,n=,r=xyz", &[1; 18], ChannelBinding::NotOffered).unwrap();
        assert!(matches!(this.verify(proof.client_final()), Err(ScramError::Malformed(_))));
    }

    #[test]
    fn channel_binding_flag_must_match_mechanism() {
        use ChannelBinding::{Chosen, Declined, NotOffered};
        let (n, y) = ("n,,n=,r=abc", "y,,n=,r=abc");
        let (p, q) = ("p=tls-server-end-point,,n=,r=abc", "p=tls-unique,,n=,r=abc");
        let contradiction = ScramError::Malformed("channel binding flag and mechanism contradict each other");
        for (first, binding, expected) in [
            (n, NotOffered, Ok(())),
            (n, Declined, Ok(())),
            (n, Chosen(b"hash"), Err(contradiction)),
            (y, NotOffered, Ok(())),
            (y, Declined, Err(ScramError::ChannelBinding)),
            (y, Chosen(b"hash"), Err(contradiction)),
            (p, NotOffered, Err(contradiction)),
            (p, Declined, Err(contradiction)),
            (p, Chosen(b"hash"), Ok(())),
            (q, Chosen(b"hash"), Err(ScramError::Unsupported("this channel binding type"))),
        ] {
            assert_eq!(challenge(first, binding).map(|_| ()), expected, "{first} {binding:?}");
        }
    }

    #[test]
    fn verify_refuses_binding_to_other_certificate() {
        let gs2_header = "p=tls-server-end-point,,";
        for (seen, expected) in
            [(&b"hash"[..], ScramError::WrongProof), (b"other", ScramError::ChannelBinding)]
        {
            let challenge =
                challenge(&format!("{gs2_header}n=,r=abc"), ChannelBinding::Chosen(b"hash")).unwrap();
            let binding = BASE64.encode([gs2_header.as_bytes(), seen].concat());
            let last = format!("c={binding},r={},p={}", challenge.nonce, BASE64.encode([0; 32]));
            assert_eq!(challenge.verify(&last).unwrap_err(), expected);
        }
    }

    fn keys_of(password: &str, verifier: &Verifier) -> ScramKeys {
        ScramKeys::derive(password.as_bytes(), &verifier.salt, verifier.iterations)
    }

    /// Logs in with a password.
    fn login(password: &str, verifier: Verifier) -> Result<VerifiedClient, ScramError> {
        let keys = keys_of(password, &verifier);
        let exchange = client::Exchange::new(&NONCE);
        let challenge =
            Challenge::new(verifier, exchange.client_first(), &NONCE, ChannelBinding::NotOffered)?;
        let proof = exchange.prove(challenge.server_first(), keys)?;
        challenge.verify(proof.client_final())
    }

    /// Logs in with recovered keys, as a relay does at the database.
    fn login_with_keys(keys: ScramKeys, verifier: Verifier) -> Result<(), ScramError> {
        let exchange = client::Exchange::new(&NONCE);
        let challenge =
            Challenge::new(verifier, exchange.client_first(), &NONCE, ChannelBinding::NotOffered)?;
        let proof = exchange.prove(challenge.server_first(), keys)?;
        let verified = challenge.verify(proof.client_final())?;
        proof.verify_server(&verified.server_final.unwrap())
    }
}
