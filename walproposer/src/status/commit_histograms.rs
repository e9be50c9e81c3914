//! [`CommitHistograms`]: how long WAL of the primary waits for a quorum, and how much of it waits.

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Histograms of all leaderships of a process. Clones are the same histograms.
#[derive(Clone, Debug)]
pub(crate) struct CommitHistograms {
    /// Seconds from the arrival of WAL to the report that a quorum has it.
    pub(crate) commit_wait: Histogram,
    /// Bytes of WAL that a quorum lacked when more of it arrived.
    pub(crate) quorum_lag: Histogram,
}

impl Default for CommitHistograms {
    fn default() -> Self {
        Self {
            // 100 us to 13 s.
            commit_wait: Histogram::new(exponential_buckets(0.0001, 2.0, 18)),
            // 256 B to 64 MiB.
            quorum_lag: Histogram::new(exponential_buckets(256.0, 4.0, 10)),
        }
    }
}
