//! The commands of `./dev`: `up` with a psql line that works as pasted, `status`, `stop`, `start`, `down`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use test_runner::wait::until;

use crate::dev_commands::{DevCommands, paste};

/// Time limit for one step of a test.
const STEP_TIMEOUT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn cluster_restarts_in_parts_with_its_data() -> Result<()> {
    let dev = DevCommands::new("up")?;
    let printed = dev.succeed(&["up", "--detach"]).await?;
    let psql = printed.lines().last().context("nothing printed")?.to_owned();
    for program in ["sk1", "sk2", "sk3", "postgres", "walproposer", "proxy"] {
        ensure!(
            printed.lines().any(|line| line.starts_with(program)),
            "no {program} in the table: {printed}"
        );
    }
    paste(&psql, "CREATE TABLE t AS SELECT 42 AS x").await?;
    check_cluster_json(&dev, &psql)?;

    let again = dev.succeed(&["up", "--detach"]).await?;
    ensure!(again.contains("running already"), "a second up said {again}");
    check_status(&dev).await?;
    stop_and_start_safekeepers(&dev, &psql).await?;

    dev.succeed(&["down"]).await?;
    ensure!(dev.processes().is_empty() && !dev.directory.join("cluster.json").exists());
    ensure!(dev.fail(&["status"]).await?.contains("./dev up"));
    let printed = dev.succeed(&["up", "--detach"]).await?;
    ensure!(printed.lines().last() == Some(psql.as_str()), "the line changed: {printed}");
    ensure!(paste(&psql, "SELECT count(*) FROM t").await? == "2");
    dev.succeed(&["down"]).await?;
    dev.passed();
    Ok(())
}

fn check_cluster_json(dev: &DevCommands, psql: &str) -> Result<()> {
    let mode = fs::metadata(dev.directory.join("cluster.json"))?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "mode {mode:o}");
    let cluster = dev.cluster_json()?;
    ensure!(cluster["psql"] == psql && cluster["safekeepers"].as_array().is_some_and(|all| all.len() == 3));
    for pid in
        [&cluster["postgres"]["pid"], &cluster["walproposer"]["pid"], &cluster["safekeepers"][0]["pid"]]
    {
        let pid = pid.as_i64().context("no pid")?;
        ensure!(dev.processes().iter().any(|process| i64::from(process.pid) == pid), "{pid} does not run");
    }
    ensure!(cluster["walproposer"]["http"].as_str().is_some_and(|url| url.starts_with("http://127.0.0.1:")));
    Ok(())
}

async fn check_status(dev: &DevCommands) -> Result<()> {
    let status: serde_json::Value = serde_json::from_str(&dev.succeed(&["status", "--json"]).await?)?;
    ensure!(status["blocked"].is_null(), "{status}");
    for safekeeper in status["safekeepers"].as_array().context("no safekeepers")? {
        ensure!(safekeeper["term"].as_u64().is_some_and(|term| term > 0), "{safekeeper}");
        ensure!(safekeeper["flush_lsn"].is_string() && safekeeper["lag_bytes"].is_u64(), "{safekeeper}");
    }
    ensure!(dev.succeed(&["status"]).await?.contains("commits go through"));
    Ok(())
}

async fn stop_and_start_safekeepers(dev: &DevCommands, psql: &str) -> Result<()> {
    dev.succeed(&["stop", "sk1"]).await?;
    ensure!(paste(psql, "INSERT INTO t VALUES (1)").await? == "INSERT 0 1");
    dev.succeed(&["stop", "sk3"]).await?;
    let status = dev.succeed(&["status"]).await?;
    ensure!(status.contains("commits wait") && status.contains("sk1, sk3"), "{status}");
    dev.succeed(&["start", "sk3"]).await?;
    until("commits to go through again", STEP_TIMEOUT, async || {
        Ok(dev.succeed(&["status"]).await?.contains("commits go through").then_some(()))
    })
    .await?;
    dev.succeed(&["start", "sk1"]).await?;
    Ok(())
}

/// Ctrl-C stops all parts.
#[tokio::test]
async fn foreground_up_shows_status_until_ctrl_c() -> Result<()> {
    let dev = DevCommands::new("front")?;
    let front = dev.spawn(&["up"])?;
    let log = dev.directory.join("dev.log");
    let said = |what: &'static str| {
        let log = log.clone();
        async move {
            until(what, STEP_TIMEOUT, async || Ok(fs::read_to_string(&log)?.contains(what).then_some(())))
                .await
        }
    };

    said("commits go through").await?;
    ensure!(dev.processes().len() == 6);
    dev.succeed(&["stop", "sk2"]).await?;
    dev.succeed(&["stop", "sk3"]).await?;
    said("commits wait: no quorum").await?;
    dev.succeed(&["start", "sk2"]).await?;
    front.end(Signal::SIGINT, STEP_TIMEOUT).await?;
    said("the data stays in").await?;
    ensure!(dev.processes().is_empty(), "something still runs");
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn dead_part_is_reported_and_started_by_name() -> Result<()> {
    let dev = DevCommands::new("died")?;
    dev.succeed(&["up", "--detach"]).await?;
    let pid = dev.cluster_json()?["safekeepers"][1]["pid"].as_i64();
    let victim = dev.processes().into_iter().find(|process| Some(i64::from(process.pid)) == pid);
    victim.context("sk2 does not run")?.kill().await?;
    let status = dev.succeed(&["status"]).await?;
    ensure!(status.lines().any(|line| line.starts_with("sk2") && line.contains("died")), "{status}");
    ensure!(dev.fail(&["up", "--detach"]).await?.contains("./dev start sk2"));
    dev.succeed(&["start", "sk2"]).await?;
    ensure!(dev.processes().len() == 6);
    dev.succeed(&["down"]).await?;
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn interrupted_start_leaves_nothing_and_can_repeat() -> Result<()> {
    let dev = DevCommands::new("interrupted")?;
    let start = dev.spawn(&["up", "--detach"])?;
    until("the first process", STEP_TIMEOUT, async || Ok(dev.processes().first().copied())).await?;
    start.end(Signal::SIGINT, STEP_TIMEOUT).await?;
    ensure!(dev.processes().is_empty(), "something still runs");
    ensure!(!dev.directory.join("postgres").exists(), "an unfinished data directory is left");
    dev.succeed(&["up", "--detach"]).await?;
    dev.succeed(&["down"]).await?;
    dev.passed();
    Ok(())
}
