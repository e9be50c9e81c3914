//! Replication messages: the payloads of CopyData while a server streams WAL (PostgreSQL documentation, "Streaming
//! Replication Protocol").
//!
//! Timestamps are microseconds since 2000-01-01, as PostgreSQL counts them, and come in as arguments;
//! [`postgres_micros`] converts.

use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use wal_types::Lsn;

use crate::error::ProtocolError;
use crate::wire::Cursor;

/// Seconds from 1970-01-01 to 2000-01-01.
const POSTGRES_EPOCH_SECONDS: u64 = 946_684_800;

/// Bytes in front of the WAL in an XLogData payload.
pub const XLOG_DATA_HEADER_BYTES: usize = 25;

/// Converts `time` to microseconds since 2000-01-01; saturates at the ends of the range.
pub fn postgres_micros(time: SystemTime) -> i64 {
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(POSTGRES_EPOCH_SECONDS);
    match time.duration_since(epoch) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    }
}

/// A CopyData payload from the side that sends WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromPrimary {
    /// `w`: a piece of WAL.
    XLogData(XLogData),
    /// `k`: a keepalive.
    Keepalive(PrimaryKeepalive),
}

/// A CopyData payload from the side that receives WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromStandby {
    /// `r`: the standby's positions.
    StatusUpdate(StandbyStatusUpdate),
    /// `h`: the rows that the standby's queries still need.
    HotStandbyFeedback(HotStandbyFeedback),
}

/// A piece of WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XLogData {
    /// Position of the first byte of `data`.
    pub start: Lsn,
    /// End of WAL on the server when it was sent.
    pub server_end: Lsn,
    /// The server's clock, in microseconds since 2000-01-01.
    pub sent_at_micros: i64,
    /// The WAL.
    pub data: Bytes,
}

/// A sign of life of the server, which may ask for a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrimaryKeepalive {
    /// End of WAL on the server.
    pub server_end: Lsn,
    /// The server's clock, in microseconds since 2000-01-01.
    pub sent_at_micros: i64,
    /// The server asks for a status update at once.
    pub reply_requested: bool,
}

/// The standby's positions. Each is that of the byte behind the last one; zero means "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyStatusUpdate {
    /// WAL before this position is received and written.
    pub write: Lsn,
    /// WAL before this position is on disk.
    pub flush: Lsn,
    /// WAL before this position is replayed.
    pub apply: Lsn,
    /// The standby's clock, in microseconds since 2000-01-01.
    pub sent_at_micros: i64,
    /// The standby asks for a keepalive at once.
    pub reply_requested: bool,
}

/// The oldest row versions that queries on a standby still need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotStandbyFeedback {
    /// The standby's clock, in microseconds since 2000-01-01.
    pub sent_at_micros: i64,
    /// Oldest transaction id that is needed; 0 for none.
    pub xmin: u32,
    /// Epoch of `xmin`.
    pub xmin_epoch: u32,
    /// Oldest transaction id that is needed for catalogs; 0 for none.
    pub catalog_xmin: u32,
    /// Epoch of `catalog_xmin`.
    pub catalog_xmin_epoch: u32,
}

impl FromPrimary {
    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::XLogData(message) => {
                put_xlog_data_header(out, message.start, message.server_end, message.sent_at_micros);
                out.put_slice(&message.data);
            }
            Self::Keepalive(message) => message.encode(out),
        }
    }

    /// Decodes a payload; the WAL is not copied.
    pub fn decode(payload: Bytes) -> Result<Self, ProtocolError> {
        let mut cursor = Cursor::new(payload);
        let message = match cursor.u8()? {
            b'w' => Self::XLogData(XLogData {
                start: Lsn(cursor.u64()?),
                server_end: Lsn(cursor.u64()?),
                sent_at_micros: cursor.i64()?,
                data: cursor.read_to_end(),
            }),
            b'k' => Self::Keepalive(PrimaryKeepalive {
                server_end: Lsn(cursor.u64()?),
                sent_at_micros: cursor.i64()?,
                reply_requested: cursor.u8()? != 0,
            }),
            other => return Err(ProtocolError::UnknownTag(other)),
        };
        cursor.finish().map(|()| message)
    }
}

/// Appends the header of an XLogData payload, so that a sender can read WAL straight behind it, without a copy.
pub fn put_xlog_data_header(out: &mut BytesMut, start: Lsn, server_end: Lsn, sent_at_micros: i64) {
    out.put_u8(b'w');
    out.put_u64(start.0);
    out.put_u64(server_end.0);
    out.put_i64(sent_at_micros);
}

impl PrimaryKeepalive {
    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(b'k');
        out.put_u64(self.server_end.0);
        out.put_i64(self.sent_at_micros);
        out.put_u8(self.reply_requested.into());
    }
}

impl FromStandby {
    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::StatusUpdate(message) => message.encode(out),
            Self::HotStandbyFeedback(message) => message.encode(out),
        }
    }

    /// Decodes a payload.
    pub fn decode(payload: Bytes) -> Result<Self, ProtocolError> {
        let mut cursor = Cursor::new(payload);
        let message = match cursor.u8()? {
            b'r' => Self::StatusUpdate(StandbyStatusUpdate {
                write: Lsn(cursor.u64()?),
                flush: Lsn(cursor.u64()?),
                apply: Lsn(cursor.u64()?),
                sent_at_micros: cursor.i64()?,
                reply_requested: cursor.u8()? != 0,
            }),
            b'h' => Self::HotStandbyFeedback(HotStandbyFeedback {
                sent_at_micros: cursor.i64()?,
                xmin: cursor.u32()?,
                xmin_epoch: cursor.u32()?,
                catalog_xmin: cursor.u32()?,
                catalog_xmin_epoch: cursor.u32()?,
            }),
            other => return Err(ProtocolError::UnknownTag(other)),
        };
        cursor.finish().map(|()| message)
    }
}

impl StandbyStatusUpdate {
    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(b'r');
        out.put_u64(self.write.0);
        out.put_u64(self.flush.0);
        out.put_u64(self.apply.0);
        out.put_i64(self.sent_at_micros);
        out.put_u8(self.reply_requested.into());
    }
}

impl HotStandbyFeedback {
    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(b'h');
        out.put_i64(self.sent_at_micros);
        out.put_u32(self.xmin);
        out.put_u32(self.xmin_epoch);
        out.put_u32(self.catalog_xmin);
        out.put_u32(self.catalog_xmin_epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_micros_count_from_2000() {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(POSTGRES_EPOCH_SECONDS);
        assert_eq!(postgres_micros(epoch), 0);
        assert_eq!(postgres_micros(epoch + Duration::from_millis(1)), 1000);
        assert_eq!(postgres_micros(epoch - Duration::from_secs(1)), -1_000_000);
    }

    #[test]
    fn standby_messages_have_the_documented_length() {
        let status = StandbyStatusUpdate {
            write: Lsn(1),
            flush: Lsn(2),
            apply: Lsn(3),
            sent_at_micros: 4,
            reply_requested: true,
        };
        let feedback = HotStandbyFeedback {
            sent_at_micros: 1,
            xmin: 2,
            xmin_epoch: 3,
            catalog_xmin: 4,
            catalog_xmin_epoch: 5,
        };
        for (message, length) in
            [(FromStandby::StatusUpdate(status), 34), (FromStandby::HotStandbyFeedback(feedback), 25)]
        {
            let mut out = BytesMut::new();
            message.encode(&mut out);
            assert_eq!(out.len(), length);
            for shorter in 0..length {
                assert!(FromStandby::decode(out.clone().freeze().slice(..shorter)).is_err());
            }
            out.put_u8(0);
            assert_eq!(FromStandby::decode(out.freeze()), Err(ProtocolError::TrailingBytes(1)));
        }
    }
}
