//! Runs one turn ([`crate::cycle`]) after the other, and says why each ended. Called by `server`.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use utils::Shutdown;
use wal_types::Lsn;

use crate::admin_requests::AdminRequest;
use crate::config::RunConfig;
use crate::cycle::{self, Carried, End};
use crate::pauses::Pauses;
use crate::primary::PrimaryError;
use crate::status::{LeadershipState, LinkState, StatusBoard};

/// Serves the primary until `shutdown` begins. Dropping the future closes every connection at once.
pub(crate) async fn run(
    config: &RunConfig,
    board: &StatusBoard,
    requests: &mut mpsc::Receiver<AdminRequest>,
    shutdown: &Shutdown,
) {
    let cluster = Arc::new(config.cluster.clone());
    let mut pauses = Pauses::new();
    let mut told = String::new();
    let mut carried = Carried::default();
    loop {
        let started = Instant::now();
        let end = match cycle::run(config, &cluster, board, carried, requests, shutdown).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        if let End::Leaving = end {
            return;
        }
        let reason = end.to_string();
        // A primary that is down for an hour is one line of log, not thirty thousand.
        if reason != told {
            tracing::warn!(reason, "not leading");
        }
        record(board, &end, &reason);
        carried = carried.after(&end);
        told = reason;
        let pause = pauses.after(&end, started.elapsed(), &mut rand::rng());
        // A pause may end at any moment.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.draining() => {}
        }
    }
}

fn record(board: &StatusBoard, end: &End, reason: &str) {
    board.enter(LeadershipState::WaitingForPrimary);
    board.update(|snapshot| {
        match end {
            End::Primary(PrimaryError::Down(error)) => snapshot.primary_error = Some(error.clone()),
            _ => {
                snapshot.primary_error = None;
                snapshot.refusal = Some(reason.to_owned());
            }
        }
        snapshot.lost_leadership();
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
