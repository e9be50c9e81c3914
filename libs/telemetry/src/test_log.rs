//! Test log: telemetry that writes into memory and is not installed for the process.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::Dispatch;

use crate::logging::LogFormat;
use crate::options::Options;
use crate::setup::{Telemetry, assemble};

/// Telemetry of a test, with its subscriber and the lines that it wrote.
pub(crate) struct TestLog {
    pub(crate) telemetry: Telemetry,
    pub(crate) subscriber: Dispatch,
    pub(crate) lines: Lines,
}

/// The bytes logged so far. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl TestLog {
    pub(crate) fn new(format: LogFormat, level: &str) -> Self {
        Self::with_ansi(format, level, false)
    }

    pub(crate) fn coloured(format: LogFormat, level: &str) -> Self {
        Self::with_ansi(format, level, true)
    }

    fn with_ansi(format: LogFormat, level: &str, ansi: bool) -> Self {
        let options = Options { service: "test", version: "1", format, ..Options::default() };
        let lines = Lines::default();
        let writer = lines.clone();
        let (telemetry, subscriber, no_spans) =
            assemble(&options, level, ansi, move || writer.clone()).unwrap();
        assert_eq!(no_spans, None);
        Self { telemetry, subscriber: Dispatch::new(subscriber), lines }
    }
}

impl Lines {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
