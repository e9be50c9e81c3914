//! [`LeadershipEnd`]: reason for which a leadership ended, as the log and the status show it.

use std::time::Duration;

use candidacy::{EndKind, Gap, NotAContinuation};
use consensus::LostTerm;
use thiserror::Error;
use wal_types::{Lsn, NodeId, Term};

use crate::primary::PrimaryError;
use crate::primary_name::PrimaryName;

/// Reason for which a leadership ended.
#[derive(Debug, Error)]
pub(crate) enum LeadershipEnd {
    /// The primary is down, refuses, or must not lead.
    #[error(transparent)]
    Primary(#[from] PrimaryError),
    /// Another proposer holds, or may hold, a higher term.
    #[error(transparent)]
    Lost(LostTerm),
    /// The log has a designated primary, and this walproposer's primary is another one.
    #[error(
        "the log was given to primary {0} and takes WAL of no other: this walproposer was not started with --primary-name {0}; if its primary was replaced, stop both"
    )]
    NotDesignated(PrimaryName),
    /// The votes were split, or did not come in time.
    #[error("no candidate has a majority of the votes after {} s", .0.as_secs())]
    NoMajority(Duration),
    /// The primary's WAL does not continue the log.
    #[error(transparent)]
    NotAContinuation(#[from] NotAContinuation),
    /// The primary has other bytes than the log at the same positions.
    #[error(
        "the primary's WAL from {from} to {to} differs from what safekeeper {donor} has: the primary was rolled back or belongs to another history; nothing was sent"
    )]
    OtherBytes { donor: NodeId, from: Lsn, to: Lsn },
    /// The comparison of bytes could not be finished.
    #[error("the primary's WAL could not be compared with the log: {0}")]
    NotCompared(&'static str),
    /// The bytes to compare are gone from the primary.
    #[error(
        "the primary no longer has the last segment of the log, its WAL from {from} to {to}, so that it cannot be compared with the safekeepers': set wal_keep_size on the primary and its standbys so that they keep the last segment, and create a new timeline on the safekeepers"
    )]
    SegmentGone { from: Lsn, to: Lsn },
    /// The bytes to compare are gone from the primary, and its slot proves that the log is its own.
    #[error(
        "the primary no longer has the last segment of the log, but its slot stands at the end of the log, {end}: the next term continues from there"
    )]
    AcknowledgedSegmentGone { end: Lsn },
    /// The primary's stream has a hole or an overlap.
    #[error(transparent)]
    Gap(#[from] Gap),
    /// This process ends.
    #[error("the walproposer shuts down")]
    Shutdown,
    /// WAL that the quorum lacks is neither in memory nor on a connected safekeeper.
    #[error("no connected safekeeper has the WAL that a quorum lacks: a new term reads it from the primary")]
    Stuck,
}

impl LeadershipEnd {
    /// The kind of this end, for the next attempt.
    pub(crate) const fn kind(&self) -> EndKind {
        match *self {
            Self::Primary(PrimaryError::Down(_)) => EndKind::PrimaryDown,
            Self::Lost(LostTerm::Deposed { term, .. }) => EndKind::Rival { term },
            Self::Lost(LostTerm::Outvoted(_)) | Self::NoMajority(_) => EndKind::Rival { term: Term::ZERO },
            Self::OtherBytes { .. } | Self::SegmentGone { .. } | Self::Gap(_) => EndKind::Diverged,
            Self::AcknowledgedSegmentGone { end } => EndKind::AcknowledgedSegmentGone { end },
            _ => EndKind::Other,
        }
    }
}

impl From<LostTerm> for LeadershipEnd {
    fn from(lost: LostTerm) -> Self {
        match lost {
            LostTerm::NotDesignated { designated } => Self::NotDesignated(PrimaryName(designated.name)),
            other => Self::Lost(other),
        }
    }
}
