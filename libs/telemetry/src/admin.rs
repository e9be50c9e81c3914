//! The routes that the HTTP port of every server has. A binary merges its own into them and hands both to
//! [`serve`](crate::serve).
//!
//! | route | answer |
//! |---|---|
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /healthz` | 200 while the process can answer at all |
//! | `GET /readyz` | 200, or 503 and the reason, when no new work should come here |
//! | `GET /v1/log-level` | the level in force |
//! | `PUT /v1/log-level` | body: the new level; 400 and the reason if it is none |
//!
//! There is no authentication in here: the port is for the operator's network, and a binary that wants a token puts
//! its layer around the merged router.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::logging::{LOG_LEVEL_BYTES_MAX, LevelError, LogLevel};
use crate::metrics::{Metrics, OPENMETRICS_CONTENT_TYPE};

/// Says whether new work should come here, or why not. Asked at each request, so it must be quick and must not block.
pub type ReadyCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the common routes show.
#[derive(Clone)]
pub struct Admin {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/v1/log-level`.
    pub log_level: LogLevel,
    /// For `/readyz`.
    pub ready: ReadyCheck,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// The common routes, to be merged with a binary's own.
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/v1/log-level", get(log_level).put(set_log_level))
            .layer(DefaultBodyLimit::max(LOG_LEVEL_BYTES_MAX))
            .with_state(self)
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "a metric cannot be written as text\n").into_response(),
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    match (admin.ready)() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn log_level(State(admin): State<Admin>) -> Response {
    level_in_force(&admin.log_level)
}

async fn set_log_level(State(admin): State<Admin>, directives: String) -> Response {
    match admin.log_level.set(&directives) {
        Ok(()) => {
            tracing::info!(level = directives.trim(), "log level changed");
            level_in_force(&admin.log_level)
        }
        Err(error) => refused(&error),
    }
}

fn level_in_force(level: &LogLevel) -> Response {
    match level.get() {
        Ok(level) => format!("{level}\n").into_response(),
        Err(error) => refused(&error),
    }
}

fn refused(error: &LevelError) -> Response {
    let status = match error {
        LevelError::Ended(_) => StatusCode::INTERNAL_SERVER_ERROR,
        LevelError::Empty | LevelError::TooLong | LevelError::NotALevel(_) | LevelError::Syntax { .. } => {
            StatusCode::BAD_REQUEST
        }
    };
    (status, format!("{error}\n")).into_response()
}
