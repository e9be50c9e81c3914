//! [`Options`]: what `main` of a program says about its log and its traces.

use crate::logging::LogFormat;

/// What [`init`](crate::init) needs to know.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name of the program; the `service.name` of its spans unless `OTEL_SERVICE_NAME` says otherwise.
    pub service: &'static str,
    /// Version of the program; the `service.version` of its spans.
    pub version: &'static str,
    /// The level of the command line, such as `info` or `info,safekeeper=debug`. Without one `RUST_LOG` counts, and
    /// without that [`LOG_LEVEL_DEFAULT`](crate::logging::LOG_LEVEL_DEFAULT). It rules over spans too: what is not logged is not traced.
    pub level: Option<String>,
    /// How a log line looks.
    pub format: LogFormat,
    /// Base URL of the collector of spans. Without one the environment counts: `OTEL_EXPORTER_OTLP_ENDPOINT` and its
    /// relatives (OpenTelemetry specification, "OpenTelemetry Protocol Exporter"). With neither no span leaves.
    pub collector: Option<String>,
}
