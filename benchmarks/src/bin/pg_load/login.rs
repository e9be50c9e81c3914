//! Login load: a number of clients log in and out, each one again as soon as it is through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::log_in::{Target, TargetFlags, log_out};

/// What is run.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    target: TargetFlags,

    /// Clients at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    clients: usize,

    /// Seconds in which logins begin; each client logs in once at least
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// Runs the load and prints its result.
#[expect(clippy::print_stdout, reason = "the benchmark reads the result there")]
pub(crate) async fn run(flags: Flags) -> Result<()> {
    let target = Arc::new(Target::new(flags.target)?);
    let (begin, length) = (Instant::now(), Duration::from_secs_f64(flags.seconds));
    let clients: Vec<_> =
        (0..flags.clients).map(|_| tokio::spawn(client(Arc::clone(&target), begin + length))).collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await??);
    }

    let seconds = begin.elapsed().as_secs_f64();
    times.sort_unstable();
    let percentile = |percent: usize| -> Result<u128> {
        let last = times.len().checked_sub(1).context("no login succeeded")?;
        Ok(times[last * percent / 100].as_micros())
    };
    println!(
        "{}",
        json!({"logins": times.len(), "seconds": seconds, "p50_us": percentile(50)?, "p99_us": percentile(99)?})
    );
    Ok(())
}

/// Logs in and out until the end, at least once. Returns the times of the logins.
async fn client(target: Arc<Target>, end: Instant) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    loop {
        let begin = Instant::now();
        let session = target.log_in().await?;
        times.push(begin.elapsed());
        log_out(session).await?;
        if Instant::now() >= end {
            return Ok(times);
        }
    }
}
