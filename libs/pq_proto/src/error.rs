//! Errors of this crate: [`ProtocolError`] for bytes that are no valid message, [`FramedError`] for a stream that gives
//! no frame.

use std::io;

use crate::version::ProtocolVersion;

/// The peer's bytes are no valid message, or a message to send does not fit the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A field reaches past the end of its message.
    #[error("message ends inside a field")]
    Truncated,
    /// Bytes are left behind the last field.
    #[error("message has {0} bytes behind its last field")]
    TrailingBytes(usize),
    /// A text field has no terminating zero byte.
    #[error("text without a terminating zero byte")]
    UnterminatedText,
    /// A text field that has to be read as text is not UTF-8.
    #[error("text is not valid UTF-8")]
    NotUtf8,
    /// The length word is smaller than itself.
    #[error("invalid message length {0}")]
    InvalidLength(i32),
    /// The peer announced more bytes than are accepted for this message.
    #[error("message of {announced} bytes, at most {max} are accepted here")]
    TooLong {
        /// Bytes that the length word announces, itself included.
        announced: usize,
        /// Bytes that are accepted, the length word included.
        max: usize,
    },
    /// A message to send does not fit the length and count fields of the protocol.
    #[error("message does not fit the protocol's length and count fields")]
    DoesNotFit,
    /// No message has this type byte in this direction.
    #[error("unknown message type {:?}", char::from(*.0))]
    UnknownTag(u8),
    /// A field has a value that the protocol does not define.
    #[error("invalid value {value} for {field}")]
    InvalidValue {
        /// Name of the field.
        field: &'static str,
        /// Value of the field.
        value: i64,
    },
    /// The startup packet asks for a major version other than 3.
    #[error("unsupported frontend protocol {0}")]
    UnsupportedVersion(ProtocolVersion),
}

/// A frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FramedError {
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer's bytes are no valid message.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The stream ended inside a message.
    #[error("connection closed inside a message")]
    ClosedInsideMessage,
}

impl From<FramedError> for io::Error {
    fn from(error: FramedError) -> Self {
        match error {
            FramedError::Io(error) => error,
            FramedError::ClosedInsideMessage => Self::new(io::ErrorKind::UnexpectedEof, error),
            FramedError::Protocol(_) => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
