//! What is shown while something takes time, and the status line of a cluster that runs in front.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use test_runner::cluster::Cluster;

use crate::reporter::Reporter;
use crate::signals::Signals;
use crate::{commands, render};

/// How often the status line is made anew.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

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
