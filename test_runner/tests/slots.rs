//! Replication slots on a safekeeper, and clusters that were promoted before their log began: with PostgreSQL's own tools.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use test_runner::clients;
use test_runner::cluster::{Cluster, ClusterOptions};
use test_runner::cluster_under_test::ClusterUnderTest;
use test_runner::http::get_json;
use test_runner::oracle::wait_replayed;
use test_runner::wait::until;
use wal_types::Lsn;

/// Time limit for every wait.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A log that begins on timeline 2: each of them asks for the history of that timeline first.
#[tokio::test]
async fn promoted_cluster_feeds_new_readers() -> Result<()> {
    let options = ClusterOptions {
        base_backup: true,
        promoted: true,
        without_proxy: true,
        ..ClusterOptions::default()
    };
    let mut test = ClusterUnderTest::start_with("promoted", options).await?;
    let standby = test.cluster.standby("standby", 2).await?;
    test.others.push(standby.start(&[]).await?);
    let cluster = &test.cluster;
    let client = clients::connect(&cluster.application_uri()).await?;
    client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS x").await?;
    let end = committed(cluster, 2).await?;
    wait_replayed(&standby, end).await?;
    ensure!(standby.ask("app", "SELECT count(*) FROM t").await? == "1000", "rows are missing on the standby");
    let end = committed(cluster, 3).await?;

    let directory = cluster.directory.join("received");
    fs::create_dir(&directory)?;
    cluster.receive_wal(cluster.safekeeper(3)?.pg_port, &directory, end).await?;
    let history = fs::read(directory.join("00000002.history"))?;
    let original = fs::read(cluster.postgres().data_dir.join("pg_wal/00000002.history"))?;
    ensure!(history == original, "history: {}", String::from_utf8_lossy(&history));
    test.passed();
    Ok(())
}

/// The safekeeper keeps two more segments. An archiver and a standby that were away find theirs.
#[tokio::test]
async fn slots_keep_wal_for_absent_readers() -> Result<()> {
    let safekeeper_arguments = ["--wal-keep", "32MB"].map(ToOwned::to_owned).into();
    let options = ClusterOptions {
        base_backup: true,
        safekeeper_arguments,
        without_proxy: true,
        ..ClusterOptions::default()
    };
    let mut test = ClusterUnderTest::start_with("slots", options).await?;
    let standby = test.cluster.standby("standby", 1).await?;
    standby.append("postgresql.conf", "primary_slot_name = 'standby'\n")?;
    let cluster = &test.cluster;
    let conninfo = cluster.reader_conninfo(cluster.safekeeper(1)?.pg_port);
    let receivewal = cluster.tools.postgres("pg_receivewal");
    for slot in ["--slot=standby", "--slot=archive"] {
        clients::run(&receivewal, &["-d", &conninfo, "--create-slot", slot], &[]).await?;
        let again = clients::output(&receivewal, &["-d", &conninfo, "--create-slot", slot], &[]).await?;
        ensure!(String::from_utf8_lossy(&again.stderr).contains("already exists"), "{again:?}");
    }
    let directory = cluster.directory.join("received");
    fs::create_dir(&directory)?;
    let target = directory.to_str().context("a path is not UTF-8")?;
    let receive = async |slot: &str, end: Lsn| {
        let end = format!("--endpos={}", Lsn(end.0 - 1));
        let arguments = ["-d", &conninfo, "-D", target, slot, &end, "--no-loop", "--synchronous"];
        clients::output(&receivewal, &arguments, &[]).await
    };
    let missing = receive("--slot=nobody", Lsn(1)).await?;
    ensure!(
        String::from_utf8_lossy(&missing.stderr).contains("replication slot \"nobody\" does not exist"),
        "{missing:?}"
    );

    // Both readers begin, and go away.
    let process = standby.start(&[]).await?;
    wait_replayed(&standby, committed(cluster, 1).await?).await?;
    process.end(nix::sys::signal::Signal::SIGINT, TIMEOUT).await?;
    let first = receive("--slot=archive", committed(cluster, 1).await?).await?;
    ensure!(first.status.success(), "{first:?}");
    let client = cluster.postgres().connect("postgres").await?;
    for _ in 0..8 {
        client.batch_execute("SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()").await?;
    }
    let end = committed(cluster, 1).await?;
    until("the removal of WAL that no slot holds", TIMEOUT, async || {
        Ok((oldest(cluster, 2).await?.0 + (64 << 20) >= end.0).then_some(()))
    })
    .await?;
    let slots: Vec<Value> = get_json(&timeline_url(cluster, 1, "/slots")?).await?;
    ensure!(slots.len() == 2 && slots.iter().all(|slot| slot["wal_status"] == "reserved"), "{slots:?}");
    ensure!(oldest(cluster, 1).await? < oldest(cluster, 2).await?, "the slots hold nothing");

    let second = receive("--slot=archive", end).await?;
    ensure!(second.status.success(), "{second:?}");
    test.others.push(standby.start(&[]).await?);
    wait_replayed(&standby, end).await?;
    // pg_receivewal does not report the last WAL that it received before it ends.
    clients::run(&receivewal, &["-d", &conninfo, "--drop-slot", "--slot=archive"], &[]).await?;
    until("the removal of WAL that the standby has and no other slot holds", TIMEOUT, async || {
        Ok((oldest(&test.cluster, 1).await?.0 + (64 << 20) >= end.0).then_some(()))
    })
    .await?;
    test.passed();
    Ok(())
}

/// Waits until a safekeeper knows all WAL of the primary as committed. Returns its end.
async fn committed(cluster: &Cluster, safekeeper: u64) -> Result<Lsn> {
    let end: Lsn = cluster.postgres().ask("postgres", "SELECT pg_current_wal_flush_lsn()").await?.parse()?;
    until(&format!("the commit of {end}"), TIMEOUT, async || {
        let commit = lsn(cluster, safekeeper, "commit_lsn").await?;
        Ok((commit >= end).then_some(commit))
    })
    .await
}

async fn oldest(cluster: &Cluster, safekeeper: u64) -> Result<Lsn> {
    lsn(cluster, safekeeper, "oldest_lsn").await
}

async fn lsn(cluster: &Cluster, safekeeper: u64, field: &str) -> Result<Lsn> {
    let status: Value = get_json(&timeline_url(cluster, safekeeper, "")?).await?;
    Ok(status[field].as_str().context("no position")?.parse()?)
}

fn timeline_url(cluster: &Cluster, safekeeper: u64, path: &str) -> Result<String> {
    let (tenant, timeline) = (&cluster.state.tenant_id, &cluster.state.timeline_id);
    Ok(format!("{}/v1/timelines/{tenant}/{timeline}{path}", cluster.safekeeper(safekeeper)?.http()))
}
