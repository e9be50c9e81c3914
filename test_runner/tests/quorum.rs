//! Quorum: a commit needs two of three safekeepers, not more and not less.

use std::time::Duration;

use anyhow::{Result, ensure};
use test_runner::clients;
use test_runner::cluster::{Cluster, PartName};
use test_runner::cluster_under_test::ClusterUnderTest;
use test_runner::wait::until;
use test_runner::workload::Workload;

/// Time limit for a stopped safekeeper to catch up 200 MB.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for a waiting commit to return after the quorum is back.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for which a commit must not return.
const HELD_FOR: Duration = Duration::from_secs(2);

/// The safekeeper catches up 200 MB afterwards.
#[tokio::test]
async fn commits_go_on_while_one_safekeeper_is_down() -> Result<()> {
    let mut test = ClusterUnderTest::start("catch-up").await?;
    let cluster = &mut test.cluster;
    let client = clients::connect(&cluster.application_uri()).await?;
    client.batch_execute("CREATE TABLE t (x text)").await?;
    cluster.stop_part(PartName::Safekeeper(1), &|_| {}).await?;
    for _ in 0..10 {
        client.batch_execute("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 20000)").await?;
        cluster.postgres().connect("postgres").await?.batch_execute("CHECKPOINT").await?;
    }

    ensure!(wal_bytes(cluster).await? > 200_000_000, "too little WAL for this test");
    cluster.start_part(PartName::Safekeeper(1)).await?;
    until("the same flush LSN everywhere", CATCH_UP_TIMEOUT, async || {
        let flushed = flush_positions(cluster).await;
        Ok((flushed.len() == 3 && flushed.iter().all(|at| *at == flushed[0])).then_some(()))
    })
    .await?;

    test.passed();
    Ok(())
}

#[tokio::test]
async fn commits_wait_until_a_quorum_is_back() -> Result<()> {
    let mut test = ClusterUnderTest::start("release").await?;
    let cluster = &mut test.cluster;
    let client = clients::connect(&cluster.application_uri()).await?;
    client.batch_execute("CREATE TABLE t (x int)").await?;
    for id in [1, 2] {
        cluster.stop_part(PartName::Safekeeper(id), &|_| {}).await?;
    }

    let mut commit = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (1)").await });
    ensure!(tokio::time::timeout(HELD_FOR, &mut commit).await.is_err(), "a commit returned without a quorum");
    let status = cluster.status().await?;
    let blocked = status.blocked.unwrap_or_default();
    ensure!(
        blocked.contains("sk1") && blocked.contains("sk2"),
        "the status does not name the stopped safekeepers: {blocked:?}"
    );

    cluster.start_part(PartName::Safekeeper(2)).await?;
    tokio::time::timeout(RELEASE_TIMEOUT, commit).await???;
    test.passed();
    Ok(())
}

#[tokio::test]
async fn commits_go_on_after_walproposer_kills() -> Result<()> {
    let mut test = ClusterUnderTest::start("walproposer").await?;
    let cluster = &mut test.cluster;
    let workload = Workload::start(&cluster.application_uri(), 4, 100).await?;
    for _ in 0..3 {
        workload.wait_for_more(50, RELEASE_TIMEOUT).await?;
        cluster.kill_part(PartName::Walproposer).await?;
        cluster.start_part(PartName::Walproposer).await?;
    }
    workload.wait_for_more(50, RELEASE_TIMEOUT).await?;
    workload.stop().await?;
    test.passed();
    Ok(())
}

#[tokio::test]
async fn killed_postgres_keeps_acknowledged_rows() -> Result<()> {
    let mut test = ClusterUnderTest::start("postgres").await?;
    let cluster = &mut test.cluster;
    let workload = Workload::start(&cluster.application_uri(), 4, 100).await?;
    workload.wait_for_more(200, RELEASE_TIMEOUT).await?;
    cluster.kill_part(PartName::Postgres).await?;
    let postgres = cluster.postgres();
    until("PostgreSQL to start again", RELEASE_TIMEOUT, async || {
        // Processes of the dead server may hold its shared memory for a moment.
        Ok(cluster.start_part(PartName::Postgres).await.ok())
    })
    .await?;

    workload.wait_for_more(200, RELEASE_TIMEOUT).await?;
    let acknowledged = workload.stop().await?;
    let count: usize = postgres.ask("app", "SELECT count(*) FROM acknowledged").await?.parse()?;
    ensure!(count >= acknowledged.len(), "{} acknowledged, {count} there", acknowledged.len());
    test.passed();
    Ok(())
}

/// The next start pushes the rest of the WAL.
#[tokio::test]
async fn stop_without_quorum_ends_and_start_recovers() -> Result<()> {
    let mut test = ClusterUnderTest::start("stop").await?;
    let cluster = &mut test.cluster;
    let client = clients::connect(&cluster.application_uri()).await?;
    client.batch_execute("CREATE TABLE t (x int)").await?;
    for id in [2, 3] {
        cluster.stop_part(PartName::Safekeeper(id), &|_| {}).await?;
    }

    let held = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (1)").await });
    let said = std::cell::RefCell::new(String::new());
    cluster.stop(&|text| *said.borrow_mut() += text).await?;
    ensure!(
        said.borrow().contains("stood still"),
        "the reason of the delay was not printed: {}",
        said.borrow()
    );

    ensure!(cluster.running().is_empty(), "something still runs");
    drop(held);
    cluster.start(&|_| {}).await?;
    let client = clients::connect(&cluster.application_uri()).await?;
    tokio::time::timeout(RELEASE_TIMEOUT, client.batch_execute("INSERT INTO t VALUES (2)")).await??;
    test.passed();
    Ok(())
}

async fn wal_bytes(cluster: &Cluster) -> Result<i64> {
    let query = "SELECT (pg_current_wal_lsn() - '0/0')::bigint - 16777216";
    Ok(cluster.postgres().ask("postgres", query).await?.parse()?)
}

async fn flush_positions(cluster: &Cluster) -> Vec<String> {
    let status = cluster.status().await;
    let safekeepers = status.map(|status| status.safekeepers).unwrap_or_default();
    safekeepers.into_iter().filter_map(|safekeeper| safekeeper.flush_lsn).collect()
}
