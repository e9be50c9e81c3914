//! Codec: turns messages into bytes and back. One message is the payload of one CopyData frame.
//!
//! | module | version | byte order |
//! |---|---|---|
//! | `v2` | the public protocol's older version | little-endian structs, 8-byte tag |
//! | `v3` | the public protocol's newer version | packed, big-endian, 1-byte tag |
//! | `holdfast2` | [`version_name`] `holdfast-2` | packed, big-endian, 1-byte tag; more fields and kinds |
//!
//! The codec knows no frames, no connections and no order of messages: the connection tasks on both sides call it with
//! one payload at a time. A decoded message is well-formed (counts, order, lengths); acceptor and proposer check the rest.
//!
//! Bytes may follow the end of a message. As in the public programs, the acceptor ignores them, and the proposer refuses
//! the message. The WAL of an append is the exception: its length must be exact.

mod error;
mod feedback;
mod fields;
mod holdfast2;
mod reader;
mod tag;
mod v2;
mod v3;
mod version;

use bytes::{Bytes, BytesMut};

use crate::lineage::ProtocolVersion;
use crate::message::{AcceptorMessage, ProposerMessage};

pub use crate::configuration::HOST_BYTES_MAX;
pub use error::CodecError;
pub use feedback::{decode_feedback, encode_feedback};
pub use holdfast2::{birth_of, decode_configuration, encode_configuration};
use reader::MessageReader;
pub use version::{EARLIER_VERSION_NAME, parse_version, version_name};

/// Appends the bytes of `message` to `out`; after an error `out` is unchanged.
///
/// Fails with [`CodecError::NotInVersion`] when the version has no such message, and with [`CodecError::Text`] when a
/// host name is too long or contains a zero byte.
pub fn encode_proposer(
    version: ProtocolVersion,
    message: &ProposerMessage,
    out: &mut BytesMut,
) -> Result<(), CodecError> {
    let before = out.len();
    let written = match version {
        ProtocolVersion::V2 => v2::put_proposer(message, out),
        ProtocolVersion::V3 => v3::put_proposer(message, out),
        ProtocolVersion::Holdfast2 => holdfast2::put_proposer(message, out),
    };
    written.inspect_err(|_| out.truncate(before))
}

/// Decodes one frame of a proposer. The WAL of an append is a slice of `bytes`, not a copy.
///
/// Fails when `bytes` are no message of the version. A count in a message is checked against its limit and the bytes that
/// are left before memory is allocated for it.
pub fn decode_proposer(version: ProtocolVersion, bytes: Bytes) -> Result<ProposerMessage, CodecError> {
    let mut reader = MessageReader::new(bytes);
    match version {
        ProtocolVersion::V2 => v2::get_proposer(&mut reader),
        ProtocolVersion::V3 => v3::get_proposer(&mut reader),
        ProtocolVersion::Holdfast2 => holdfast2::get_proposer(&mut reader),
    }
}

/// Appends the bytes of `message` to `out`; fails as [`encode_proposer`] does.
pub fn encode_acceptor(
    version: ProtocolVersion,
    message: &AcceptorMessage,
    out: &mut BytesMut,
) -> Result<(), CodecError> {
    let before = out.len();
    let written = match version {
        ProtocolVersion::V2 => v2::put_acceptor(message, out),
        ProtocolVersion::V3 => v3::put_acceptor(message, out),
        ProtocolVersion::Holdfast2 => holdfast2::put_acceptor(message, out),
    };
    written.inspect_err(|_| out.truncate(before))
}

/// Decodes one frame of an acceptor; fails as [`decode_proposer`] does, and when bytes follow the message.
pub fn decode_acceptor(version: ProtocolVersion, bytes: Bytes) -> Result<AcceptorMessage, CodecError> {
    let mut reader = MessageReader::new(bytes);
    let message = match version {
        ProtocolVersion::V2 => v2::get_acceptor(&mut reader),
        ProtocolVersion::V3 => v3::get_acceptor(&mut reader),
        ProtocolVersion::Holdfast2 => holdfast2::get_acceptor(&mut reader),
    }?;
    match reader.bytes_left() {
        0 => Ok(message),
        left => Err(CodecError::Trailing(left)),
    }
}
