//! [`ClientFacing`]: the message that an error sends to the client, and the error's label in metrics and log. The
//! error types are defined where they occur. Imports nothing of this crate.

use bytes::BytesMut;
use pq_proto::{BackendMessage, Encode, ErrorResponse, Frame, ProtocolError, SqlState};

/// An error that ends a connection.
pub(crate) trait ClientFacing: std::error::Error {
    /// A word of a small, fixed set, for metrics and the log.
    fn label(&self) -> &'static str;

    /// The closing message. `None` when the client has got it already, or has left.
    fn response(&self) -> Option<Response>;
}

/// The closing message to a client.
#[derive(Debug, Clone)]
pub(crate) enum Response {
    /// Made by the proxy.
    Proxy(ErrorResponse),
    /// Received from the compute, passed on byte for byte.
    Compute(Frame),
}

impl Encode for Response {
    fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        match self {
            Self::Proxy(error) => BackendMessage::ErrorResponse(error.clone()).encode(out),
            Self::Compute(frame) => frame.encode(out),
        }
    }
}

/// Closing message to a client that broke the protocol (SQLSTATE 08P01).
pub(crate) fn violation(message: impl Into<String>) -> ErrorResponse {
    ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, message)
}

#[cfg(test)]
impl Response {
    /// The message, of the proxy or of the compute.
    pub(crate) fn error(&self) -> ErrorResponse {
        match self {
            Self::Proxy(error) => error.clone(),
            Self::Compute(frame) => ErrorResponse::decode(frame.body.clone()).unwrap(),
        }
    }
}
