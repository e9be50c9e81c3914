//! [`CodecError`]: why bytes are no message, or a message has no bytes.

use thiserror::Error;
use wal_types::Lsn;

use super::version_name;
use crate::configuration::InvalidConfiguration;
use crate::lineage::ProtocolVersion;
use crate::term_history::HistoryOutOfOrder;

/// All but [`CodecError::NotInVersion`] and an unwritable host name blame the peer. Carries no bytes of the peer's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// This side wants to say what the version has no words for.
    #[error("protocol version {} has no {kind} message", version_name(*version))]
    NotInVersion {
        /// What was to be sent.
        kind: &'static str,
        /// What the connection speaks.
        version: ProtocolVersion,
    },
    /// The first byte names no message of this version and direction.
    #[error("unknown message tag {tag:#04x} in protocol version {}", version_name(*version))]
    UnknownTag {
        /// The byte.
        tag: u8,
        /// What the connection speaks.
        version: ProtocolVersion,
    },
    /// The message ends inside a field.
    #[error("message is cut off: {needed} more bytes expected, {left} are left")]
    Short {
        /// Bytes that the next field takes.
        needed: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// An acceptor's message goes on behind its end.
    #[error("{0} bytes behind the end of the message")]
    Trailing(usize),
    /// A list is longer than anything legal.
    #[error("{count} {what} in one message; at most {max} are possible")]
    TooMany {
        /// What the list holds.
        what: &'static str,
        /// Its claimed length.
        count: u32,
        /// The limit.
        max: usize,
    },
    /// A text is unterminated, too long, not UTF-8, or not of the form that its field asks for.
    #[error("{0} is malformed")]
    Text(&'static str),
    /// A yes or no that is neither 0 nor 1.
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
        /// Behind the last byte.
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
    /// A known key of a page server's feedback has a value of the wrong size, or any key has a negative one.
    #[error("page server feedback holds a value of {0} bytes where that cannot be")]
    FeedbackValue(i64),
    /// The term history is none.
    #[error(transparent)]
    History(#[from] HistoryOutOfOrder),
    /// The configuration is one that no node may hold.
    #[error(transparent)]
    Configuration(#[from] InvalidConfiguration),
}
