//! `walproposer run`: serves a primary, and the HTTP port beside it. Called by `main` and by tests.
//!
//! The listener and the shutdown are arguments, so that tests bind port 0 and need no signals.

use telemetry::LogLevel;
use tokio::net::TcpListener;
use utils::Shutdown;

use crate::admin_requests::AdminRequests;
use crate::config::RunConfig;
use crate::status::StatusBoard;
use crate::{http, leadership_loop};

/// Serves until `shutdown` begins. The primary keeps WAL that was not acknowledged, and it can finish its own stop without a
/// walproposer.
pub async fn serve(config: RunConfig, listener: TcpListener, shutdown: Shutdown, log_level: LogLevel) {
    let board = StatusBoard::new(&config.cluster);
    let (requests, mut receiver) = AdminRequests::new(&board);
    let token = config.cluster.token.clone();
    let router = http::router(&board, log_level, requests, token);
    let http = telemetry::serve(listener, router, shutdown.draining());
    let leaderships = leadership_loop::run(&config, &board, &mut receiver, &shutdown);

    // An immediate shutdown drops both at any point: that closes every connection.
    tokio::select! {
        _ = async { tokio::join!(http, leaderships) } => {}
        () = shutdown.immediate() => {}
    }
}
