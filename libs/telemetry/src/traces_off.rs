//! Traces in a build without the `otlp` feature: has the same functions as `traces.rs` and sends no span.

use std::time::Duration;

use crate::logging::Output;
use crate::options::Options;

/// Sends no span.
#[derive(Debug, Default)]
pub(crate) struct Exporter {}

impl Exporter {
    #[expect(clippy::unused_self, reason = "the same signature as with the feature")]
    pub(crate) const fn flush(&self, _timeout: Duration) {}
}

/// Fails when the options ask for a collector.
pub(crate) fn start(options: &Options) -> Result<(Option<Output>, Exporter), String> {
    match options.collector {
        None => Ok((None, Exporter::default())),
        Some(_) => Err("this program was built without the otlp feature".to_owned()),
    }
}

/// The `traceparent` header of the current span; always `None` in this build.
pub const fn traceparent() -> Option<String> {
    None
}
