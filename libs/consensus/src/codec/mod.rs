//! Messages as bytes: one message is the payload of one CopyData frame.
//!
//! | module | version | byte order |
//! |---|---|---|
//! | `v2` | the public protocol's older version | little-endian structs, 8-byte tag |
//! | `v3` | the public protocol's newer version | packed, big-endian, 1-byte tag |
//! | `own` | [`version_name`] `holdfast-1` | as `v3`, with more fields and kinds |
//!
//! Knows nothing of frames, connections or who may send what when: the connection tasks on both sides call this with one
//! payload at a time. What comes out of `decode_*` is well-formed (counts, order, lengths) but not yet believed.
//!
//! The two directions treat bytes behind a message differently, as the public programs do: an acceptor ignores them, a
//! proposer takes them for a broken peer. The WAL of an append is the exception, its length must be exact.

mod error;
mod feedback;
mod own;
mod parts;
mod reader;
mod v2;
mod v3;

use bytes::{Bytes, BytesMut};

use crate::lineage::ProtocolVersion;
use crate::message::{AcceptorMessage, ProposerMessage};

pub use error::CodecError;
pub use feedback::{decode_feedback, encode_feedback};
use reader::Reader;

/// Longest host name of a member. A DNS name has at most 253 characters in text form (RFC 1035 section 2.3.4).
pub const HOST_BYTES_MAX: usize = 255;

/// Most changes of PostgreSQL's timeline that a message may carry: one is added at each promotion.
pub const TLI_SWITCHES_MAX: usize = 1000;

const GREETING: u8 = b'g';
const PRE_VOTE: u8 = b'p';
const VOTE: u8 = b'v';
const ELECTED: u8 = b'e';
const APPEND: u8 = b'a';
const CHECKSUM: u8 = b'c';
const CONFIGURE: u8 = b'm';

/// What START_WAL_PUSH calls the version in `proto_version`.
pub const fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V2 => "2",
        ProtocolVersion::V3 => "3",
        ProtocolVersion::Holdfast1 => "holdfast-1",
    }
}

/// The version that a `proto_version` names.
pub fn parse_version(name: &str) -> Option<ProtocolVersion> {
    [ProtocolVersion::V2, ProtocolVersion::V3, ProtocolVersion::Holdfast1]
        .into_iter()
        .find(|&version| version_name(version) == name)
}

/// Appends the bytes of `message` to `out`; on an error `out` is as before.
///
/// Fails when the version has no such message, or when a host name cannot be written (too long, or with a zero byte).
pub fn encode_proposer(
    version: ProtocolVersion,
    message: &ProposerMessage,
    out: &mut BytesMut,
) -> Result<(), CodecError> {
    let before = out.len();
    let written = match version {
        ProtocolVersion::V2 => v2::put_proposer(message, out),
        ProtocolVersion::V3 => v3::put_proposer(message, out),
        ProtocolVersion::Holdfast1 => own::put_proposer(message, out),
    };
    written.inspect_err(|_| out.truncate(before))
}

/// The message in one frame of a proposer. WAL is a slice of `bytes`, not a copy.
pub fn decode_proposer(version: ProtocolVersion, bytes: Bytes) -> Result<ProposerMessage, CodecError> {
    let mut reader = Reader::new(bytes);
    match version {
        ProtocolVersion::V2 => v2::get_proposer(&mut reader),
        ProtocolVersion::V3 => v3::get_proposer(&mut reader),
        ProtocolVersion::Holdfast1 => own::get_proposer(&mut reader),
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
        ProtocolVersion::Holdfast1 => own::put_acceptor(message, out),
    };
    written.inspect_err(|_| out.truncate(before))
}

/// The message in one frame of an acceptor.
pub fn decode_acceptor(version: ProtocolVersion, bytes: Bytes) -> Result<AcceptorMessage, CodecError> {
    let mut reader = Reader::new(bytes);
    let message = match version {
        ProtocolVersion::V2 => v2::get_acceptor(&mut reader),
        ProtocolVersion::V3 => v3::get_acceptor(&mut reader),
        ProtocolVersion::Holdfast1 => own::get_acceptor(&mut reader),
    }?;
    match reader.left() {
        0 => Ok(message),
        left => Err(CodecError::Trailing(left)),
    }
}

const fn proposer_kind(message: &ProposerMessage) -> &'static str {
    match message {
        ProposerMessage::Greeting(_) => "greeting",
        ProposerMessage::PreVote(_) => "pre-vote request",
        ProposerMessage::Vote(_) => "vote request",
        ProposerMessage::Elected(_) => "elected",
        ProposerMessage::Append(_) => "append request",
        ProposerMessage::Checksum(_) => "checksum request",
        ProposerMessage::Configure(_) => "configuration",
    }
}

const fn acceptor_kind(message: &AcceptorMessage) -> &'static str {
    match message {
        AcceptorMessage::Greeting(_) => "greeting",
        AcceptorMessage::PreVote(_) => "pre-vote response",
        AcceptorMessage::Vote(_) => "vote response",
        AcceptorMessage::Append(_) => "append response",
        AcceptorMessage::Checksum(_) => "checksum response",
        AcceptorMessage::Configure(_) => "answer to a configuration",
    }
}
