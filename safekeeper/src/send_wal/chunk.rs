//! [`ChunkReader`]: reads WAL in the pieces that one message carries.

use postgres_backend::QueryError;
use pq_proto::{ErrorResponse, SqlState};
use tokio::task::spawn_blocking;
use wal_store::{ReadError, ReadOutcome, RealDisk, WalReader};
use wal_types::Lsn;

use crate::closing::shutting_down;

/// Most WAL in one message: 16 pages, as PostgreSQL sends it.
pub(crate) const SEND_WAL_BYTES_MAX: u64 = 128 * 1024;

/// A chunk ends at a page boundary, or at the end of the WAL.
const PAGE_BYTES: u64 = wal_format::PAGE_BYTES as u64;

/// Reads WAL on a blocking thread, into one buffer.
pub(super) struct ChunkReader {
    /// The reader and its buffer; `None` while a blocking thread has them.
    wal: Option<(WalReader<RealDisk>, Vec<u8>)>,
}

impl ChunkReader {
    pub(super) fn new(wal: WalReader<RealDisk>) -> Self {
        Self { wal: Some((wal, Vec::new())) }
    }

    /// The bytes of `[from, to)`, or the first of them. `None` when the log changed meanwhile: the caller looks at the newest
    /// snapshot.
    pub(super) async fn read(&mut self, from: Lsn, to: Lsn) -> Result<Option<&[u8]>, QueryError> {
        let Some((mut wal, mut buffer)) = self.wal.take() else { return Ok(None) };
        // Off the runtime's threads: a read may wait for the disk.
        let reading = spawn_blocking(move || {
            buffer.resize(to.bytes_since(from) as usize, 0);
            let result = wal.read(from, &mut buffer);
            (wal, buffer, result)
        });
        let (wal, buffer, result) = reading.await.map_err(|_| shutting_down())?;

        let (_, buffer) = self.wal.insert((wal, buffer));
        match result {
            Ok(ReadOutcome::Bytes(count)) => Ok(buffer.get(..count)),
            // The caller reports removed WAL when it looks at the newest snapshot.
            Ok(ReadOutcome::Nothing | ReadOutcome::Changed) | Err(ReadError::TooOld { .. }) => Ok(None),
            Err(error) => Err(read_failed(&error).into()),
        }
    }
}

/// End of the chunk that begins at `from`: a page boundary, the end of a segment, or the end of the available WAL.
pub(super) fn chunk_end(from: Lsn, available: Lsn, segment_bytes: u64) -> Lsn {
    let segment_end = from.advance(1).align_up(segment_bytes);
    let most = from.advance(SEND_WAL_BYTES_MAX).min(segment_end);
    if available <= most {
        return available;
    }
    // A chunk is longer than a page, so this is above `from`; the end of a segment is the end of a page.
    most.align_down(PAGE_BYTES)
}

/// The closing message after a failed read: a copy that has begun cannot go on without the bytes.
fn read_failed(error: &ReadError) -> ErrorResponse {
    let sqlstate = match error {
        ReadError::TooOld { .. } => SqlState::UNDEFINED_FILE,
        ReadError::OtherTerm { .. } => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        ReadError::Corrupt => SqlState::DATA_CORRUPTED,
        ReadError::Failed | ReadError::Store(_) => SqlState::IO_ERROR,
    };
    ErrorResponse::fatal(sqlstate, format!("cannot read WAL: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_end_is_page_or_end_of_wal() {
        const SEGMENT: u64 = 0x100_0000;
        for (from, available, end) in [
            (0x100_0000, 0x100_0028, 0x100_0028),
            (0x100_0000, 0x102_0000, 0x102_0000),
            (0x100_0000, 0x102_0001, 0x102_0000),
            (0x100_0030, 0x150_0000, 0x102_0000),
            (0x100_0030, 0x102_0030, 0x102_0030),
            (0x100_0030, 0x102_0031, 0x102_0000),
            (0x1ff_f000, 0x300_0000, 0x200_0000),
            (0x1ff_f000, 0x1ff_f008, 0x1ff_f008),
            (0x200_0000, 0x300_0000, 0x202_0000),
        ] {
            assert_eq!(chunk_end(Lsn(from), Lsn(available), SEGMENT), Lsn(end), "{from:x} {available:x}");
        }
    }
}
