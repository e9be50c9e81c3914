//! [`Options`]: settings of the log and the traces, given by `main` of a program.

use crate::logging::LogFormat;

/// Settings of [`init`](crate::init).
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name of the program; the `service.name` of its spans unless `OTEL_SERVICE_NAME` says otherwise.
    pub service: &'static str,
    /// Version of the program; the `service.version` of its spans.
    pub version: &'static str,
    /// Log level from the command line, such as `info` or `info,safekeeper=debug`. Without one `RUST_LOG` counts, and
    /// without that [`LOG_LEVEL_DEFAULT`](crate::logging::LOG_LEVEL_DEFAULT). It holds for spans too: a span that is
    /// not logged is not traced.
    pub level: Option<String>,
    /// Format of a log line.
    pub format: LogFormat,
    /// Base URL of the collector of spans. Without one the environment counts: `OTEL_EXPORTER_OTLP_ENDPOINT` and related
    /// variables (OpenTelemetry specification, "OpenTelemetry Protocol Exporter"). With neither no span is sent.
    pub collector: Option<String>,
}
