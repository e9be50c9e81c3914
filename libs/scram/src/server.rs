//! The server's side: checks a client's proof against a stored verifier and recovers the ClientKey. Each step takes
//! the one before, so that a proof cannot be looked at without a challenge.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::keys::ScramKeys;
use super::messages::{BindingFlag, ClientFinal, ClientFirst, ScramError};
use super::secret::Verifier;

/// The only way of binding that PostgreSQL knows (RFC 5929, section 4).
const TLS_SERVER_END_POINT: &str = "tls-server-end-point";

/// Whether the exchange is bound to the TLS channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding<'a> {
    /// It was not offered: there is no TLS, or nothing to bind to.
    NotOffered,
    /// It was offered, and the client chose the mechanism without it.
    Declined,
    /// The client chose it; this is the hash of our certificate.
    Chosen(&'a [u8]),
}

/// A challenge that waits for its proof.
#[derive(Debug)]
pub struct Challenge {
    verifier: Verifier,
    client_first_bare: String,
    /// What the client must repeat.
    channel_binding: Vec<u8>,
    nonce: String,
    message: String,
}

/// A client that knows its password.
#[derive(Debug)]
pub struct Proven {
    /// Recovered from the client's proof, or made from its password.
    pub keys: ScramKeys,
    /// `server-final-message`, which the client may see once it is let in. `None` when it sent its password.
    pub server_final: Option<String>,
}

impl Challenge {
    /// Answers `client-first-message`. `nonce` is random and used once.
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
            // The client did not see the offer: somebody took it away.
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
        let message = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        Ok(Self { verifier, client_first_bare: first.bare.to_owned(), channel_binding, nonce, message })
    }

    /// `server-first-message`
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Checks `client-final-message`.
    pub fn check(self, client_final: &str) -> Result<Proven, ScramError> {
        let last = ClientFinal::parse(client_final)?;
        if !bool::from(last.nonce.as_bytes().ct_eq(self.nonce.as_bytes())) {
            return Err(ScramError::Malformed("the nonce is not the one of the challenge"));
        }
        if !bool::from(last.channel_binding.ct_eq(&self.channel_binding)) {
            return Err(ScramError::ChannelBinding);
        }
        let signed = format!("{},{},{}", self.client_first_bare, self.message, last.without_proof);
        let client_key = last.proof.xor(&self.verifier.stored_key.sign(signed.as_bytes()));
        if !bool::from(client_key.hash().ct_eq(&self.verifier.stored_key)) {
            return Err(ScramError::WrongProof);
        }
        let server_key = self.verifier.server_key;
        let signature = BASE64.encode(server_key.sign(signed.as_bytes()).as_bytes());
        let server_final = Some(format!("v={signature}"));
        Ok(Proven { keys: ScramKeys { client_key, server_key }, server_final })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{SCRAM_ITERATIONS_DEFAULT, client};

    const NONCE: [u8; 18] = [9; 18];
    const ITERATIONS: NonZeroU32 = NonZeroU32::new(2).unwrap();

    fn verifier() -> Verifier {
        Verifier::from_password("pencil", b"some salt", ITERATIONS)
    }

    fn challenge(client_first: &str, binding: ChannelBinding<'_>) -> Result<Challenge, ScramError> {
        Challenge::new(verifier(), client_first, &NONCE, binding)
    }

    #[test]
    fn the_exchange_of_rfc_7677_is_reproduced() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let mut challenge = Challenge::new(
            Verifier::from_password("pencil", &salt, SCRAM_ITERATIONS_DEFAULT),
            "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            &NONCE,
            ChannelBinding::NotOffered,
        )
        .unwrap();
        // The RFC's nonce is not base64, and so none that this server makes.
        challenge.nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into();
        challenge.message = format!("r={},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", challenge.nonce);
        let proven = challenge
            .check(
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            )
            .unwrap();
        assert_eq!(proven.server_final.unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn the_recovered_key_logs_in_where_the_password_is_the_same() {
        let proven = login("pencil", verifier()).unwrap();
        for (salt, fits) in [(&b"some salt"[..], true), (b"other salt", false)] {
            let there = Verifier::from_password("pencil", salt, ITERATIONS);
            assert_eq!(login_with_keys(proven.keys, there).is_ok(), fits);
        }
    }

    #[test]
    fn a_server_that_does_not_know_the_verifier_is_found_out() {
        let keys = login("pencil", verifier()).unwrap().keys;
        let impostor = Verifier { server_key: keys.client_key, ..verifier() };
        assert_eq!(login_with_keys(keys, impostor).unwrap_err(), ScramError::WrongServerSignature);
    }

    #[test]
    fn a_wrong_password_and_a_stand_in_fail_alike() {
        assert_eq!(login("pencils", verifier()).unwrap_err(), ScramError::WrongProof);
        let mock = Verifier::mock(b"secret", "main", b"nobody", ITERATIONS);
        assert_eq!(login("pencil", mock).unwrap_err(), ScramError::WrongProof);
    }

    #[test]
    fn a_proof_for_another_challenge_is_refused() {
        let keys = keys_of("pencil", &verifier());
        let waiting = client::Waiting::new(&NONCE);
        let other = challenge(waiting.client_first(), ChannelBinding::NotOffered).unwrap();
        let last = waiting.answer(other.message(), keys).unwrap();
        let this = Challenge::new(verifier(), "n,,n=,r=xyz", &[1; 18], ChannelBinding::NotOffered).unwrap();
        assert!(matches!(this.check(last.client_final()), Err(ScramError::Malformed(_))));
    }

    #[test]
    fn channel_binding_is_as_the_mechanism_says() {
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
    fn a_client_that_sees_another_certificate_is_refused() {
        let gs2_header = "p=tls-server-end-point,,";
        for (seen, expected) in
            [(&b"hash"[..], ScramError::WrongProof), (b"other", ScramError::ChannelBinding)]
        {
            let challenge =
                challenge(&format!("{gs2_header}n=,r=abc"), ChannelBinding::Chosen(b"hash")).unwrap();
            let binding = BASE64.encode([gs2_header.as_bytes(), seen].concat());
            let last = format!("c={binding},r={},p={}", challenge.nonce, BASE64.encode([0; 32]));
            assert_eq!(challenge.check(&last).unwrap_err(), expected);
        }
    }

    fn keys_of(password: &str, verifier: &Verifier) -> ScramKeys {
        ScramKeys::of_password(password.as_bytes(), &verifier.salt, verifier.iterations)
    }

    /// As a client that knows the password.
    fn login(password: &str, verifier: Verifier) -> Result<Proven, ScramError> {
        let keys = keys_of(password, &verifier);
        let waiting = client::Waiting::new(&NONCE);
        let challenge = Challenge::new(verifier, waiting.client_first(), &NONCE, ChannelBinding::NotOffered)?;
        let last = waiting.answer(challenge.message(), keys)?;
        challenge.check(last.client_final())
    }

    /// As the proxy does it at the compute.
    fn login_with_keys(keys: ScramKeys, verifier: Verifier) -> Result<(), ScramError> {
        let waiting = client::Waiting::new(&NONCE);
        let challenge = Challenge::new(verifier, waiting.client_first(), &NONCE, ChannelBinding::NotOffered)?;
        let last = waiting.answer(challenge.message(), keys)?;
        let proven = challenge.check(last.client_final())?;
        last.check(&proven.server_final.unwrap())
    }
}
