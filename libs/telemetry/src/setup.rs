//! [`init`]: installs the log and the traces of a process, and [`Telemetry`] flushes them at its end.

use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use crate::logging::{self, LevelError, LogLevel};
use crate::options::Options;
use crate::traces;

/// The longest that [`Telemetry::flush`] holds up the end of the process, which has [`END_TIMEOUT`](crate::process::END_TIMEOUT) for all of it.
pub const FLUSH_TIMEOUT: Duration = Duration::from_millis(1500);

/// Why [`init`] failed. Both are mistakes of whoever starts the program; a broken collector is not among them.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The level does not parse.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// [`init`] ran before, or somebody else installed a subscriber.
    #[error("logging is already set up")]
    AlreadyInstalled,
}

/// The running telemetry of the process, kept until its end.
#[derive(Debug)]
pub struct Telemetry {
    level: LogLevel,
    exporter: traces::Exporter,
}

impl Telemetry {
    /// The level of the log, to read and to change while the program runs.
    pub const fn log_level(&self) -> &LogLevel {
        &self.level
    }

    /// Sends the spans that have ended, and stops sending. Blocks the calling thread for [`FLUSH_TIMEOUT`] at most,
    /// whatever the collector does. A second call does nothing.
    ///
    /// Dropping does the same, which covers a `?` and a panic; `std::process::exit` drops nothing.
    pub fn flush(&self) {
        self.exporter.flush(FLUSH_TIMEOUT);
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Sets up the log and the traces of this process. Once per process, before anything logs. A server lets [`run`](crate::run) do it.
pub fn init(options: &Options) -> Result<Telemetry, InitError> {
    let level = logging::startup_level(options.level.as_deref(), std::env::var("RUST_LOG").ok());
    let ansi = logging::stderr_has_colours();
    let (telemetry, subscriber, trouble) = assemble(options, &level, ansi, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| InitError::AlreadyInstalled)?;
    if let Some(error) = trouble {
        tracing::warn!(error, "no spans are sent");
    }
    Ok(telemetry)
}

/// All of [`init`] but the global part. The text is why spans are not sent although somebody asked for it: it can
/// only be logged once the subscriber is in place.
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
    let (spans, exporter, trouble) = match traces::start(options) {
        Ok((layer, exporter)) => (layer, exporter, None),
        Err(trouble) => (None, traces::Exporter::default(), Some(trouble)),
    };
    let layers: Vec<_> =
        [Some(logging::layer(options.format, ansi, writer)), spans].into_iter().flatten().collect();
    let subscriber = tracing_subscriber::registry().with(filter).with(layers);
    Ok((Telemetry { level, exporter }, subscriber, trouble))
}
