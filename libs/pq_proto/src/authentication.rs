//! Authentication messages: the server's requests (type byte `R`), and what a client answers in `p` messages
//! (PostgreSQL documentation, "SASL Authentication" and "Message Formats"). Encodes and decodes them; the exchange itself
//! is run by the callers.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::ProtocolError;
use crate::text::Text;
use crate::wire::{Cursor, put_text, put_value};

/// The body of an `R` message, by its `Int32` code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// 0: authentication succeeded.
    Ok,
    /// 2: Kerberos V5, which no server since 2014 asks for.
    KerberosV5,
    /// 3: the client shall send its password in clear.
    CleartextPassword,
    /// 5: the client shall send its password hashed with MD5 and this salt.
    Md5Password {
        /// Random salt.
        salt: [u8; 4],
    },
    /// 7: the client shall begin a GSSAPI exchange.
    Gss,
    /// 8: the next data of a GSSAPI or SSPI exchange.
    GssContinue(Bytes),
    /// 9: the client shall begin an SSPI exchange.
    Sspi,
    /// 10: the client shall begin a SASL exchange with one of these mechanisms.
    Sasl {
        /// Names in the server's order of preference.
        mechanisms: Vec<Text>,
    },
    /// 11: the server's challenge in a SASL exchange.
    SaslContinue(Bytes),
    /// 12: the server's final data of a SASL exchange.
    SaslFinal(Bytes),
}

impl Authentication {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Ok => out.put_i32(0),
            Self::KerberosV5 => out.put_i32(2),
            Self::CleartextPassword => out.put_i32(3),
            Self::Md5Password { salt } => {
                out.put_i32(5);
                out.put_slice(salt);
            }
            Self::Gss => out.put_i32(7),
            Self::GssContinue(data) => {
                out.put_i32(8);
                out.put_slice(data);
            }
            Self::Sspi => out.put_i32(9),
            Self::Sasl { mechanisms } => {
                out.put_i32(10);
                // An empty name would end the list.
                mechanisms.iter().filter(|name| !name.is_empty()).for_each(|name| put_text(out, name));
                out.put_u8(0);
            }
            Self::SaslContinue(data) => {
                out.put_i32(11);
                out.put_slice(data);
            }
            Self::SaslFinal(data) => {
                out.put_i32(12);
                out.put_slice(data);
            }
        }
    }

    pub(crate) fn decode(cursor: &mut Cursor) -> Result<Self, ProtocolError> {
        Ok(match cursor.i32()? {
            0 => Self::Ok,
            2 => Self::KerberosV5,
            3 => Self::CleartextPassword,
            5 => Self::Md5Password { salt: cursor.u32()?.to_be_bytes() },
            7 => Self::Gss,
            8 => Self::GssContinue(cursor.read_to_end()),
            9 => Self::Sspi,
            10 => Self::Sasl { mechanisms: decode_mechanisms(cursor)? },
            11 => Self::SaslContinue(cursor.read_to_end()),
            12 => Self::SaslFinal(cursor.read_to_end()),
            other => {
                return Err(ProtocolError::InvalidValue {
                    field: "authentication request",
                    value: other.into(),
                });
            }
        })
    }
}

fn decode_mechanisms(cursor: &mut Cursor) -> Result<Vec<Text>, ProtocolError> {
    let mut mechanisms = Vec::new();
    loop {
        let name = cursor.text()?;
        if name.is_empty() {
            return Ok(mechanisms);
        }
        mechanisms.push(name);
    }
}

/// The client's first SASL message, which travels as the body of a `p` message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaslInitialResponse {
    /// The mechanism that the client chose.
    pub mechanism: Text,
    /// Its first data, when the mechanism lets the client begin.
    pub data: Option<Bytes>,
}

impl SaslInitialResponse {
    /// Encodes the body of the `p` message.
    pub fn encode(&self) -> Result<Bytes, ProtocolError> {
        let mut out = BytesMut::new();
        put_text(&mut out, &self.mechanism);
        put_value(&mut out, self.data.as_ref())?;
        Ok(out.freeze())
    }

    /// Decodes the body of a `p` message.
    pub fn decode(body: Bytes) -> Result<Self, ProtocolError> {
        let mut cursor = Cursor::new(body);
        let message = Self { mechanism: cursor.text()?, data: cursor.value()? };
        cursor.finish().map(|()| message)
    }
}

/// Decodes the body of a `p` message as a password: one text with its terminator, and nothing behind it.
pub fn decode_password(body: Bytes) -> Result<Text, ProtocolError> {
    let mut cursor = Cursor::new(body);
    let password = cursor.text()?;
    cursor.finish().map(|()| password)
}

/// Encodes the body of a `p` message that carries a password.
pub fn encode_password(password: &Text) -> Bytes {
    let mut out = BytesMut::new();
    put_text(&mut out, password);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_one_terminated_text() {
        assert_eq!(decode_password(encode_password(&"secret".into())), Ok("secret".into()));
        for body in [&b""[..], b"secret", b"sec\0ret\0", b"secret\0\0"] {
            assert!(decode_password(Bytes::from_static(body)).is_err(), "{body:?}");
        }
    }

    #[test]
    fn sasl_initial_response_round_trips() {
        for data in [None, Some(Bytes::new()), Some(Bytes::from_static(b"n,,n=,r=abc"))] {
            let message = SaslInitialResponse { mechanism: "SCRAM-SHA-256".into(), data };
            assert_eq!(SaslInitialResponse::decode(message.encode().unwrap()), Ok(message));
        }
    }
}
