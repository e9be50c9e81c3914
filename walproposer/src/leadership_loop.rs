//! Runs one leadership ([`crate::leadership`]) after the other, and logs and shows why each ended, and for how long a primary
//! with other WAL stays away. Called by `server`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candidacy::{EndKind, RetryPolicy};
use tokio::sync::mpsc;
use utils::Shutdown;
use wal_types::Lsn;

use crate::admin_requests::AdminRequest;
use crate::config::RunConfig;
use crate::leadership::{self, LeadershipEnd};
use crate::primary::{self, PrimaryError};
use crate::status::{LeadershipState, LinkState, StatusBoard};

/// Serves the primary until `shutdown` begins. Dropping the future closes every connection at once.
pub(crate) async fn run(
    config: RunConfig,
    board: StatusBoard,
    mut requests: mpsc::Receiver<AdminRequest>,
    shutdown: Shutdown,
) {
    let cluster = Arc::new(config.cluster.clone());
    let mut retry_policy = RetryPolicy::new(config.retry_delays);
    let mut logged_reason = String::new();

    loop {
        let started = Instant::now();
        let running = leadership::run(&config, &cluster, &board, &retry_policy, &mut requests, &shutdown);
        let end = match running.await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        if let LeadershipEnd::Shutdown = end {
            return;
        }

        let reason = end.to_string();
        // A primary that is down for an hour is one log line, not thirty thousand.
        if reason != logged_reason {
            tracing::warn!(reason, "not leading");
        }
        show(&board, &end, &reason);
        logged_reason = reason;

        let kind = end.kind();
        let delay = retry_policy.delay_after(kind, started.elapsed(), &mut rand::rng());
        let stays_away = kind == EndKind::Diverged;
        if stays_away {
            tracing::warn!(
                delay = %humantime::format_duration(Duration::from_secs(delay.as_secs())),
                "staying away from the safekeepers: the primary has other WAL than the log; it is tried again when it was restarted"
            );
            board.update(|snapshot| snapshot.away_until = Some(tokio::time::Instant::now() + delay));
        }
        // Each arm may be cancelled at any point.
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = primary::until_restarted(&config), if stays_away => {
                tracing::info!("the primary was restarted");
                retry_policy.primary_changed();
            }
            () = shutdown.draining() => {}
        }
        board.update(|snapshot| snapshot.away_until = None);
    }
}

/// Writes the end of a leadership to the status board.
fn show(board: &StatusBoard, end: &LeadershipEnd, reason: &str) {
    board.enter(LeadershipState::WaitingForPrimary);
    board.update(|snapshot| {
        match end {
            LeadershipEnd::Primary(PrimaryError::Down(error)) => snapshot.primary_error = Some(error.clone()),
            _ => {
                snapshot.primary_error = None;
                snapshot.refusal = Some(reason.to_owned());
            }
        }
        snapshot.interrupt_change();
        snapshot.term = None;
        snapshot.proposer_id = None;
        snapshot.term_start_lsn = Lsn::INVALID;
        snapshot.commit_lsn = Lsn::INVALID;
        snapshot.reported_lsn = Lsn::INVALID;
        for safekeeper in &mut snapshot.safekeepers {
            safekeeper.state = LinkState::Offline;
        }
    });
}
