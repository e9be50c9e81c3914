//! The routes of the walproposer's HTTP port: `GET /v1/status` beside those that every program has
//! ([`telemetry::admin`]). All of them read the [`Board`] and change nothing of the driver.

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router};
use telemetry::{Admin, LogLevel};

use crate::metrics;
use crate::status::{Board, Status};

pub(crate) fn router(board: &Board, log_level: LogLevel) -> Router {
    let ready = board.clone();
    let admin = Admin {
        metrics: Arc::new(metrics::registry(board)),
        log_level,
        ready: Arc::new(move || ready.read().ready()),
    };
    let status = board.clone();
    let own = Router::new().route("/v1/status", get(async move || Json(Status::from(&status.read()))));
    admin.router().merge(own)
}
