//! What a client is told when it is turned away. The errors themselves are where they arise; each knows its response
//! and a word for the metrics. Imports nothing of this crate.

use bytes::BytesMut;
use pq_proto::{BackendMessage, Encode, ErrorResponse, Frame, ProtocolError, SqlState};

/// The last message to a client.
#[derive(Debug, Clone)]
pub(crate) enum Response {
    /// Our own words.
    Own(ErrorResponse),
    /// The compute's, byte for byte.
    Computes(Frame),
}

impl Encode for Response {
    fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        match self {
            Self::Own(error) => BackendMessage::ErrorResponse(error.clone()).encode(out),
            Self::Computes(frame) => frame.encode(out),
        }
    }
}

/// The client did not keep to the protocol.
pub(crate) fn violation(message: impl Into<String>) -> ErrorResponse {
    ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, message)
}
