//! [`Effect`]: one thing that an acceptor asks its driver to do.

use bytes::Bytes;
use wal_types::Lsn;

use crate::ConnectionId;
use crate::lineage::Lineage;
use crate::message::AcceptorMessage;
use crate::state::AcceptorState;

/// One thing to do. The driver carries the effects of a list out in their order. When any effect but `Reply` fails, it
/// drops the acceptor and recovers from the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make this state durable before the next effect begins.
    Persist(AcceptorState),
    /// Make durable which cluster the log belongs to (dialect `neon`, once).
    PersistLineage(Lineage),
    /// Durably remove every byte at and above the position.
    Truncate(Lsn),
    /// Append bytes; `at` is always the end of the log. Durable only when the driver calls [`Acceptor::flushed`].
    ///
    /// [`Acceptor::flushed`]: super::Acceptor::flushed
    Write {
        /// Position of the first byte.
        at: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// Read a range of the log and send its CRC-32C as a [`ChecksumResponse`](crate::ChecksumResponse).
    Checksum {
        /// Connection that gets the response.
        reply_to: ConnectionId,
        /// First byte.
        from: Lsn,
        /// Position behind the last byte.
        to: Lsn,
    },
    /// Queue a message for a connection. Never waits.
    Reply {
        /// Connection that gets the message.
        to: ConnectionId,
        /// The message.
        message: AcceptorMessage,
    },
}
