//! [`StoreError`]: why a timeline cannot be opened or cannot continue.
//!
//! Variants are sorted by the remedy: make room, look at the disk, repair the log from a leader, or correct the caller.

use std::io;

use consensus::{InvalidConfiguration, START_HISTORY_BYTES_MAX};
use thiserror::Error;
use wal_types::{Lsn, NodeId, SegmentNumber, Term};

/// A failure of the store. `action` completes "cannot …" or "no space left to …".
#[derive(Debug, Error)]
pub enum StoreError {
    /// The disk is full. Temporary: the same call succeeds once there is room.
    #[error("no space left to {action}")]
    Full {
        /// The step that needed room.
        action: &'static str,
    },
    /// No file can be opened, because too many are. Temporary, and nothing was changed, as for [`StoreError::Full`].
    #[error("cannot {action}: {source}")]
    OutOfHandles {
        /// The step that needed an open file.
        action: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// The disk failed. What it holds is known only after it was read again.
    #[error("cannot {action}: {source}")]
    Io {
        /// The step that failed.
        action: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// WAL that may have been acknowledged cannot be read. A later read may succeed, or the sector is gone for good.
    #[error("cannot {action}: {source}")]
    Unreadable {
        /// The step that failed.
        action: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// Stored data is damaged. [`Corruption`] says whether WAL or promises are lost.
    #[error("damaged: {0}")]
    Corrupt(#[from] Corruption),
    /// WAL that was durable when this replica opened is no longer there. A recovery finds out what is left.
    #[error("WAL below {below} was durable and can no longer be read as WAL")]
    DurableWalGone {
        /// End of the log that was durable.
        below: Lsn,
    },
    /// The directory holds no timeline.
    #[error("the directory holds no timeline")]
    Missing,
    /// The directory already holds a timeline.
    #[error("the directory already holds a timeline")]
    Exists,
    /// The timeline belongs to another safekeeper.
    #[error("timeline belongs to safekeeper {found}, not to {expected}")]
    OtherNode {
        /// Safekeeper that opens the timeline.
        expected: NodeId,
        /// Safekeeper named in the control file.
        found: NodeId,
    },
    /// Another release wrote the control file.
    #[error(
        "timeline has format {found}, this release reads format {known}; start the release that wrote it, or create the log \
         anew on this safekeeper and let it join as a new member"
    )]
    Format {
        /// Version in the control file.
        found: u32,
        /// Version that this release reads.
        known: u32,
    },
    /// A timeline cannot be created with this lineage.
    #[error("cannot create a timeline: {0}")]
    InvalidLineage(#[from] InvalidLineage),
    /// A timeline cannot be created with this configuration.
    #[error("cannot create a timeline: {0}")]
    InvalidConfiguration(#[from] InvalidConfiguration),
    /// The control file cannot hold a term history of this length.
    #[error("control file slot of {bytes} bytes exceeds {bytes_max}: the term history is too long")]
    ControlTooLarge {
        /// Size that the slot would need.
        bytes: usize,
        /// Largest size of a slot.
        bytes_max: usize,
    },
    /// The replica called its writer in an order that the writer forbids: a defect in this crate.
    #[error("defect in the store: {0}")]
    Misuse(#[from] Misuse),
}

/// Stored data that is damaged. See [`StoreError::is_loss_of_wal`] for the two kinds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Corruption {
    /// Neither slot of the control file is whole.
    #[error("both slots of the control file are damaged")]
    ControlFile,
    /// The control file passes its checksum, but its content is impossible.
    #[error("control file has impossible content: {0}")]
    ControlContent(&'static str),
    /// The control file passes its checksum, but its lineage is impossible.
    #[error("control file has an impossible lineage: {0}")]
    ControlLineage(InvalidLineage),
    /// The log ends below its commit position.
    #[error("log ends at {end}, below the commit position {commit_lsn}: {reason}")]
    BelowCommit {
        /// End of the last whole record.
        end: Lsn,
        /// Commit position in the control file.
        commit_lsn: Lsn,
        /// What the scan found at the end.
        reason: String,
    },
    /// The log ends below its acknowledged position.
    #[error("log ends at {end}, below the acknowledged position {acked_upto}: {reason}")]
    BelowAcknowledged {
        /// End of the last whole record.
        end: Lsn,
        /// Acknowledged position in a footer.
        acked_upto: Lsn,
        /// What the scan found at the end.
        reason: String,
    },
    /// Neither slot of a segment's footer is whole.
    #[error("both footers of segment {0} are damaged")]
    Footer(SegmentNumber),
    /// A segment has no file, though the log begins below it and continues above it.
    #[error("segment {0} is missing")]
    MissingSegment(SegmentNumber),
    /// The disk refuses to read WAL that was written.
    #[error("WAL at {0} cannot be read")]
    CannotBeRead(Lsn),
    /// A segment's file has a length that the store never gives one.
    #[error("file of segment {segment} has {found} bytes instead of {expected}")]
    SegmentLength {
        /// The segment.
        segment: SegmentNumber,
        /// Length that the store gave it, in bytes.
        expected: u64,
        /// Length that it has, in bytes.
        found: u64,
    },
    /// A footer names a term that the control file does not know: the control file is older than the segment.
    #[error("segment {segment} was written in term {found}, the control file knows only term {known}")]
    TermAhead {
        /// The segment.
        segment: SegmentNumber,
        /// Term in the footer.
        found: Term,
        /// Term in the control file.
        known: Term,
    },
}

/// A lineage that no log can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidLineage {
    /// The log would begin inside a segment.
    #[error("log start {0} is not the start of a segment")]
    StartInsideSegment(Lsn),
    /// The history file does not belong to a log that begins on this timeline, or is too long.
    #[error(
        "history file is longer than {START_HISTORY_BYTES_MAX} bytes, or the log begins on timeline 1, which has none"
    )]
    StartHistory,
    /// The log would begin at position zero, which PostgreSQL uses for "no position".
    #[error("log start is position zero")]
    StartAtZero,
}

/// A call of the writer in an order that it forbids. Never caused by bytes from a network or a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Misuse {
    /// Bytes do not begin where the log ends.
    #[error("write at {at}, though the log ends at {end}")]
    WriteNotAtEnd {
        /// Where the bytes begin.
        at: Lsn,
        /// Where the log ends.
        end: Lsn,
    },
    /// No room was reserved for the segment.
    #[error("write to segment {0}, which was not reserved")]
    SegmentNotReserved(SegmentNumber),
    /// The bytes were not scanned before they were written.
    #[error("write at {at} of bytes that were not scanned")]
    WriteNotScanned {
        /// Where the bytes begin.
        at: Lsn,
    },
    /// A message other than an append asks for a write.
    #[error("write at {at} without an append")]
    WriteWithoutAppend {
        /// Where the bytes begin.
        at: Lsn,
    },
    /// No scanner was prepared for the new end of the log.
    #[error("truncation to {at} was not prepared")]
    TruncationNotPrepared {
        /// The new end of the log.
        at: Lsn,
    },
}

impl Corruption {
    fn is_of_wal(&self) -> bool {
        match self {
            Self::ControlFile
            | Self::ControlContent(_)
            | Self::ControlLineage(_)
            | Self::TermAhead { .. } => false,
            Self::BelowCommit { .. }
            | Self::BelowAcknowledged { .. }
            | Self::Footer(_)
            | Self::MissingSegment(_)
            | Self::CannotBeRead(_)
            | Self::SegmentLength { .. } => true,
        }
    }
}

impl StoreError {
    /// Maps an error of the operating system, and sets a full disk, and too many open files, apart from a failed disk.
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source {
            source if crate::disk::is_full(&source) => Self::Full { action },
            source if crate::disk::is_out_of_handles(&source) => Self::OutOfHandles { action, source },
            source => Self::Io { action, source },
        }
    }

    /// Maps an error of a read of a segment's file.
    pub(crate) fn unreadable(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Unreadable { action, source }
    }

    /// True when nothing was changed for want of space or of open files: the same call succeeds once there is room.
    pub fn is_no_room(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::OutOfHandles { .. })
    }

    /// True for damage that costs a part of the log: a recovery continues without that part, and the node does not
    /// vote. False for damage that costs promises: then the timeline must neither vote nor serve, and never again
    /// under this node's number.
    pub fn is_loss_of_wal(&self) -> bool {
        matches!(self, Self::Corrupt(what) if what.is_of_wal())
    }
}

impl From<io::Error> for StoreError {
    fn from(source: io::Error) -> Self {
        Self::io("use the timeline's directory")(source)
    }
}
