//! [`ReaderMessage`]: decodes the messages of a reader during the copy: standby status, hot standby feedback, a page
//! server's feedback.

use bytes::{Buf, Bytes};
use consensus::{HotStandbyFeedback, PageserverFeedback, codec};
use pq_proto::replication::{FromStandby, StandbyStatusUpdate};
use pq_proto::{ErrorResponse, ProtocolError, SqlState};

use crate::feedback;

/// Longest message of a reader, in bytes. Status and hot standby feedback have 34 and 25; a page server sends a list of
/// keys.
pub(super) const READER_MESSAGE_BYTES_MAX: usize = 4096;

/// A page server's feedback: a tag, a length that the frame has too, then keys and values.
const PAGESERVER_FEEDBACK_TAG: u8 = b'z';
const PAGESERVER_FEEDBACK_HEADER_BYTES: usize = 9;

/// A message of a reader.
pub(super) enum ReaderMessage {
    /// Positions of the reader; may ask for a keepalive.
    Status(StandbyStatusUpdate),
    /// The oldest transactions that its queries need.
    HotStandby(HotStandbyFeedback),
    /// Progress of a page server.
    Pageserver(PageserverFeedback),
}

impl ReaderMessage {
    /// Decodes a message. The error closes the connection.
    pub(super) fn decode(mut payload: Bytes) -> Result<Self, ErrorResponse> {
        if payload.first() == Some(&PAGESERVER_FEEDBACK_TAG) {
            if payload.len() < PAGESERVER_FEEDBACK_HEADER_BYTES {
                return Err(malformed(&ProtocolError::Truncated));
            }
            payload.advance(PAGESERVER_FEEDBACK_HEADER_BYTES);
            let feedback = codec::decode_feedback(payload)
                .map_err(|error| ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()))?;
            return Ok(Self::Pageserver(feedback));
        }
        match FromStandby::decode(payload).map_err(|error| malformed(&error))? {
            FromStandby::StatusUpdate(update) => Ok(Self::Status(update)),
            FromStandby::HotStandbyFeedback(message) => Ok(Self::HotStandby(feedback::hot_standby(&message))),
        }
    }
}

fn malformed(error: &ProtocolError) -> ErrorResponse {
    ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
}
