//! Catch-up: a safekeeper of a cluster was down, and gets the WAL that it lacks, beside a receiver that does the same.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use test_runner::cluster::{Cluster, ClusterOptions, PartName};
use test_runner::{clients, wait};
use wal_format::SegmentName;
use wal_types::{Lsn, SegmentSize, Tli};

use super::common::{MIB, OURS, RATE, SEGMENT_BYTES, write_wal};
use crate::quantity::Quantity;
use crate::run::Run;

const WHAT: &str = "catch-up of a safekeeper that was down";
const DELAY: Quantity = Quantity::lower("time until the first WAL came", "ms");
const RECEIVER: &str = "pg_receivewal --synchronous";
/// Time limit for a safekeeper to catch up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(120);
/// The safekeeper that is killed and started again.
const LATE: u64 = 3;

/// Kills a safekeeper of a cluster, writes WAL to the others, starts it again, and times until it has all WAL.
pub(super) async fn measure(run: &mut Run) -> Result<()> {
    if !run.options.has_situation(WHAT) {
        return Ok(());
    }
    run.progress("starting a cluster");
    let directory = run.directory.join("cluster");
    std::fs::create_dir_all(&directory)?;
    let options = ClusterOptions { dies_with_parent: true, without_proxy: true, ..ClusterOptions::default() };
    let mut cluster = Cluster::open(&directory, run.tools.clone(), options)?;
    cluster.start(&|_| {}).await?;

    // pg_receivewal takes no notice of a file of segment 0: the first round must not begin in segment 1.
    write_wal(&cluster.postgres(), 2 * u64::from(SEGMENT_BYTES)).await?;

    let wal_bytes = run.options.pick(256, 512) * MIB;
    for round in 0..run.options.rounds {
        run.progress(&format!("{WHAT}: round {} of {}", round + 1, run.options.rounds));
        wait::until("all safekeepers to stream", CATCH_UP_TIMEOUT, async || {
            let status = cluster.walproposer().status().await?;
            Ok(status.safekeepers.iter().all(|safekeeper| safekeeper.state == "streaming").then_some(()))
        })
        .await?;
        let from = flushed(&cluster).await?;
        cluster.kill_part(PartName::Safekeeper(LATE)).await?;
        let upto = write_wal(&cluster.postgres(), wal_bytes).await?;
        let megabytes = upto.bytes_since(from) as f64 / 1e6;

        run.begin_slice()?;
        let (delay, took) = start_late(&mut cluster, upto).await?;
        run.end_slice()?;
        run.push(WHAT, RATE, OURS, megabytes / took.as_secs_f64());
        run.push(WHAT, DELAY, OURS, delay.as_secs_f64() * 1e3);

        run.begin_slice()?;
        let took = receive(&cluster, &run.directory.join("received"), from, upto).await?;
        run.end_slice()?;
        run.push(WHAT, RATE, RECEIVER, megabytes / took.as_secs_f64());
    }
    cluster.end_at_once().await
}

/// Starts the safekeeper. Returns the time from there to its first new WAL, and from its first new WAL to all of it.
async fn start_late(cluster: &mut Cluster, upto: Lsn) -> Result<(Duration, Duration)> {
    cluster.start_part(PartName::Safekeeper(LATE)).await?;
    let (started, from) = (Instant::now(), flushed(cluster).await?);
    let reach = async |lsn: Lsn| {
        let reached = async || Ok((flushed(cluster).await? >= lsn).then(Instant::now));
        wait::until("a safekeeper to catch up", CATCH_UP_TIMEOUT, reached).await
    };
    let first = reach(from.advance(1)).await?;
    let last = reach(upto).await?;
    Ok((first - started, last - first))
}

async fn flushed(cluster: &Cluster) -> Result<Lsn> {
    let state = &cluster.state;
    let status = cluster.safekeeper(LATE)?.timeline(&state.tenant_id, &state.timeline_id).await?;
    status.flush_lsn.parse().context("the safekeeper reports no position")
}

/// Fetches the same WAL from the primary into an empty directory. Returns the time that passed.
async fn receive(cluster: &Cluster, directory: &Path, from: Lsn, upto: Lsn) -> Result<Duration> {
    std::fs::create_dir_all(directory)?;
    // pg_receivewal begins behind the last whole segment in its directory.
    let size = SegmentSize::new(SEGMENT_BYTES).map_err(|error| anyhow::anyhow!("{error}"))?;
    let before = SegmentName { tli: Tli::FIRST, segment: size.segment_of(from) - 1, size };
    std::fs::File::create(directory.join(before.to_string()))?.set_len(SEGMENT_BYTES.into())?;
    let postgres = cluster.postgres();
    let uri = format!(
        "postgresql://wp:{}@127.0.0.1:{}/postgres",
        cluster.state.passwords.walproposer, postgres.port
    );
    let target = directory.to_str().context("a path is not UTF-8")?;
    // It ends when it has received a byte behind this position.
    let end = format!("--endpos={}", Lsn(upto.0 - 1));

    let started = Instant::now();
    let arguments = ["-d", &uri, "-D", target, &end, "--no-loop", "--synchronous"];
    clients::run(&cluster.tools.postgres("pg_receivewal"), &arguments, &[]).await?;
    let took = started.elapsed();
    let received = std::fs::read_dir(directory)?.count() as u64 * u64::from(SEGMENT_BYTES);
    ensure!(received > upto.bytes_since(from), "pg_receivewal fetched {received} bytes only");
    std::fs::remove_dir_all(directory)?;
    Ok(took)
}
