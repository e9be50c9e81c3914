//! Codec tests through its public API: fixed bytes, captured bytes, any message, any bytes.

mod captures;
mod hostile;
mod messages;
mod roundtrip;
mod vectors;

use bytes::{Bytes, BytesMut};
use consensus::codec::{CodecError, decode_acceptor, decode_proposer, encode_acceptor, encode_proposer};
use consensus::{AcceptorMessage, ProposerMessage, ProtocolVersion};

pub(crate) const VERSIONS: [ProtocolVersion; 3] =
    [ProtocolVersion::V2, ProtocolVersion::V3, ProtocolVersion::Holdfast2];

/// A message of either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Proposer(ProposerMessage),
    Acceptor(AcceptorMessage),
}

impl Message {
    pub(crate) fn encode(&self, version: ProtocolVersion) -> Result<Bytes, CodecError> {
        let mut out = BytesMut::new();
        match self {
            Self::Proposer(message) => encode_proposer(version, message, &mut out),
            Self::Acceptor(message) => encode_acceptor(version, message, &mut out),
        }?;
        Ok(out.freeze())
    }

    /// Decodes what came from the same side as `self`.
    pub(crate) fn decode_like(&self, version: ProtocolVersion, bytes: Bytes) -> Result<Self, CodecError> {
        match self {
            Self::Proposer(_) => decode_proposer(version, bytes).map(Self::Proposer),
            Self::Acceptor(_) => decode_acceptor(version, bytes).map(Self::Acceptor),
        }
    }
}

/// Checks that `message` encodes to `hex` and `hex` decodes to `message`.
#[track_caller]
pub(crate) fn check(version: ProtocolVersion, message: Message, hex: &str) {
    let bytes = Bytes::from(hex::decode(hex).expect("test data is hexadecimal"));
    assert_eq!(message.encode(version).map(hex::encode), Ok(hex.to_owned()), "encoding {message:?}");
    assert_eq!(message.decode_like(version, bytes), Ok(message), "decoding {hex}");
}
