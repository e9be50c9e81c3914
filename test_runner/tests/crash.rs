//! Crashes: kill -9 under load, on disks that lose unsynced data. The oracle examines the safekeepers' disks alone;
//! when syncs do nothing, the same oracle must find a loss.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_runner::cluster::{Cluster, ClusterOptions, PartName};
use test_runner::cluster_under_test::ClusterUnderTest;
use test_runner::oracle;
use test_runner::unsynced::{self, ForgettingDisk};
use test_runner::wait::until;
use test_runner::workload::{Rows, Workload};

/// Clients of the load.
const CLIENTS: i32 = 8;
/// Payload of each row.
const PAYLOAD_BYTES: usize = 500;
/// Acknowledged rows between two crashes.
const ROWS: u64 = 500;
/// Time limit for commits to go through after a crash.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);
/// Ids of the safekeepers.
const SAFEKEEPERS: [u64; 3] = [1, 2, 3];

async fn cluster_on_forgetting_disks(name: &str) -> Result<ClusterUnderTest> {
    let library = unsynced::library().await?;
    let options =
        ClusterOptions { base_backup: true, forgetting_disks: Some(library), ..ClusterOptions::default() };
    ClusterUnderTest::start_with(name, options).await
}

/// Kills one part; a safekeeper loses its unsynced changes. Returns their number.
async fn crash(cluster: &mut Cluster, part: PartName) -> Result<usize> {
    cluster.kill_part(part).await?;
    match part {
        PartName::Safekeeper(id) => cluster.forgetting_disk(id).map_or(Ok(0), |disk| disk.lose_unsynced()),
        _ => Ok(0),
    }
}

/// Kills all parts as nearly at once as possible, before their disks lose anything.
async fn crash_all(cluster: &mut Cluster, parts: &[PartName]) -> Result<usize> {
    for part in parts {
        if let Some(process) = cluster.part(*part)?.process {
            process.signal(nix::sys::signal::Signal::SIGKILL)?;
        }
    }
    let mut lost = 0;
    for part in parts {
        lost += crash(cluster, *part).await?;
    }
    Ok(lost)
}

fn everything_but_postgres() -> Vec<PartName> {
    SAFEKEEPERS
        .map(PartName::Safekeeper)
        .into_iter()
        .chain([PartName::Walproposer, PartName::Proxy])
        .collect()
}

/// All parts but PostgreSQL are killed several times.
#[tokio::test]
async fn repeated_kills_around_postgres_lose_no_row() -> Result<()> {
    let mut test = cluster_on_forgetting_disks("crash-but-postgres").await?;
    let cluster = &mut test.cluster;
    let workload = Workload::start(&cluster.application_uri(), CLIENTS, PAYLOAD_BYTES).await?;
    for _ in 0..3 {
        workload.wait_for_more(ROWS, PROGRESS_TIMEOUT).await?;
        let parts = everything_but_postgres();
        crash_all(cluster, &parts).await?;
        for part in parts {
            cluster.start_part(part).await?;
        }
    }

    workload.wait_for_more(ROWS, PROGRESS_TIMEOUT).await?;
    crash_all(cluster, &everything_but_postgres()).await?;
    let acknowledged = workload.stop().await?;
    cluster.kill_part(PartName::Postgres).await?;
    ensure!(acknowledged.len() as u64 >= 4 * ROWS, "too few rows were written");
    nothing_is_lost(cluster, &acknowledged).await?;
    test.passed();
    Ok(())
}

#[tokio::test]
async fn kill_of_everything_loses_no_acknowledged_row() -> Result<()> {
    let mut test = cluster_on_forgetting_disks("crash-everything").await?;
    let acknowledged = write_and_crash(&mut test.cluster).await?;
    nothing_is_lost(&test.cluster, &acknowledged).await?;
    test.passed();
    Ok(())
}

#[tokio::test]
async fn the_oracle_reports_loss_when_syncs_do_nothing() -> Result<()> {
    let mut test = cluster_on_forgetting_disks("crash-lying").await?;
    for id in SAFEKEEPERS {
        fs::write(disk(&test.cluster, id)?.lie, "")?;
    }
    let acknowledged = write_and_crash(&mut test.cluster).await?;
    let loss = oracle::find_loss(&test.cluster, &acknowledged).await?;
    ensure!(
        loss.as_ref().is_some_and(|loss| loss.contains("acknowledged rows")),
        "nothing was synced, and the oracle says {loss:?}"
    );
    test.passed();
    Ok(())
}

#[tokio::test]
async fn safekeepers_crashing_in_turn_lose_nothing() -> Result<()> {
    let mut test = cluster_on_forgetting_disks("crash-in-turn").await?;
    let cluster = &mut test.cluster;
    let workload = Workload::start(&cluster.application_uri(), CLIENTS, PAYLOAD_BYTES).await?;
    for id in SAFEKEEPERS.into_iter().cycle().take(6) {
        workload.wait_for_more(ROWS / 2, PROGRESS_TIMEOUT).await?;
        crash(cluster, PartName::Safekeeper(id)).await?;
        cluster.start_part(PartName::Safekeeper(id)).await?;
    }
    workload.wait_for_more(ROWS / 2, PROGRESS_TIMEOUT).await?;
    let parts = cluster.parts();
    crash_all(cluster, &parts).await?;
    let acknowledged = workload.stop().await?;
    nothing_is_lost(cluster, &acknowledged).await?;
    test.passed();
    Ok(())
}

/// A safekeeper whose sync failed acknowledges only WAL that it wrote anew.
#[tokio::test]
async fn failed_sync_is_followed_by_rewritten_wal_only() -> Result<()> {
    let mut test = cluster_on_forgetting_disks("crash-failed-sync").await?;
    let cluster = &mut test.cluster;
    let failing = disk(cluster, 1)?;
    let workload = Workload::start(&cluster.application_uri(), CLIENTS, PAYLOAD_BYTES).await?;
    for _ in 0..3 {
        workload.wait_for_more(ROWS / 2, PROGRESS_TIMEOUT).await?;
        fs::write(&failing.fail, "")?;
        workload.wait_for_more(ROWS / 2, PROGRESS_TIMEOUT).await?;
        let (safekeeper, state) = (cluster.safekeeper(1)?, &cluster.state);
        until("the safekeeper to see that its disk fails", PROGRESS_TIMEOUT, async || {
            let timeline = safekeeper.timeline(&state.tenant_id, &state.timeline_id).await?;
            Ok((timeline.health == "failed").then_some(()))
        })
        .await?;
        fs::remove_file(&failing.fail)?;
    }

    // From here on each commit needs safekeeper 1, whose disk failed.
    cluster.stop_part(PartName::Safekeeper(2), &|_| {}).await?;
    workload.wait_for_more(ROWS, PROGRESS_TIMEOUT).await?;
    let parts = cluster.parts();
    crash_all(cluster, &parts).await?;
    let acknowledged = workload.stop().await?;
    nothing_is_lost(cluster, &acknowledged).await?;
    test.passed();
    Ok(())
}

fn disk(cluster: &Cluster, id: u64) -> Result<ForgettingDisk> {
    cluster.forgetting_disk(id).context("an ordinary disk")
}

async fn nothing_is_lost(cluster: &Cluster, acknowledged: &Rows) -> Result<()> {
    let loss = oracle::find_loss(cluster, acknowledged).await?;
    ensure!(loss.is_none(), "lost: {}", loss.unwrap_or_default());
    Ok(())
}

async fn write_and_crash(cluster: &mut Cluster) -> Result<Rows> {
    let workload = Workload::start(&cluster.application_uri(), CLIENTS, PAYLOAD_BYTES).await?;
    workload.wait_for_more(2 * ROWS, PROGRESS_TIMEOUT).await?;
    let parts = cluster.parts();
    crash_all(cluster, &parts).await?;
    workload.stop().await
}
