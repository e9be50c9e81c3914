//! [`EndKind`]: why a candidacy or a leadership ended, as far as the next attempt depends on it.

use wal_types::{Lsn, Term};

/// Why a candidacy or a leadership ended, as far as the next attempt depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// The primary is down.
    PrimaryDown,
    /// Another candidate took the term, or its votes. `term` is the term that deposed this one; zero when none did.
    Rival {
        /// Term of the rival.
        term: Term,
    },
    /// The primary has other WAL than the log. That does not change while the server runs.
    Diverged,
    /// The primary has removed the segment to compare, and its slot proves that all WAL below this position was its own.
    AcknowledgedSegmentGone {
        /// End of the log.
        end: Lsn,
    },
    /// Anything else.
    Other,
}
