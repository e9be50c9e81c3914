//! Commands of `./dev`: `up`, `status`, `start`, `stop` and `down`, with the lock that lets one run at a time.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use test_runner::cluster::{Cluster, PartName};
use test_runner::wait;

use crate::render;
use crate::reporter::Reporter;
use crate::signals::Signals;

/// Time that a command waits for the end of another one.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Locks the cluster. Held while parts start or stop: two commands at once would undo each other.
pub(crate) async fn lock(directory: &Path) -> Result<Flock<fs::File>> {
    let path = directory.join("lock");
    let locked = wait::until("the end of the other command", LOCK_TIMEOUT, async || {
        match Flock::lock(fs::File::create(&path)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    });
    locked.await.context("another ./dev command is starting or stopping this cluster")
}

/// Starts the cluster and prints its addresses. False when it ran already.
pub(crate) async fn up(cluster: &mut Cluster, port: Option<u16>) -> Result<bool> {
    let running = cluster.running();
    if running.len() == cluster.parts().len() {
        render::print_line("the cluster is running already (./dev down stops it)");
        render::addresses(cluster).await?;
        return Ok(false);
    }

    if !running.is_empty() {
        let down: Vec<String> = cluster
            .parts()
            .iter()
            .filter(|part| !running.contains(part))
            .map(|part| part.to_string())
            .collect();
        bail!(
            "the cluster is running, except {}: ./dev start {}, or ./dev down first",
            down.join(", "),
            down[0]
        );
    }

    if let Some(port) = port {
        cluster.state.postgres.port = port;
    }

    let (reporter, mut signals) = (Reporter::new(), Signals::new()?);
    let report = |text: &str| reporter.step(text);
    let started = tokio::select! {
        started = cluster.start(&report) => started,
        // Dropping `start` ends the program that was being started; `give_up_start` ends the rest.
        () = signals.next() => Err(anyhow::anyhow!("interrupted: everything that was started is stopped again")),
    };
    if started.is_err() {
        cluster.give_up_start().await?;
    }

    reporter.done();
    started?;
    update_cluster_json(cluster)?;
    render::addresses(cluster).await?;
    Ok(true)
}

/// Prints the status of the cluster.
pub(crate) async fn status(cluster: &Cluster, json: bool) -> Result<ExitCode> {
    let status = cluster.status().await?;
    if json {
        render::print_line(&serde_json::to_string_pretty(&status)?);
        return Ok(ExitCode::SUCCESS);
    }
    if cluster.running().is_empty() && status.parts.iter().all(|part| part.state == "stopped") {
        bail!("the cluster does not run: ./dev up");
    }
    render::status(&status);
    Ok(ExitCode::SUCCESS)
}

/// Starts one part. With `for_proxy`, only while the proxy runs.
pub(crate) async fn start(cluster: &mut Cluster, name: PartName, for_proxy: bool) -> Result<()> {
    if cluster.state.origin.is_none() {
        bail!("there is no cluster here yet: ./dev up");
    }
    if for_proxy && !cluster.is_running(PartName::Proxy) {
        bail!("the proxy that wanted {name} has ended: {name} is not started");
    }
    if cluster.is_running(name) {
        render::print_line(&format!("{name} is running already"));
        return Ok(());
    }
    cluster.start_part(name).await?;
    update_cluster_json(cluster)?;
    render::print_line(&format!("{name} started"));
    Ok(())
}

/// Waits until commits go through a started primary, or prints what they wait for.
pub(crate) async fn wait_usable(cluster: &Cluster) -> Result<()> {
    if let Some(missing) =
        cluster.wait_usable().await.context("postgres runs, but commits do not go through")?
    {
        render::print_line(&format!("commits wait: {missing}"));
    }
    Ok(())
}

/// Stops one part.
pub(crate) async fn stop(cluster: &mut Cluster, name: PartName) -> Result<()> {
    let was_running = cluster.is_running(name);
    let reporter = Reporter::new();
    cluster.stop_part(name, &|text| reporter.step(text)).await?;
    reporter.done();
    update_cluster_json(cluster)?;
    render::print_line(&format!("{name} {}", if was_running { "is stopped" } else { "did not run" }));
    Ok(())
}

/// Stops all parts.
pub(crate) async fn down(cluster: &mut Cluster) -> Result<()> {
    if cluster.running().is_empty() {
        render::print_line("no part of the cluster runs");
    }
    stop_everything(cluster, &Reporter::new()).await
}

/// Stops all parts in order and prints where the data stays.
pub(crate) async fn stop_everything(cluster: &mut Cluster, reporter: &Reporter) -> Result<()> {
    let stopped = cluster.stop(&|text| reporter.step(text)).await;
    reporter.done();
    stopped?;
    update_cluster_json(cluster)?;
    render::print_line(&format!("stopped; the data stays in {}", cluster.directory.display()));
    Ok(())
}

/// Writes `cluster.json` while a part runs, and removes it when none does.
fn update_cluster_json(cluster: &Cluster) -> Result<()> {
    if !cluster.running().is_empty() {
        return cluster.write_cluster_json();
    }
    let file = cluster.directory.join("cluster.json");
    if file.exists() { Ok(fs::remove_file(file)?) } else { Ok(()) }
}
