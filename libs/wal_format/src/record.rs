//! Record header: decodes, encodes and checks the header of a WAL record (`XLogRecord` in PostgreSQL's
//! `access/xlogrecord.h`).
//!
//! Only the framing of a record is known here, not what it does to a database.

use thiserror::Error;
use wal_types::Lsn;

use crate::page::{u32_at, u64_at};

/// Length of a record's header, and so the shortest record.
pub const RECORD_HEADER_BYTES: usize = 24;
/// Records begin at multiples of this (`MAXALIGN`). Padding bytes belong to no record.
pub const RECORD_ALIGNMENT_BYTES: u64 = 8;
/// Longest record that a server writes (`XLogRecordMaxSize`).
pub const XLOG_RECORD_BYTES_MAX: u32 = 1020 * 1024 * 1024;

/// Resource manager of the records that are about WAL itself.
pub(crate) const RMID_XLOG: u8 = 0;
/// Last built-in resource manager of majors 14 to 18 (logical messages). Extensions have 128 and up.
const RMID_BUILTIN_MAX: u8 = 21;
const RMID_CUSTOM_MIN: u8 = 128;

pub(crate) const INFO_XLOG_SWITCH: u8 = 0x40;
pub(crate) const INFO_XLOG_OVERWRITE_CONTRECORD: u8 = 0xd0;
/// The low bits of `xl_info` are not the resource manager's.
const INFO_FREE_BITS: u8 = 0x0f;

const CHECKSUM_OFFSET: usize = 20;

/// Header of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Length of the record in bytes, header included; alignment and page headers are not counted.
    pub total_bytes: u32,
    /// Transaction that wrote the record; zero for none.
    pub xid: u32,
    /// Start of the record before.
    pub prev: Lsn,
    /// Kind of the record, defined by its resource manager.
    pub info: u8,
    /// Resource manager.
    pub rmid: u8,
    /// CRC-32C of the body, then of the header's first 20 bytes.
    pub checksum: u32,
}

impl RecordHeader {
    /// Decodes a header. Any 24 bytes are one; [`RecordHeader::check`] tells whether it is possible.
    pub fn parse(bytes: &[u8; RECORD_HEADER_BYTES]) -> Self {
        Self {
            total_bytes: u32_at(bytes, 0),
            xid: u32_at(bytes, 4),
            prev: Lsn(u64_at(bytes, 8)),
            info: bytes[16],
            rmid: bytes[17],
            checksum: u32_at(bytes, CHECKSUM_OFFSET),
        }
    }

    /// The header in the server's byte order.
    pub fn encode(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.total_bytes.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.xid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.prev.0.to_le_bytes());
        bytes[16] = self.info;
        bytes[17] = self.rmid;
        bytes[CHECKSUM_OFFSET..].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// Checks length and resource manager.
    pub fn check(&self) -> Result<(), RecordError> {
        check_total_bytes(self.total_bytes)?;
        match self.rmid {
            0..=RMID_BUILTIN_MAX | RMID_CUSTOM_MIN.. => Ok(()),
            rmid => Err(RecordError::ResourceManager(rmid)),
        }
    }

    /// True for a switch, behind which the rest of the segment is unused (`XLOG_SWITCH`).
    pub const fn is_switch(&self) -> bool {
        self.is_xlog(INFO_XLOG_SWITCH)
    }

    /// True for the record that overwrites a partial one after a crash (`XLOG_OVERWRITE_CONTRECORD`).
    pub const fn is_overwrite(&self) -> bool {
        self.is_xlog(INFO_XLOG_OVERWRITE_CONTRECORD)
    }

    const fn is_xlog(&self, info: u8) -> bool {
        self.rmid == RMID_XLOG && self.info & !INFO_FREE_BITS == info
    }
}

/// Checks a length. It is known before the rest of the header when that is on the next page.
pub(crate) fn check_total_bytes(total_bytes: u32) -> Result<(), RecordError> {
    if (RECORD_HEADER_BYTES as u32..=XLOG_RECORD_BYTES_MAX).contains(&total_bytes) {
        Ok(())
    } else {
        Err(RecordError::Length(total_bytes))
    }
}

/// Checksum of a record, from that of its body (`crc32c_append` over its pieces, beginning with 0).
pub(crate) fn record_checksum(header: &[u8; RECORD_HEADER_BYTES], body_checksum: u32) -> u32 {
    crc32c::crc32c_append(body_checksum, &header[..CHECKSUM_OFFSET])
}

/// Why bytes are not a record, or not the one that belongs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say what each one is")]
pub enum RecordError {
    #[error("record length of {0} bytes is impossible")]
    Length(u32),
    #[error("resource manager {0} does not exist")]
    ResourceManager(u8),
    #[error("record names {found} as the start of the record before, expected {expected}")]
    Prev { expected: Lsn, found: Lsn },
    #[error("record names {0} as the start of the record before, which is not before it")]
    PrevNotBefore(Lsn),
    #[error("record checksum is {computed:08X}, stored is {stored:08X}")]
    Checksum { computed: u32, stored: u32 },
    #[error("page header announces an overwrite record, but the first record of the page is another")]
    NotAnOverwrite,
    #[error("record overwrites a partial record, but its page header does not announce that")]
    OverwritesNothing,
    #[error("record overwrites a partial record at {0}, which is not the one before it")]
    Overwrites(Lsn),
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWITCH: RecordHeader = RecordHeader {
        total_bytes: 24,
        xid: 7,
        prev: Lsn(0x0102_0304_0506_0708),
        info: INFO_XLOG_SWITCH,
        rmid: RMID_XLOG,
        checksum: 0xdead_beef,
    };

    #[test]
    fn record_header_has_the_server_layout() {
        let wire = SWITCH.encode();
        assert_eq!(RecordHeader::parse(&wire), SWITCH);
        assert_eq!(wire[..16], [24, 0, 0, 0, 7, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(wire[16..], [0x40, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde]);
    }

    #[test]
    fn record_header_refuses_impossible_values() {
        for (total_bytes, rmid, expected) in [
            (24, 21, Ok(())),
            (XLOG_RECORD_BYTES_MAX, 128, Ok(())),
            (23, 0, Err(RecordError::Length(23))),
            (XLOG_RECORD_BYTES_MAX + 1, 0, Err(RecordError::Length(XLOG_RECORD_BYTES_MAX + 1))),
            (24, 22, Err(RecordError::ResourceManager(22))),
            (24, 127, Err(RecordError::ResourceManager(127))),
        ] {
            assert_eq!(RecordHeader { total_bytes, rmid, ..SWITCH }.check(), expected);
        }
    }

    #[test]
    fn is_switch_ignores_the_low_info_bits() {
        assert!(SWITCH.is_switch());
        assert!(RecordHeader { info: 0x41, ..SWITCH }.is_switch());
        assert!(!RecordHeader { info: 0x50, ..SWITCH }.is_switch());
        assert!(!RecordHeader { rmid: 1, ..SWITCH }.is_switch());
    }
}
