//! The log: writes lines to stderr, at a level that can be changed while the program runs.
//!
//! Sending spans to a collector is `traces`. Called by [`init`](crate::init) and by the admin port.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Layered;
use tracing_subscriber::{Layer, Registry, reload};

use crate::text_fields::text_fields;

/// Log level when neither the command line nor `RUST_LOG` names one.
pub const LOG_LEVEL_DEFAULT: &str = "info";

/// Longest text of a log level in bytes. It may come over HTTP.
pub const LOG_LEVEL_BYTES_MAX: usize = 4096;

/// Format of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people, with control characters of values escaped.
    #[default]
    Text,
    /// One JSON object per line, for programs.
    Json,
}

impl FromStr for LogFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// A text names no [`LogFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log format must be \"text\" or \"json\"")]
pub struct UnknownFormat;

/// A log level was refused; the level in force stays.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// Nothing but white space.
    #[error("log level is empty")]
    Empty,
    /// The text exceeds [`LOG_LEVEL_BYTES_MAX`].
    #[error("log level exceeds {LOG_LEVEL_BYTES_MAX} bytes")]
    TooLong,
    /// A bare word that is no level. It would parse as the name of a module, and silence all other modules.
    #[error("\"{0}\" is not a log level; to name a module write \"{0}=debug\"")]
    NotALevel(String),
    /// Neither a level nor a list of directives.
    #[error("\"{directives}\" is not a log level")]
    Syntax {
        /// The text that was given.
        directives: String,
        /// Error of the parser.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The subscriber was dropped, which only a test does.
    #[error("logging has ended")]
    Ended(#[source] reload::Error),
}

/// The log level while the program runs. Clones share it.
#[derive(Clone, Debug)]
pub struct LogLevel {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// The lower part of the subscriber, onto which the layers go.
pub(crate) type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

/// A layer that writes or sends events and spans.
pub(crate) type Output = Box<dyn Layer<Filtered> + Send + Sync>;

impl LogLevel {
    /// The filter layer of the subscriber, and the handle that changes its level.
    pub(crate) fn new(directives: &str) -> Result<(reload::Layer<EnvFilter, Registry>, Self), LevelError> {
        let (layer, filter) = reload::Layer::new(parse(directives)?);
        Ok((layer, Self { filter }))
    }

    /// Returns the level in force, in the syntax that [`set`](Self::set) accepts.
    pub fn get(&self) -> Result<String, LevelError> {
        self.filter.with_current(EnvFilter::to_string).map_err(LevelError::Ended)
    }

    /// Changes the level from the next line on. `directives` has the syntax of `RUST_LOG`, without regular expressions
    /// (documentation of tracing-subscriber, "EnvFilter").
    pub fn set(&self, directives: &str) -> Result<(), LevelError> {
        self.filter.reload(parse(directives)?).map_err(LevelError::Ended)
    }
}

/// The log level at the start: the command line takes precedence over the environment, and an empty value counts as
/// none.
pub(crate) fn startup_level(option: Option<&str>, environment: Option<String>) -> String {
    let given = option.map(str::to_owned).or(environment);
    given.filter(|level| !level.trim().is_empty()).unwrap_or_else(|| LOG_LEVEL_DEFAULT.to_owned())
}

/// True when stderr is a terminal and `NO_COLOR` does not forbid colours (<https://no-color.org>).
pub(crate) fn stderr_has_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !unwanted
}

/// The layer that writes log lines to `writer`.
pub(crate) fn layer<W>(format: LogFormat, ansi: bool, writer: W) -> Output
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(writer);
    match format {
        LogFormat::Text => layer.fmt_fields(text_fields()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

fn parse(directives: &str) -> Result<EnvFilter, LevelError> {
    let directives = directives.trim();
    if directives.is_empty() {
        return Err(LevelError::Empty);
    }
    if directives.len() > LOG_LEVEL_BYTES_MAX {
        return Err(LevelError::TooLong);
    }
    for word in directives.split(',').map(str::trim) {
        let is_bare = !word.contains(['=', '[', ']', '{', '}']);
        if is_bare && word.parse::<LevelFilter>().is_err() {
            return Err(LevelError::NotALevel(word.to_owned()));
        }
    }
    // Regular expressions are off: the text may come over the network, and a log level needs none.
    let filter = EnvFilter::builder().with_regex(false).parse(directives);
    filter.map_err(|source| LevelError::Syntax { directives: directives.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_log::TestLog;
    use tracing::dispatcher::with_default;

    #[test]
    fn log_level_directives_are_validated() {
        for good in ["info", " WARN\n", "off", "info,proxy::auth=debug", "error,[session{id=1}]=trace", "3"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        let too_long = "x=debug,".repeat(LOG_LEVEL_BYTES_MAX);
        let table: [(&str, fn(&LevelError) -> bool); 6] = [
            ("", |error| matches!(error, LevelError::Empty)),
            (" \n", |error| matches!(error, LevelError::Empty)),
            ("inof", |error| matches!(error, LevelError::NotALevel(word) if word == "inof")),
            ("info,safekeeper", |error| matches!(error, LevelError::NotALevel(word) if word == "safekeeper")),
            ("proxy=loud", |error| matches!(error, LevelError::Syntax { .. })),
            (&too_long, |error| matches!(error, LevelError::TooLong)),
        ];
        for (bad, is_expected) in table {
            let error = parse(bad).unwrap_err();
            assert!(is_expected(&error), "{bad:.20}: {error:?}");
        }
    }

    #[test]
    fn command_line_level_precedes_rust_log() {
        for (option, environment, level) in [
            (None, None, LOG_LEVEL_DEFAULT),
            (None, Some("debug"), "debug"),
            (Some("warn"), Some("debug"), "warn"),
            (None, Some(""), LOG_LEVEL_DEFAULT),
        ] {
            assert_eq!(
                startup_level(option, environment.map(str::to_owned)),
                level,
                "{option:?} {environment:?}"
            );
        }
    }

    #[test]
    fn log_level_changes_while_the_program_runs() {
        let log = TestLog::new(LogFormat::Text, "info");
        let (level, lines) = (log.telemetry.log_level().clone(), log.lines.clone());
        with_default(&log.subscriber, || {
            let say = |text| tracing::debug!("{text}");
            say("first");
            level.set("debug").unwrap();
            say("second");
            level.set("nonsense").unwrap_err();
            say("third");
            level.set("telemetry=warn,debug").unwrap();
            say("fourth");
        });
        let text = lines.text();
        assert_eq!(
            ["first", "second", "third", "fourth"].map(|word| text.contains(word)),
            [false, true, true, false],
            "{text}"
        );
    }

    #[test]
    fn log_level_in_force_can_be_set_again() {
        let log = TestLog::new(LogFormat::Text, "info,proxy=debug");
        let level = log.telemetry.log_level();
        let shown = level.get().unwrap();
        assert!(shown.contains("info") && shown.contains("proxy=debug"), "{shown}");
        level.set(&shown).unwrap();
        assert_eq!(level.get().unwrap(), shown);
    }

    #[test]
    fn json_line_holds_fields_and_span() {
        let log = TestLog::new(LogFormat::Json, "info");
        let lines = log.lines.clone();
        with_default(&log.subscriber, || {
            let _session = tracing::info_span!("session", id = 7).entered();
            tracing::info!(user = "o\"neil\n", "accepted");
        });
        let text = lines.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "accepted");
        assert_eq!(line["user"], "o\"neil\n");
        assert_eq!(line["span"]["id"], 7);
    }

    #[test]
    fn log_format_round_trips_as_text() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("xml".parse::<LogFormat>(), Err(UnknownFormat));
    }
}
