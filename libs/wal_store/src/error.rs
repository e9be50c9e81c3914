//! [`StoreError`]: why a timeline cannot be opened or cannot go on. Sorted by what has to happen next: make room, look
//! at the disk, take the data from a peer, or mend the call.

use std::io;

use thiserror::Error;
use wal_types::{Lsn, NodeId, SegmentNumber, Term};

/// A failure of the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No room. Goes away when somebody makes room.
    #[error("no space left to {action}")]
    Full {
        /// What was tried.
        action: &'static str,
    },
    /// The disk failed. What it holds is known only after it was read again.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// WAL that may have been acknowledged cannot be read. It may be again, or its sector may be gone.
    #[error("cannot {action}: {source}")]
    Unreadable {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What this node promised is damaged. It must neither vote nor serve, and never again under its number.
    #[error("damaged: {0}")]
    Corrupt(#[from] Corruption),
    /// The directory holds no timeline.
    #[error("there is no timeline here")]
    Missing,
    /// The directory holds a timeline already.
    #[error("there is a timeline here already")]
    Exists,
    /// The directory belongs to another safekeeper.
    #[error("this timeline belongs to safekeeper {found}, not to {expected}")]
    OtherNode {
        /// Who opens it.
        expected: NodeId,
        /// Whose it is.
        found: NodeId,
    },
    /// The directory was written by another release.
    #[error("the timeline has format {found}, this release knows {known}")]
    Format {
        /// What is there.
        found: u32,
        /// What we can read.
        known: u32,
    },
    /// The caller asked for something that makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
}

/// What is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Corruption {
    /// Neither copy of the control file is whole.
    #[error("both copies in the control file are bad")]
    ControlFile,
    /// The control file is whole, but says what cannot be.
    #[error("the control file makes no sense: {0}")]
    ControlContent(&'static str),
    /// The log ends below what is known to be committed.
    #[error("the log ends at {end}, below the commit position {commit_lsn}: {reason}")]
    BelowCommit {
        /// End of the last whole record.
        end: Lsn,
        /// Committed, as the control file says.
        commit_lsn: Lsn,
        /// What is found at the end.
        reason: String,
    },
    /// The log ends below what was acknowledged.
    #[error("the log ends at {end}, but everything up to {acked_upto} was acknowledged: {reason}")]
    BelowAcknowledged {
        /// End of the last whole record.
        end: Lsn,
        /// Acknowledged, as a footer says.
        acked_upto: Lsn,
        /// What is found at the end.
        reason: String,
    },
    /// Neither copy of a segment's footer is whole.
    #[error("both footers of segment {0} are bad")]
    Footer(SegmentNumber),
    /// The log begins below a segment that has no file, and goes on above it.
    #[error("segment {0} is missing")]
    MissingSegment(SegmentNumber),
    /// The disk does not give back what was written there.
    #[error("nothing can be read at {0}")]
    CannotBeRead(Lsn),
    /// A segment file has a length that it was never given.
    #[error("the file of segment {segment} has {found} bytes instead of {expected}")]
    SegmentLength {
        /// Which.
        segment: SegmentNumber,
        /// What it was given.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// A segment was written in a term that the control file does not know.
    #[error("segment {segment} was written in term {found}, the control file knows only {known}")]
    TermAhead {
        /// Which.
        segment: SegmentNumber,
        /// In the footer.
        found: Term,
        /// In the control file.
        known: Term,
    },
}

impl Corruption {
    fn is_of_wal(&self) -> bool {
        match self {
            Self::ControlFile | Self::ControlContent(_) | Self::TermAhead { .. } => false,
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
    /// Names what was tried when the disk failed, and sets apart a disk that is merely full.
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match crate::disk::is_full(&source) {
            true => Self::Full { action },
            false => Self::Io { action, source },
        }
    }

    /// The same for a read of what is in a segment's file.
    pub(crate) fn unreadable(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Unreadable { action, source }
    }

    /// True for damage that costs a part of the log, and no promise: a recovery goes on without that part.
    pub(crate) fn is_loss_of_wal(&self) -> bool {
        matches!(self, Self::Corrupt(what) if what.is_of_wal())
    }
}

impl From<io::Error> for StoreError {
    fn from(source: io::Error) -> Self {
        Self::io("use the timeline's directory")(source)
    }
}
