//! Short crash runs: pass on honest disks, resume after an interruption, and detect disks that lie.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_runner::env::TestEnvironment;
use test_runner::wait::until;
use tokio::process::Command;

/// Time limit for the first cycles of a run, initdb included.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(120);

fn chaos(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    command.arg("--directory").arg(directory).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn lines(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

fn cycles(directory: &Path) -> Option<u64> {
    let text = std::fs::read(directory.join("progress.json")).ok()?;
    serde_json::from_slice::<serde_json::Value>(&text).ok()?["cycles"].as_u64()
}

#[tokio::test]
async fn chaos_run_loses_nothing_when_itself_killed() -> Result<()> {
    let test = TestEnvironment::new("chaos")?;
    let directory = test.directory.join("run");
    let seed = (getrandom::u64()? % 1000).to_string();
    let mut run = chaos(&directory, &["--cycles", "1000", "--seed", &seed]).stdout(Stdio::null()).spawn()?;
    until("three cycles", BEGIN_TIMEOUT, async || {
        ensure!(run.try_wait()?.is_none(), "the run ended by itself");
        Ok(cycles(&directory).filter(|cycles| *cycles >= 3))
    })
    .await?;
    run.kill().await?;

    let output = chaos(&directory, &["--cycles", "8"]).output().await?;
    ensure!(!output.status.success() && lines(&output).contains("--resume"), "{}", lines(&output));
    let done = cycles(&directory).context("no progress")?;
    let total = (done + 3).to_string();
    let output = chaos(&directory, &["--cycles", &total, "--resume"]).output().await?;
    let said = lines(&output);
    ensure!(output.status.success() && said.contains(&format!("{total} cycles, 1 oracles")), "{said}");
    let (first, before) = (format!("cycle {}:", done + 1), format!("cycle {done}:"));
    ensure!(said.contains(&first) && !said.contains(&before), "{said}");
    test.passed();
    Ok(())
}

#[tokio::test]
async fn oracle_finds_a_safekeeper_that_skips_syncs() -> Result<()> {
    let test = TestEnvironment::new("chaos-lying")?;
    let directory = test.directory.join("run");
    // With this seed a safekeeper loses unsynced data in one of the first cycles.
    let arguments = ["--cycles", "12", "--seed", "2", "--lying-disks"];
    let output = chaos(&directory, &arguments).output().await?;
    let said = lines(&output);
    ensure!(!output.status.success() && said.contains("lost what it acknowledged"), "{said}");
    ensure!(said.contains("but it acknowledged"), "{said}");
    ensure!(directory.join("cluster/sk1").exists(), "nothing was kept");
    let again = lines(&chaos(&directory, &["--cycles", "12", "--resume"]).output().await?);
    ensure!(again.contains("lost what it acknowledged") && !again.contains("started;"), "{again}");
    test.passed();
    Ok(())
}
