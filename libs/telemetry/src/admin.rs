//! [`Admin`]: the routes that the admin port of every server has. A program merges its own routes with them and passes
//! both to [`serve`](crate::serve).
//!
//! | route | answer |
//! |---|---|
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /healthz` | 200 while the process can answer at all |
//! | `GET /readyz` | 200; or 503 and the reason why no new work should come here |
//! | `GET /v1/log-level` | the level in force |
//! | `PUT /v1/log-level` | sets the level to the body; 400 and the reason if it is invalid |
//!
//! These routes have no authentication: the port is for the operator's network. A program that wants a token puts a layer
//! around the merged router.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::logging::{LOG_LEVEL_BYTES_MAX, LevelError, LogLevel};
use crate::metrics::{Metrics, OPENMETRICS_CONTENT_TYPE};

/// Checks whether new work should come here; an error is the reason why not. It runs at each request, so it must be quick
/// and must not block.
pub type ReadyCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// State behind the common routes.
#[derive(Clone)]
pub struct Admin {
    /// Registry shown by `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Level read and set by `/v1/log-level`.
    pub log_level: LogLevel,
    /// Check behind `/readyz`.
    pub ready: ReadyCheck,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// The common routes, to be merged with a program's own.
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
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be encoded as text\n").into_response(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_log::TestLog;
    use crate::{LogFormat, Telemetry, serve};
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::net::TcpListener;

    struct Port {
        url: String,
        drains: Arc<AtomicBool>,
        /// Keeps the log level alive: it is part of the subscriber.
        log: TestLog,
    }

    impl Port {
        async fn open() -> Self {
            let log = TestLog::new(LogFormat::Text, "info");
            let drains = Arc::new(AtomicBool::new(false));
            let asked = Arc::clone(&drains);
            let admin = Admin {
                metrics: Arc::new(Metrics::new("test", "1")),
                log_level: Telemetry::log_level(&log.telemetry).clone(),
                ready: Arc::new(move || {
                    if asked.load(Ordering::Relaxed) { Err("draining".to_owned()) } else { Ok(()) }
                }),
            };
            let own = Router::new().route("/v1/own", get(async || "own"));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            tokio::spawn(serve(listener, admin.router().merge(own), std::future::pending()));
            Self { url, drains, log }
        }

        async fn get(&self, path: &str) -> (u16, String) {
            let response = reqwest::get(format!("{}{path}", self.url)).await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        }

        async fn put(&self, path: &str, body: String) -> (u16, String) {
            let request = reqwest::Client::new().put(format!("{}{path}", self.url)).body(body);
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        }
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_text() {
        let port = Port::open().await;
        let response = reqwest::get(format!("{}/metrics", port.url)).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], OPENMETRICS_CONTENT_TYPE);
        let text = response.text().await.unwrap();
        assert!(text.contains("holdfast_process_open_fds ") && text.ends_with("# EOF\n"), "{text}");
    }

    #[tokio::test]
    async fn drain_ends_readiness_but_not_health() {
        let port = Port::open().await;
        assert_eq!(port.get("/readyz").await, (200, "ready\n".to_owned()));
        port.drains.store(true, Ordering::Relaxed);
        assert_eq!(port.get("/readyz").await, (503, "draining\n".to_owned()));
        assert_eq!(port.get("/healthz").await, (200, "ok\n".to_owned()));
    }

    #[tokio::test]
    async fn admin_router_merges_with_own_routes() {
        let port = Port::open().await;
        assert_eq!(port.get("/v1/own").await, (200, "own".to_owned()));
        assert_eq!(port.get("/nowhere").await.0, 404);
    }

    #[tokio::test]
    async fn log_level_can_be_read_and_changed() {
        let port = Port::open().await;
        assert_eq!(port.get("/v1/log-level").await, (200, "info\n".to_owned()));
        assert_eq!(port.put("/v1/log-level", "debug\n".to_owned()).await, (200, "debug\n".to_owned()));
        assert_eq!(port.log.telemetry.log_level().get().unwrap(), "debug");
    }

    /// The level in force stays.
    #[tokio::test]
    async fn invalid_log_level_is_refused_with_its_reason() {
        let port = Port::open().await;
        let (status, reason) = port.put("/v1/log-level", "inof".to_owned()).await;
        assert_eq!(status, 400);
        assert!(reason.contains("\"inof\" is not a log level"), "{reason}");
        assert_eq!(port.put("/v1/log-level", "x".repeat(LOG_LEVEL_BYTES_MAX + 1)).await.0, 413);
        assert_eq!(port.get("/v1/log-level").await.1, "info\n");
    }
}
