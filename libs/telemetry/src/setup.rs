//! [`init`]: installs the log and the traces of a process, and [`Telemetry`] flushes them at its end.

use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use crate::logging::{self, LevelError, LogLevel};
use crate::options::Options;
use crate::traces;

/// Longest time of [`Telemetry::flush`] at the end of the process. The whole end has
/// [`END_TIMEOUT`](crate::process::END_TIMEOUT).
pub const FLUSH_TIMEOUT: Duration = Duration::from_millis(1500);

/// [`init`] failed. The operator or the program made a mistake; a broken collector is no such error.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The log level is invalid.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// [`init`] ran before, or another subscriber is installed.
    #[error("logging is already set up")]
    AlreadyInstalled,
}

/// The log and the traces of the process; kept until its end.
#[derive(Debug)]
pub struct Telemetry {
    level: LogLevel,
    exporter: traces::Exporter,
}

impl Telemetry {
    /// The log level, which can be read and changed while the program runs.
    pub const fn log_level(&self) -> &LogLevel {
        &self.level
    }

    /// Sends the spans that have ended, and stops sending. Blocks the calling thread for [`FLUSH_TIMEOUT`] at most,
    /// whatever the collector does. A second call does nothing.
    ///
    /// A drop does the same, so that a `?` and a panic flush too; `std::process::exit` drops nothing.
    pub fn flush(&self) {
        self.exporter.flush(FLUSH_TIMEOUT);
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Installs the log and the traces of this process. Called once per process, before anything logs. A server lets
/// [`run`](crate::run) do it.
pub fn init(options: &Options) -> Result<Telemetry, InitError> {
    let level = logging::startup_level(options.level.as_deref(), std::env::var("RUST_LOG").ok());
    let ansi = logging::stderr_has_colours();
    let (telemetry, subscriber, no_spans) = assemble(options, &level, ansi, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| InitError::AlreadyInstalled)?;

    if let Some(error) = no_spans {
        tracing::warn!(error, "cannot set up tracing, no spans are sent");
    }
    Ok(telemetry)
}

/// All of [`init`] but the installation. The text says why spans are not sent although the options ask for it; it can be
/// logged only once the subscriber is installed.
pub(crate) fn assemble<W>(
    options: &Options,
    level: &str,
    ansi: bool,
    writer: W,
) -> Result<(Telemetry, impl Subscriber + Send + Sync + use<W>, Option<String>), LevelError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, level) = LogLevel::new(level)?;
    let (spans, exporter, no_spans) = match traces::start(options) {
        Ok((layer, exporter)) => (layer, exporter, None),
        Err(no_spans) => (None, traces::Exporter::default(), Some(no_spans)),
    };

    let layers: Vec<_> =
        [Some(logging::layer(options.format, ansi, writer)), spans].into_iter().flatten().collect();
    let subscriber = tracing_subscriber::registry().with(filter).with(layers);
    Ok((Telemetry { level, exporter }, subscriber, no_spans))
}
