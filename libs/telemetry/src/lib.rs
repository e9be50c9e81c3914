//! Telemetry of a server: its log, its traces, its metrics, and the admin HTTP port that shows them.
//!
//! ```text
//!   main:  telemetry::run(&options, work)                   log to stderr, spans to a collector, flushed at every end
//!   work:  let metrics = Metrics::new("proxy", version);    the registry, to which the program adds its own metrics
//!          serve(listener, admin.router().merge(own), end)  /metrics /healthz /readyz /v1/log-level
//! ```
//!
//! This crate does not know what a server does: each program adds its own metrics and routes. A collector that is down
//! or slow, or that refuses spans, costs these spans and one line of the log, never the process.

pub mod admin;
pub mod api_error;
pub mod collector;
pub mod http;
pub mod logging;
pub mod metrics;
mod options;
pub mod process;
mod process_metrics;
mod setup;
mod text_fields;
#[cfg(feature = "otlp")]
mod traces;
#[cfg(not(feature = "otlp"))]
#[path = "traces_off.rs"]
mod traces;

pub use admin::Admin;
pub use api_error::ApiError;
pub use collector::encode_metric;
pub use http::serve;
pub use logging::{LevelError, LogFormat, LogLevel};
pub use metrics::Metrics;
pub use options::Options;
pub use process::{run, run_on_one_thread};
pub use setup::{FLUSH_TIMEOUT, InitError, Telemetry, init};
pub use traces::traceparent;

#[cfg(test)]
mod test_log;
