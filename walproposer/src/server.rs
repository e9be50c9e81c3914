//! `walproposer run`: the driver, and the HTTP port beside it. The listener and the end are arguments, so that tests bind
//! port 0 and need no signals.

use telemetry::LogLevel;
use tokio::net::TcpListener;
use utils::Shutdown;

use crate::admin_requests::AdminRequests;
use crate::config::RunConfig;
use crate::status::StatusBoard;
use crate::{http, leadership_loop};

/// Serves until `shutdown` begins. What was not acknowledged the primary keeps, and without a walproposer it can finish
/// its own stop.
pub async fn serve(config: RunConfig, listener: TcpListener, shutdown: Shutdown, log_level: LogLevel) {
    let board = StatusBoard::new(&config.cluster);
    let (sender, mut requests) = AdminRequests::new(&board);
    let token = config.cluster.token.clone();
    let router = http::router(&board, log_level, sender, token);
    let http = telemetry::serve(listener, router, shutdown.draining());
    let driving = leadership_loop::run(&config, &board, &mut requests, &shutdown);
    // Dropped in the middle of whatever it does: every connection is closed with it.
    tokio::select! {
        _ = async { tokio::join!(http, driving) } => {}
        () = shutdown.immediate() => {}
    }
}
