//! Runs one leadership ([`crate::leadership`]) after the other, and logs and shows why each ended. Called by `server`.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use utils::Shutdown;
use wal_types::Lsn;

use crate::admin_requests::AdminRequest;
use crate::config::RunConfig;
use crate::leadership::{self, CarryOver, LeadershipEnd};
use crate::primary::PrimaryError;
use crate::retry_policy::RetryPolicy;
use crate::status::{LeadershipState, LinkState, StatusBoard};

/// Serves the primary until `shutdown` begins. Dropping the future closes every connection at once.
pub(crate) async fn run(
    config: RunConfig,
    board: StatusBoard,
    mut requests: mpsc::Receiver<AdminRequest>,
    shutdown: Shutdown,
) {
    let cluster = Arc::new(config.cluster.clone());
    let mut retry_policy = RetryPolicy::new();
    let mut logged_reason = String::new();
    let mut carry_over = CarryOver::default();

    loop {
        let started = Instant::now();
        let running = leadership::run(&config, &cluster, &board, carry_over, &mut requests, &shutdown);
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
        carry_over = carry_over.after(&end);
        logged_reason = reason;

        let delay = retry_policy.delay_after(&end, started.elapsed(), &mut rand::rng());
        // The delay may be cancelled at any point.
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = shutdown.draining() => {}
        }
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
