//! [`CommitWaits`]: measures how long received WAL waits for a quorum.

use std::collections::VecDeque;

use tokio::time::Instant;
use wal_types::Lsn;

use crate::status::CommitHistograms;

/// Arrivals that may wait for a quorum at once; further ones are not measured.
const ARRIVALS_MAX: usize = 1024;

/// The arrivals of WAL that a quorum does not have yet.
#[derive(Debug)]
pub(super) struct CommitWaits {
    histograms: CommitHistograms,
    /// End of the WAL that was received by then; both ascend.
    arrivals: VecDeque<(Lsn, Instant)>,
}

impl CommitWaits {
    /// Observes into `histograms`.
    pub(super) const fn new(histograms: CommitHistograms) -> Self {
        Self { histograms, arrivals: VecDeque::new() }
    }

    /// Records that WAL up to `end` has arrived while a quorum has it up to `commit`.
    pub(super) fn record_arrival(&mut self, end: Lsn, commit: Lsn) {
        if commit.is_valid() {
            // Positions fit into 52 bits unless the log has four petabytes.
            self.histograms.quorum_lag.observe(end.bytes_since(commit) as f64);
        }
        if self.arrivals.len() < ARRIVALS_MAX {
            self.arrivals.push_back((end, Instant::now()));
        }
    }

    /// Records that a quorum has WAL up to `commit`, and that this was reported.
    pub(super) fn record_report(&mut self, commit: Lsn) {
        if self.arrivals.front().is_none_or(|&(end, _)| end > commit) {
            return;
        }
        let now = Instant::now();
        while let Some((_, arrived)) = self.arrivals.pop_front_if(|(end, _)| *end <= commit) {
            self.histograms.commit_wait.observe(now.duration_since(arrived).as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Cluster;
    use crate::status::StatusBoard;

    #[tokio::test(start_paused = true)]
    async fn commit_waits_end_with_the_report() {
        let cluster =
            Cluster { safekeepers: Vec::new(), id: wal_types::TenantTimelineId::default(), token: None };
        let board = StatusBoard::new(&cluster);
        let mut waits = CommitWaits::new(board.histograms().clone());
        let shows = |line: &str| {
            let text = crate::metrics::registry(&board).encode().unwrap();
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        };
        waits.record_arrival(Lsn(200), Lsn(100));
        tokio::time::advance(Duration::from_secs(1)).await;
        waits.record_arrival(Lsn(300), Lsn(100));
        waits.record_report(Lsn(299));
        shows("holdfast_walproposer_commit_wait_seconds_sum 1.0");
        tokio::time::advance(Duration::from_secs(2)).await;
        waits.record_report(Lsn(300));
        waits.record_report(Lsn(400));
        shows("holdfast_walproposer_commit_wait_seconds_sum 3.0");
        shows("holdfast_walproposer_commit_wait_seconds_count 2");
        shows("holdfast_walproposer_quorum_lag_bytes_sum 300.0");
    }
}
