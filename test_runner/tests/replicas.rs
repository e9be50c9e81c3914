//! Replicas: `pg_receivewal` and a stock standby stream from a safekeeper.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_runner::clients;
use test_runner::cluster::{Cluster, ClusterOptions};
use test_runner::cluster_under_test::ClusterUnderTest;
use test_runner::oracle::wait_replayed;
use test_runner::postgres::Postgres;
use test_runner::wait::until;
use wal_types::Lsn;

/// Time limit for all safekeepers to learn a commit LSN.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Both are stock programs that stream from a safekeeper.
#[tokio::test]
async fn receivewal_and_standby_reach_the_commit_lsn() -> Result<()> {
    let options = ClusterOptions { base_backup: true, ..ClusterOptions::default() };
    let mut test = ClusterUnderTest::start_with("replicas", options).await?;
    let standby = test.cluster.standby("standby", 2).await?;
    test.others.push(standby.start(&[]).await?);
    let cluster = &test.cluster;
    let uri = cluster.application_uri();
    let pgbench = cluster.tools.postgres("pgbench");
    clients::run(&pgbench, &["-i", "-s", "2", "--quiet", &uri], &[]).await?;
    clients::run(&pgbench, &["-c", "4", "-T", "5", &uri], &[]).await?;
    let end: Lsn = cluster.postgres().ask("postgres", "SELECT pg_current_wal_flush_lsn()").await?.parse()?;
    let committed = wait_committed(cluster, end).await?;

    wait_replayed(&standby, committed).await?;
    let (of_primary, of_standby) = (checksums(&cluster.postgres()).await?, checksums(&standby).await?);
    ensure!(of_primary.len() >= 4, "only these tables: {of_primary:?}");
    ensure!(of_primary == of_standby, "primary {of_primary:?}, standby {of_standby:?}");

    let directory = cluster.directory.join("received");
    fs::create_dir(&directory)?;
    cluster.receive_wal(cluster.safekeeper(3)?.pg_port, &directory, committed).await?;
    ensure!(received(&directory)? >= committed, "pg_receivewal ended before {committed}");
    test.passed();
    Ok(())
}

#[tokio::test]
async fn standby_goes_on_when_its_safekeeper_returns() -> Result<()> {
    use test_runner::cluster::PartName::Safekeeper;
    let options = ClusterOptions { base_backup: true, ..ClusterOptions::default() };
    let mut test = ClusterUnderTest::start_with("standby", options).await?;
    let standby = test.cluster.standby("standby", 1).await?;
    test.others.push(standby.start(&[]).await?);
    let cluster = &mut test.cluster;
    let client = clients::connect(&cluster.application_uri()).await?;
    client.batch_execute("CREATE TABLE t (x int); INSERT INTO t VALUES (1)").await?;
    cluster.kill_part(Safekeeper(1)).await?;
    client.batch_execute("INSERT INTO t VALUES (2)").await?;
    cluster.start_part(Safekeeper(1)).await?;
    until("the second row on the standby", COMMIT_TIMEOUT, async || {
        let count = standby.ask("app", "SELECT count(*) FROM t").await.unwrap_or_default();
        Ok((count == "2").then_some(()))
    })
    .await?;

    test.passed();
    Ok(())
}

/// Waits until the commit LSN of every safekeeper is at least `end`. Returns the lowest one.
async fn wait_committed(cluster: &Cluster, end: Lsn) -> Result<Lsn> {
    until(&format!("the commit of {end} everywhere"), COMMIT_TIMEOUT, async || {
        let status = cluster.status().await?;
        let positions =
            status.safekeepers.iter().map(|safekeeper| safekeeper.commit_lsn.as_deref()?.parse().ok());
        let lowest = positions.collect::<Option<Vec<Lsn>>>().and_then(|all| all.into_iter().min());
        Ok(lowest.filter(|lowest| *lowest >= end))
    })
    .await
}

/// Row count and sum of hashes of every table of the application.
async fn checksums(server: &Postgres) -> Result<Vec<(String, String)>> {
    let client = server.connect("app").await?;
    let tables = client
        .query("SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1", &[])
        .await?;
    let mut all = Vec::new();
    for table in tables {
        let name: String = table.get(0);
        let query =
            format!("SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {name} t");
        let sum: String = client.query_one(&query, &[]).await?.get(0);
        all.push((name, sum));
    }
    Ok(all)
}

/// End of the last file that `pg_receivewal` wrote.
fn received(directory: &std::path::Path) -> Result<Lsn> {
    let names: Result<Vec<_>> = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect();
    let last = names?.into_iter().max().context("pg_receivewal wrote nothing")?;
    let name = last.to_string_lossy();
    let part = |range| u64::from_str_radix(&name[range], 16);
    Ok(Lsn((part(8..16)? << 32) + (part(16..24)? + 1) * (16 << 20)))
}
