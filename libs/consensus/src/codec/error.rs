//! [`CodecError`]: why bytes cannot be decoded, or a message cannot be encoded.

use thiserror::Error;
use wal_types::Lsn;

use super::version::version_name;
use crate::configuration::InvalidConfiguration;
use crate::lineage::ProtocolVersion;
use crate::term_history::HistoryOutOfOrder;

/// Why a frame cannot be decoded, or a message cannot be encoded. All errors blame the peer, except
/// [`CodecError::NotInVersion`] and a host name or configuration that cannot be encoded. No error carries bytes of the peer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The version has no such message, so it cannot be sent.
    #[error("protocol version {} has no {kind} message", version_name(*version))]
    NotInVersion {
        /// Kind of the message.
        kind: &'static str,
        /// Version of the connection.
        version: ProtocolVersion,
    },
    /// The first byte names no message of this version and direction.
    #[error("unknown message tag {tag:#04x} in protocol version {}", version_name(*version))]
    UnknownTag {
        /// The first byte.
        tag: u8,
        /// Version of the connection.
        version: ProtocolVersion,
    },
    /// The message ends inside a field.
    #[error("message ends inside a field of {needed} bytes; {left} bytes are left")]
    Short {
        /// Length of the next field, in bytes.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// Bytes follow the end of an acceptor's message.
    #[error("message has {0} bytes behind its end")]
    Trailing(usize),
    /// A list is longer than its limit.
    #[error("{count} {what} in one message; at most {max} are possible")]
    TooMany {
        /// Name of the list.
        what: &'static str,
        /// Its claimed length.
        count: u32,
        /// The limit.
        max: usize,
    },
    /// A text is unterminated, too long, not UTF-8, or not of the form of its field.
    #[error("{0} is malformed")]
    Text(&'static str),
    /// A flag is neither 0 nor 1.
    #[error("{what} is {value}, neither 0 nor 1")]
    Flag {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// The greeting names another version than the connection was opened with.
    #[error("greeting of protocol version {0} on a connection of version 2")]
    GreetingVersion(u32),
    /// The end of a range lies before its beginning.
    #[error("range from {from} to {to} ends before it begins")]
    Range {
        /// First byte.
        from: Lsn,
        /// Position behind the last byte.
        to: Lsn,
    },
    /// The header of an append promises more WAL than one append may carry.
    #[error("append of {0} bytes of WAL; at most {max} are possible", max = crate::APPEND_WAL_BYTES_MAX)]
    AppendTooLong(u64),
    /// The header of an append and its WAL disagree.
    #[error("append announces {announced} bytes of WAL and carries {carried}")]
    AppendLength {
        /// End minus beginning.
        announced: usize,
        /// Bytes behind the header.
        carried: usize,
    },
    /// A known key of a page server's feedback has a value of the wrong size, or any key has a value of negative size.
    #[error("page server feedback has a value of {0} bytes, which its key does not allow")]
    FeedbackValue(i64),
    /// The term history is out of order.
    #[error(transparent)]
    History(#[from] HistoryOutOfOrder),
    /// The configuration is one that no node may hold.
    #[error(transparent)]
    Configuration(#[from] InvalidConfiguration),
}
