//! Frames on an asynchronous stream: the only module of this crate that does IO.
//!
//! A connection is always two halves in two fields, a [`FramedReader`] and a [`FramedWriter`], so that splitting it
//! between two tasks is a move. Both halves keep their buffer when a future is dropped: every method here may be an arm
//! of `select!`. Used by `postgres_backend` and by the programs.

mod reader;
mod writer;

use std::io;

pub use self::reader::FramedReader;
pub use self::writer::{FramedWriter, WRITE_BUFFER_BYTES_HIGH};
use crate::error::ProtocolError;

/// Why no frame could be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FramedError {
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer's bytes are no message.
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

#[cfg(test)]
mod tests;
