//! `walproposer run`: serves a primary, and the HTTP port beside it. Called by `main` and by tests.
//!
//! The listener and the shutdown are arguments, so that tests bind port 0 and need no signals.

use telemetry::LogLevel;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use utils::Shutdown;

use crate::admin_requests::AdminRequests;
use crate::config::RunConfig;
use crate::status::StatusBoard;
use crate::{http, leadership_loop};

/// Serves until `shutdown` begins. The primary keeps WAL that was not acknowledged, and it can finish its own stop without a
/// walproposer.
pub async fn serve(config: RunConfig, listener: TcpListener, shutdown: Shutdown, log_level: LogLevel) {
    let board = StatusBoard::new(&config.cluster);
    let (requests, receiver) = AdminRequests::new(&board);
    let token = config.cluster.token.clone();
    let router = http::router(&board, log_level, requests, token);
    let http = telemetry::serve(listener, router, shutdown.draining());

    // In a task of its own: a wake of the future that `main` runs costs the runtime a system call.
    let mut leaderships = JoinSet::new();
    leaderships.spawn(leadership_loop::run(config, board, receiver, shutdown.clone()));
    let led = async {
        if let Some(Err(failed)) = leaderships.join_next().await
            && let Ok(panic) = failed.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    };

    // An immediate shutdown drops both at any point: that closes every connection.
    tokio::select! {
        _ = async { tokio::join!(http, led) } => {}
        () = shutdown.immediate() => {}
    }
    leaderships.shutdown().await;
}
