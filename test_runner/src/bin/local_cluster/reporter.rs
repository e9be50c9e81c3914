//! [`Reporter`]: prints the steps of a command on standard error while it runs.

use std::io::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two frames of the spinner.
const SPINNER_INTERVAL: Duration = Duration::from_millis(120);

/// Prints each step. On a terminal it also shows a spinner.
#[derive(Debug)]
pub(crate) struct Reporter {
    spinner: ProgressBar,
}

impl Reporter {
    /// A reporter whose spinner turns already.
    pub(crate) fn new() -> Self {
        let spinner = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {wide_msg}") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(SPINNER_INTERVAL);
        Self { spinner }
    }

    /// Prints one step.
    pub(crate) fn step(&self, text: &str) {
        if self.spinner.is_hidden() {
            // A reader that closes the pipe must not stop the command.
            let _ = writeln!(std::io::stderr(), "  {text}");
        } else {
            self.spinner.println(format!("  {text}"));
        }
    }

    /// Shows a text beside the spinner.
    pub(crate) fn show(&self, text: String) {
        self.spinner.set_message(text);
    }

    /// Removes the spinner.
    pub(crate) fn done(&self) {
        self.spinner.finish_and_clear();
    }
}
