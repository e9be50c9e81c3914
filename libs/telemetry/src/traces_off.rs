//! The stand-in for `traces` in a build without the `otlp` feature: the same names, and no span leaves.

use std::time::Duration;

use crate::logging::Output;
use crate::options::Options;

/// Sends nothing.
#[derive(Debug, Default)]
pub(crate) struct Exporter {}

impl Exporter {
    #[expect(clippy::unused_self, reason = "the same signature as with the feature")]
    pub(crate) const fn flush(&self, _timeout: Duration) {}
}

pub(crate) fn start(options: &Options) -> Result<(Option<Output>, Exporter), String> {
    match options.collector {
        None => Ok((None, Exporter::default())),
        Some(_) => Err("this build cannot send spans".to_owned()),
    }
}

/// The `traceparent` header of the current span; always `None` in this build.
pub const fn traceparent() -> Option<String> {
    None
}
