//! [`Reporter`]: prints the steps of a command on standard error while it runs.

use std::io::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the spinner turns.
const SPINNER_INTERVAL: Duration = Duration::from_millis(120);

/// Prints each step; at a terminal with a spinner that counts the seconds of the current one.
#[derive(Debug)]
pub(crate) struct Reporter {
    spinner: ProgressBar,
}

impl Reporter {
    pub(crate) fn new() -> Self {
        let spinner = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {wide_msg}") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(SPINNER_INTERVAL);
        Self { spinner }
    }

    pub(crate) fn step(&self, text: &str) {
        if self.spinner.is_hidden() {
            // Nobody who stops reading shall stop the work.
            let _ = writeln!(std::io::stderr(), "  {text}");
        } else {
            self.spinner.println(format!("  {text}"));
        }
    }

    pub(crate) fn show(&self, text: String) {
        self.spinner.set_message(text);
    }

    pub(crate) fn done(&self) {
        self.spinner.finish_and_clear();
    }
}
