//! Foreground mode of `./dev up`: shows a status line until Ctrl-C, then stops the cluster.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use test_runner::cluster::Cluster;

use crate::reporter::Reporter;
use crate::signals::Signals;
use crate::{commands, render};

/// Time between two updates of the status line.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Shows the status until a signal comes, then stops all parts in order. Each update opens the cluster anew, because
/// other commands may have stopped or started parts.
pub(crate) async fn run(open: &dyn Fn() -> Result<Cluster>, directory: &Path) -> Result<()> {
    let (reporter, mut signals) = (Reporter::new(), Signals::new()?);
    reporter.step("Ctrl-C stops everything; the data stays");
    let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
    let mut said = None;
    loop {
        // Both arms only wait, so either may be dropped.
        tokio::select! {
            () = signals.next() => break,
            _ = refresh.tick() => {}
        }
        let cluster = open()?;
        if cluster.running().is_empty() {
            reporter.done();
            render::print_line("stopped by another command");
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
    let _lock = commands::lock(directory).await?;
    let mut cluster = open()?;
    commands::stop_everything(&mut cluster, &reporter).await
}
