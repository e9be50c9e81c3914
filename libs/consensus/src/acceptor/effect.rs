//! [`Effect`]: what an acceptor wants done.

use bytes::Bytes;
use wal_types::Lsn;

use crate::ConnectionId;
use crate::lineage::Lineage;
use crate::message::AcceptorMessage;
use crate::state::AcceptorState;

/// One thing to do. A failure of any but `Reply` ends this acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make this state durable.
    Persist(AcceptorState),
    /// Make what was learnt about the cluster durable (dialect `neon`, once).
    PersistLineage(Lineage),
    /// Durably remove every byte at and above the position.
    Truncate(Lsn),
    /// Append bytes; `at` is always the end of the log. Durable only when the driver calls [`Acceptor::flushed`].
    Write {
        /// Position of the first byte.
        at: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// Read a part of the log and post its CRC-32C as a [`ChecksumResponse`].
    Checksum {
        /// Who asked.
        reply_to: ConnectionId,
        /// First byte.
        from: Lsn,
        /// Behind the last byte.
        to: Lsn,
    },
    /// Post a message. Never waits.
    Reply {
        /// To whom.
        to: ConnectionId,
        /// What.
        message: AcceptorMessage,
    },
}
