//! [`Action`]: reports a proposer's events and requests to its driver. With the values that come along.

use wal_types::{Lsn, NodeId, SegmentSize, Term, Tli};

use crate::configuration::Configuration;
use crate::message::ChecksumResponse;

/// One thing that the driver must do or know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A quorum reported its position. Check the primary, then call [`Proposer::request_votes`].
    ///
    /// [`Proposer::request_votes`]: super::Proposer::request_votes
    PreVoted {
        /// End of the newest log among the safekeepers that answered.
        flush_lsn: Lsn,
        /// Highest commit LSN among them.
        commit_lsn: Lsn,
        /// Safekeeper with the newest log.
        donor: NodeId,
        /// First byte that the donor still holds.
        start_lsn: Lsn,
        /// PostgreSQL timeline at `flush_lsn`.
        tli: Option<Tli>,
    },
    /// A quorum granted the term. Check the primary against the end of the log, then call [`Proposer::approve`].
    ///
    /// [`Proposer::approve`]: super::Proposer::approve
    Elected(Election),
    /// Everything below is durable on a quorum under this term.
    Committed(Lsn),
    /// A quorum holds this configuration under this term: no later proposer can miss it.
    Configured(Configuration),
    /// The response to [`Proposer::request_checksum`].
    ///
    /// [`Proposer::request_checksum`]: super::Proposer::request_checksum
    Checksum {
        /// Safekeeper that responded.
        from: NodeId,
        /// Its response.
        response: ChecksumResponse,
    },
    /// The safekeeper sent a response that fits no request: close the connection and connect again.
    Reset(NodeId),
}

/// The result of the votes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Election {
    /// The term that was won.
    pub term: Term,
    /// End of the newest log among the voters: the WAL of this term starts here.
    pub start: Lsn,
    /// First byte that the donor still holds.
    pub log_start: Lsn,
    /// Voter with the newest log; it holds everything below `start`.
    pub donor: NodeId,
    /// PostgreSQL timeline of the donor's log at `start`; `None` when the log is empty.
    pub tli: Option<Tli>,
}

impl Election {
    /// Position from which the primary's WAL must be compared with the donor's, up to `start`. See [`compare_from`].
    pub fn compare_from(&self, segment_size: SegmentSize) -> Lsn {
        compare_from(self.start, self.log_start, segment_size)
    }
}

/// Position from which a log that ends at `end` and begins at `log_start` must be compared: the start of the segment that
/// holds the last byte of the log. The segment that holds `end` would be wrong: when the log ends exactly at the end of a
/// segment, no byte would be compared, and a primary with other bytes below would be told that they are committed.
pub fn compare_from(end: Lsn, log_start: Lsn, segment_size: SegmentSize) -> Lsn {
    let last_byte = Lsn(end.0.saturating_sub(1));
    segment_size.start_of(segment_size.segment_of(last_byte)).max(log_start)
}

/// A range of the log that a lagging safekeeper needs and that the buffer no longer holds, but a donor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DonorRange {
    /// Safekeeper that holds the range.
    pub donor: NodeId,
    /// Next byte that the lagging safekeeper needs.
    pub from: Lsn,
    /// Read at most up to here.
    pub until: Lsn,
}
