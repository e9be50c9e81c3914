//! Message parsers for the exchange (RFC 5802, section 7), and the errors of both sides. The messages are written where
//! they are made, in `server` and `client`.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::keys::{KEY_BYTES, Key};

/// Reason why an exchange failed. The caller decides how much of it the peer may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The peer's message does not follow the RFC.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The peer asks for a feature that is not implemented, or for more work than is allowed.
    #[error("unsupported in SCRAM: {0}")]
    Unsupported(&'static str),
    /// The client's TLS channel is not the server's: an attacker is in the middle, or has removed the server's offer
    /// of channel binding.
    #[error("SCRAM channel binding check failed")]
    ChannelBinding,
    /// The client does not know the password.
    #[error("wrong password")]
    WrongProof,
    /// The server does not know the verifier of the password.
    #[error("the server did not prove that it knows the role's verifier")]
    WrongServerSignature,
}

use ScramError::{Malformed, Unsupported};

/// Channel binding that the client asks for (`gs2-cbind-flag`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BindingFlag<'m> {
    /// `n`: the client has no channel binding.
    No,
    /// `y`: the client has channel binding, and the server did not offer it.
    ServerCannot,
    /// `p=`: the client binds the channel with this type.
    Required(&'m str),
}

/// Parsed `client-first-message`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst<'m> {
    pub(crate) binding: BindingFlag<'m>,
    /// Everything before `bare`, with the comma.
    pub(crate) gs2_header: &'m str,
    /// `client-first-message-bare`, which both sides sign.
    pub(crate) bare: &'m str,
    pub(crate) nonce: &'m str,
}

impl<'m> ClientFirst<'m> {
    /// Parses the message. The user name in it is ignored, as in PostgreSQL: clients leave it empty, and the startup
    /// packet has the role.
    pub(crate) fn parse(message: &'m str) -> Result<Self, ScramError> {
        let (flag, rest) = message.split_once(',').ok_or(Malformed("no GS2 header"))?;
        let binding = match flag {
            "n" => BindingFlag::No,
            "y" => BindingFlag::ServerCannot,
            _ => BindingFlag::Required(
                flag.strip_prefix("p=").ok_or(Malformed("unknown channel binding flag"))?,
            ),
        };
        let (authorization, bare) = rest.split_once(',').ok_or(Malformed("no GS2 header"))?;
        if !authorization.is_empty() {
            return Err(Unsupported("an authorization identity"));
        }

        let mut attributes = bare.split(',');
        let name = attributes.next().unwrap_or_default();
        if name.starts_with("m=") {
            return Err(Unsupported("a mandatory extension"));
        }
        if !name.starts_with("n=") {
            return Err(Malformed("no user name"));
        }
        let nonce = attributes.next().and_then(|attribute| attribute.strip_prefix("r="));
        let nonce = nonce.filter(|nonce| is_nonce(nonce)).ok_or(Malformed("no nonce"))?;
        Ok(Self { binding, gs2_header: &message[..message.len() - bare.len()], bare, nonce })
    }
}

/// Parsed `client-final-message`.
#[derive(Debug)]
pub(crate) struct ClientFinal<'m> {
    pub(crate) channel_binding: Vec<u8>,
    pub(crate) nonce: &'m str,
    pub(crate) proof: Key,
    /// `client-final-message-without-proof`, which both sides sign.
    pub(crate) without_proof: &'m str,
}

impl<'m> ClientFinal<'m> {
    pub(crate) fn parse(message: &'m str) -> Result<Self, ScramError> {
        // The proof is the last attribute; extensions may stand before it.
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(Malformed("no proof"))?;
        let proof = decode_key(proof).ok_or(Malformed("the proof is not 32 bytes of base64"))?;
        let mut attributes = without_proof.split(',');
        let channel_binding = attributes.next().and_then(|attribute| attribute.strip_prefix("c="));
        let channel_binding = channel_binding.and_then(|text| BASE64.decode(text).ok());
        let nonce = attributes.next().and_then(|attribute| attribute.strip_prefix("r="));
        Ok(Self {
            channel_binding: channel_binding.ok_or(Malformed("no channel binding"))?,
            nonce: nonce.ok_or(Malformed("no nonce"))?,
            proof,
            without_proof,
        })
    }
}

/// Parsed `server-first-message`. A client that already has its keys needs only the nonce.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServerFirst<'m> {
    pub(crate) nonce: &'m str,
    pub(crate) salt: Vec<u8>,
    pub(crate) iterations: NonZeroU32,
}

impl<'m> ServerFirst<'m> {
    pub(crate) fn parse(message: &'m str) -> Result<Self, ScramError> {
        let mut attributes = message.split(',');
        let mut next = |name: &str| attributes.next().and_then(|attribute| attribute.strip_prefix(name));
        let nonce = next("r=").filter(|nonce| is_nonce(nonce)).ok_or(Malformed("no nonce"))?;
        let salt = next("s=").and_then(|salt| BASE64.decode(salt).ok()).ok_or(Malformed("no salt"))?;
        let iterations = next("i=").and_then(|number| number.parse().ok());
        Ok(Self { nonce, salt, iterations: iterations.ok_or(Malformed("no number of iterations"))? })
    }
}

/// Parses a `server-final-message`, and returns the signature in it.
pub(crate) fn parse_server_final(message: &str) -> Result<Key, ScramError> {
    let first = message.split(',').next().unwrap_or_default();
    let signature = first.strip_prefix("v=").ok_or(Malformed("no server signature"))?;
    decode_key(signature).ok_or(Malformed("the server signature is not 32 bytes of base64"))
}

fn decode_key(text: &str) -> Option<Key> {
    let bytes: [u8; KEY_BYTES] = BASE64.decode(text).ok()?.try_into().ok()?;
    Some(Key::new(bytes))
}

/// `printable` in the RFC's grammar: every visible ASCII character except the comma.
fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_first_is_parsed() {
        for (message, binding, gs2_header) in [
            ("n,,n=,r=abc", BindingFlag::No, "n,,"),
            ("y,,n=user,r=abc", BindingFlag::ServerCannot, "y,,"),
            (
                "p=tls-server-end-point,,n=,r=abc,x=1",
                BindingFlag::Required("tls-server-end-point"),
                "p=tls-server-end-point,,",
            ),
        ] {
            let first = ClientFirst::parse(message).unwrap();
            assert_eq!((first.binding, first.gs2_header, first.nonce), (binding, gs2_header, "abc"));
            assert_eq!(format!("{}{}", first.gs2_header, first.bare), message);
        }
    }

    #[test]
    fn client_first_refuses_malformed_messages() {
        for (message, expected) in [
            ("", Malformed("no GS2 header")),
            ("n", Malformed("no GS2 header")),
            ("n,n=,r=abc", Unsupported("an authorization identity")),
            ("q,,n=,r=abc", Malformed("unknown channel binding flag")),
            ("n,a=other,n=,r=abc", Unsupported("an authorization identity")),
            ("n,,m=x,n=,r=abc", Unsupported("a mandatory extension")),
            ("n,,r=abc", Malformed("no user name")),
            ("n,,n=", Malformed("no nonce")),
            ("n,,n=,r=", Malformed("no nonce")),
            ("n,,n=,r=a b", Malformed("no nonce")),
            ("n,,n=,r=\u{e4}", Malformed("no nonce")),
        ] {
            assert_eq!(ClientFirst::parse(message), Err(expected), "{message}");
        }
    }

    #[test]
    fn client_final_refuses_malformed_messages() {
        let proof = BASE64.encode([1; 32]);
        assert!(ClientFinal::parse(&format!("c=biws,r=abc,x=1,p={proof}")).is_ok());
        for message in [
            String::new(),
            "c=biws,r=abc".into(),
            format!("p={proof}"),
            format!("r=abc,c=biws,p={proof}"),
            format!("c=!,r=abc,p={proof}"),
            format!("c=biws,p={proof}"),
            format!("c=biws,r=abc,p={proof}="),
            "c=biws,r=abc,p=c2hvcnQ=".into(),
            format!("c=biws,r=abc,p={proof},x=1"),
        ] {
            assert!(matches!(ClientFinal::parse(&message), Err(Malformed(_))), "{message}");
        }
    }

    #[test]
    fn server_messages_refuse_malformed_text() {
        let expected =
            ServerFirst { nonce: "abc", salt: b"salt".to_vec(), iterations: NonZeroU32::new(4096).unwrap() };
        assert_eq!(ServerFirst::parse("r=abc,s=c2FsdA==,i=4096,x=1"), Ok(expected));
        for message in
            ["", "e=other-error", "r=abc", "r=,s=c2FsdA==,i=1", "r=abc,s=!,i=1", "r=abc,s=c2FsdA==,i=0"]
        {
            assert!(ServerFirst::parse(message).is_err(), "{message}");
        }
        for message in ["", "e=invalid-proof", "v=", "v=c2hvcnQ="] {
            assert!(parse_server_final(message).is_err(), "{message}");
        }
    }
}
