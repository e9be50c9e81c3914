//! Log output of the tests.

use std::sync::OnceLock;

use telemetry::{LogLevel, Telemetry};

/// Log level of the tests, from `RUST_LOG`. The first call installs the log output.
pub(crate) fn log_level() -> LogLevel {
    static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();
    let options = telemetry::Options { service: "test", version: "0", ..telemetry::Options::default() };
    TELEMETRY.get_or_init(|| telemetry::init(&options).unwrap()).log_level().clone()
}
