//! What is shown while something takes time, and the status line of a cluster that runs in front.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use test_runner::cluster::Cluster;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::render;

/// How often the status line is made anew.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
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

    fn show(&self, text: String) {
        self.spinner.set_message(text);
    }

    pub(crate) fn done(&self) {
        self.spinner.finish_and_clear();
    }
}

/// Whatever asks this program to end.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        // Waiting for a signal can be given up at any time.
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Shows the status until a signal comes, then stops everything in order. The cluster is opened anew each time:
/// other commands may stop and start its parts meanwhile.
pub(crate) async fn run(open: &dyn Fn() -> Result<Cluster>, directory: &Path) -> Result<()> {
    let (reporter, mut signals) = (Reporter::new(), Signals::new()?);
    reporter.step("Ctrl-C stops everything; the data stays");
    let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
    let mut said = None;
    loop {
        // Both arms may be dropped while they wait.
        tokio::select! {
            () = signals.next() => break,
            _ = refresh.tick() => {}
        }
        let cluster = open()?;
        if cluster.running().is_empty() {
            reporter.done();
            render::line("stopped by another command");
            return Ok(());
        }
        let status = cluster.status().await?;
        reporter.show(render::status_line(&status));
        if !std::io::stderr().is_terminal() && said.as_ref() != Some(&status.blocked) {
            reporter.step(&render::commits(&status));
            said = Some(status.blocked);
        }
    }
    reporter.show("stopping".into());
    let _lock = crate::lock(directory).await?;
    let mut cluster = open()?;
    crate::stop_everything(&mut cluster, &reporter).await
}
