//! [`WalReader`]: reads the log for senders, concurrently with its owner and without a lock.
//!
//! A reader opens its own files. The bytes that it read count only if the snapshot after the read agrees with the one
//! before: the position was not removed, and no file was truncated or replaced since the reader opened its own.

use std::io;
use std::sync::Arc;

use thiserror::Error;
use wal_types::{Lsn, SegmentNumber, Term};

use crate::disk::{Disk, DiskFile};
use crate::error::StoreError;
use crate::segment::{Segments, UnreadablePolicy};
use crate::snapshot::{Health, Snapshot, SnapshotCell};

/// How far a reader may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// Up to the commit position. These bytes never change.
    Committed,
    /// Up to the flush position, as long as the node's term is this one. For a proposer that recovers the log of its
    /// term.
    Flushed(Term),
}

/// Result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// This many bytes were read; at least one.
    Bytes(usize),
    /// No bytes yet: wait for a newer snapshot.
    Nothing,
    /// Files changed during the read. Read again.
    Changed,
}

/// Why a position cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The position lies below the log: it was removed, or never stored here.
    #[error("WAL at {from} is not here; the oldest is at {oldest}")]
    TooOld {
        /// Position of the reader.
        from: Lsn,
        /// First position of the log.
        oldest: Lsn,
    },
    /// The node's term has changed: WAL that is not committed may be truncated.
    #[error("term changed from {expected} to {found} while its log was read")]
    OtherTerm {
        /// Term of the reader.
        expected: Term,
        /// Term of the node.
        found: Term,
    },
    /// The promises of the node are lost, so nothing is served.
    #[error("this copy of the log is damaged")]
    Corrupt,
    /// A write or sync failed. Nothing is served until the log is recovered.
    #[error(
        "this log's disk failed, and the log is not recovered yet; try again, or read from another safekeeper"
    )]
    Failed,
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads one log. Each sender has its own reader.
pub struct WalReader<D: Disk> {
    disk: D,
    snapshots: SnapshotCell,
    mode: ReadMode,
    open: Option<OpenFile<D::File>>,
}

/// The file that the last read used.
struct OpenFile<F> {
    segment: SegmentNumber,
    /// [`Snapshot::truncations`] of the snapshot **before** the file was opened.
    truncations: u64,
    file: F,
}

impl<D: Disk> WalReader<D> {
    /// A reader of the log in `disk`, whose owner publishes `snapshots`.
    pub fn new(disk: D, snapshots: SnapshotCell, mode: ReadMode) -> Self {
        Self { disk, snapshots, mode, open: None }
    }

    /// Reads from `from` on: as many bytes as the buffer takes, up to the end of the segment and the limit of the mode.
    pub fn read(&mut self, from: Lsn, buffer: &mut [u8]) -> Result<ReadOutcome, ReadError> {
        let before = self.snapshots.current();
        let limit = self.read_limit(&before, from)?;
        if limit <= from || buffer.is_empty() {
            return Ok(ReadOutcome::Nothing);
        }

        let segments = Segments {
            disk: self.disk.clone(),
            lineage: (*before.lineage).clone(),
            oldest_lsn: before.oldest_lsn,
            unreadable: UnreadablePolicy::Fail,
        };
        let offset = segments.offset_of(from);
        let left = limit.bytes_since(from).min(segments.wal_bytes() - offset);
        let buffer_bytes = buffer.len();
        let part = &mut buffer[..buffer_bytes.min(left as usize)];
        let read = self.read_part(&before, &segments, from, part);

        let after = self.snapshots.current();
        if after.truncations != before.truncations {
            self.open = None;
            return Ok(ReadOutcome::Changed);
        }
        self.read_limit(&after, from)?;
        match read {
            Ok(()) => Ok(ReadOutcome::Bytes(part.len())),
            Err(error) => {
                self.open = None;
                Err(error.into())
            }
        }
    }

    /// Reads from one segment. The file stays open for the next read if no file changed since it was opened.
    fn read_part(
        &mut self,
        before: &Arc<Snapshot>,
        segments: &Segments<D>,
        from: Lsn,
        part: &mut [u8],
    ) -> Result<(), StoreError> {
        let (segment, truncations) = (segments.number_of(from), before.truncations);
        let usable =
            self.open.take().filter(|open| (open.segment, open.truncations) == (segment, truncations));
        let opened = match usable {
            Some(opened) => opened,
            None => OpenFile { segment, truncations, file: segments.open(segment)? },
        };
        let offset = segments.offset_of(from);
        let result = opened.file.read_at(offset, part);
        self.open = Some(opened);
        result.map_err(|source: io::Error| StoreError::Io { action: "read WAL", source })
    }

    /// End of the bytes that may be read, by the mode.
    fn read_limit(&self, snapshot: &Snapshot, from: Lsn) -> Result<Lsn, ReadError> {
        match snapshot.health {
            Health::Corrupt => return Err(ReadError::Corrupt),
            Health::Failed => return Err(ReadError::Failed),
            // A log that lost WAL serves what it has.
            Health::Healthy | Health::Full | Health::Lost => {}
        }
        if from < snapshot.oldest_lsn {
            return Err(ReadError::TooOld { from, oldest: snapshot.oldest_lsn });
        }
        match self.mode {
            ReadMode::Committed => Ok(snapshot.commit_lsn.min(snapshot.flush_lsn)),
            ReadMode::Flushed(term) if term == snapshot.term => Ok(snapshot.flush_lsn),
            ReadMode::Flushed(expected) => Err(ReadError::OtherTerm { expected, found: snapshot.term }),
        }
    }
}
