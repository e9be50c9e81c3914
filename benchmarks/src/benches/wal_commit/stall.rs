//! Stalls: one log node stops for 100 ms each second, while commits begin at a fixed rate. Latency counts from the time
//! at which a commit should have begun: clients that wait for each other would hardly meet a stall.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use test_runner::process::ProcessId;

use super::goals::{P50, P99, STALLED};
use crate::peers::pgbench::Pgbench;
use crate::peers::primary::Template;
use crate::peers::replicated::Replicated;
use crate::rounds;
use crate::run::Run;
use crate::stats::quantile;

const RATE: u32 = 500;
const CLIENTS: u32 = 16;
const STALL: Duration = Duration::from_millis(100);
const PERIOD: Duration = Duration::from_secs(1);

/// Measures our variant and the standby in turn.
pub(super) async fn measure(run: &mut Run, variants: &[Replicated], template: &Template) -> Result<()> {
    let stalled = variants.iter().filter(|variant| ["ours", "standby"].contains(&variant.name));
    let stalled: Vec<&Replicated> = stalled.collect();
    for round in 0..run.options.rounds {
        run.progress(&format!("{STALLED}: round {} of {}", round + 1, run.options.rounds));
        for variant in rounds::order(&stalled, round) {
            slice(run, variant, template).await?;
        }
    }
    Ok(())
}

async fn slice(run: &mut Run, variant: &Replicated, template: &Template) -> Result<()> {
    let node = *variant.nodes.first().context("there is no log node to stall")?;
    let directory = run.directory.clone();
    let uri = variant.uri();
    let load = Pgbench {
        tools: &run.tools,
        uri: &uri,
        script: template.insert(),
        protocol: "prepared",
        clients: CLIENTS,
        seconds: run.options.pick(3, 10),
        rate: Some(RATE),
        log_directory: Some(&directory),
    };

    nix::unistd::sync();
    // Each arm may be dropped while it waits; the node goes on afterwards.
    let load = tokio::select! {
        load = load.run() => load,
        error = stall_again_and_again(node) => Err(error),
    };
    signal_all(node, Signal::SIGCONT)?;
    let latencies = load?.latencies_ms;
    let at = |share| quantile(&latencies, share).context("no commit went through");
    run.push(STALLED, P99, variant.name, at(0.99)?);
    run.push(STALLED, P50, variant.name, at(0.5)?);
    Ok(())
}

/// Stalls the node until this future is dropped; returns only when a signal could not be sent.
async fn stall_again_and_again(node: ProcessId) -> anyhow::Error {
    loop {
        tokio::time::sleep(PERIOD - STALL).await;
        if let Err(error) = signal_all(node, Signal::SIGSTOP) {
            return error;
        }
        tokio::time::sleep(STALL).await;
        if let Err(error) = signal_all(node, Signal::SIGCONT) {
            return error;
        }
    }
}

/// Signals the process and its children: a standby has several.
fn signal_all(node: ProcessId, signal: Signal) -> Result<()> {
    for process in node.children().into_iter().chain([node]) {
        process.signal(signal)?;
    }
    Ok(())
}
