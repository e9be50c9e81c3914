//! [`WalReader`]: reads the log for senders, beside its owner and without asking it.
//!
//! It has files of its own and no lock. What it read counts only if the snapshot afterwards still says what the one
//! before said: the start is still there, and no file was cut or replaced since this reader opened the one it read.

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
    /// Up to the commit position: what will never change.
    Committed,
    /// Up to the flush position, for a proposer that recovers: what the log of `Term` has, as long as that is the
    /// node's term.
    Flushed(Term),
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// So many bytes; at least one.
    Bytes(usize),
    /// There are no more yet: wait for a newer snapshot.
    Nothing,
    /// Files changed meanwhile. Read again.
    Changed,
}

/// Why nothing can be read here.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The position was removed, or never was here.
    #[error("WAL at {from} is not here; the oldest is at {oldest}")]
    TooOld {
        /// Where the reader stands.
        from: Lsn,
        /// Where this log begins.
        oldest: Lsn,
    },
    /// The node's term is another one: what is not committed may be cut.
    #[error("the term changed from {expected} to {found} while its log was read")]
    OtherTerm {
        /// The reader's.
        expected: Term,
        /// The node's.
        found: Term,
    },
    /// Nothing is served of a damaged log.
    #[error("this copy of the log is damaged")]
    Corrupt,
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads one log. One for each sender.
pub struct WalReader<D: Disk> {
    disk: D,
    snapshots: SnapshotCell,
    mode: ReadMode,
    open: Option<OpenFile<D::File>>,
}

struct OpenFile<F> {
    segment: SegmentNumber,
    /// The number of truncations in the snapshot **before** the file was opened.
    truncations: u64,
    file: F,
}

impl<D: Disk> WalReader<D> {
    /// A reader of the log in `disk`, whose owner publishes `snapshots`.
    pub fn new(disk: D, snapshots: SnapshotCell, mode: ReadMode) -> Self {
        Self { disk, snapshots, mode, open: None }
    }

    /// Reads from `from` on, as much as there is in the buffer, in the segment, and below the limit of the mode.
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

    fn read_limit(&self, snapshot: &Snapshot, from: Lsn) -> Result<Lsn, ReadError> {
        if snapshot.health == Health::Corrupt {
            return Err(ReadError::Corrupt);
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
