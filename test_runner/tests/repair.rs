//! Repair: the leading walproposer repairs a safekeeper that lost WAL, without a restart or a new term.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use test_runner::cluster::{ClusterOptions, PartName};
use test_runner::cluster_under_test::ClusterUnderTest;
use test_runner::faulty_network::{Fault, Relay};
use test_runner::oracle;
use test_runner::wait::until;
use test_runner::workload::Workload;
use wal_types::Lsn;

use crate::loss::{ROWS, TIMEOUT, becomes, damage, kill_far_behind_its_commit};

#[tokio::test]
async fn leader_repairs_a_damaged_safekeeper_and_reports() -> Result<()> {
    let options = ClusterOptions { base_backup: true, without_proxy: true, ..ClusterOptions::default() };
    let mut test = ClusterUnderTest::prepare("repair", options).await?;
    let cluster = &mut test.cluster;
    let target = SocketAddr::from(([127, 0, 0, 1], cluster.safekeeper(1)?.pg_port));
    let relay = Relay::start(target).await?;
    cluster.options.relayed = vec![(1, relay.address.port())];
    cluster.start(&|_| {}).await?;
    let workload = Workload::start(&cluster.application_uri(), 4, 500).await?;
    let (commit, end) = kill_far_behind_its_commit(cluster, &relay, &workload).await?;
    damage(cluster, 1, commit.advance(10))?;
    cluster.start_part(PartName::Safekeeper(1)).await?;
    becomes(cluster, 1, "lost").await?;
    let told = cluster.status().await?.remarks;
    ensure!(told.iter().any(|line| line.starts_with("sk1 lost WAL and will be repaired")), "{told:?}");
    // Commits go on, and the same leader repairs.
    workload.wait_for_more(ROWS, TIMEOUT).await?;
    let before = cluster.walproposer().status().await?;

    relay.set(Fault::None);
    let repaired = becomes(cluster, 1, "healthy").await?;
    ensure!(repaired.flush_lsn.parse::<Lsn>()? >= end, "{repaired:?}");
    let after = cluster.walproposer().status().await?;
    ensure!(before.term == after.term, "a new term: {before:?} {after:?}");
    ensure!(cluster.status().await?.remarks.is_empty(), "the status still has remarks");

    // From here on commits need the repaired safekeeper, and then an election does.
    cluster.kill_part(PartName::Safekeeper(2)).await?;
    workload.wait_for_more(ROWS, TIMEOUT).await?;
    cluster.kill_part(PartName::Walproposer).await?;
    cluster.start_part(PartName::Walproposer).await?;
    workload.wait_for_more(ROWS, TIMEOUT).await?;
    until("2 to be missed", TIMEOUT, async || {
        let status = cluster.walproposer().status().await?;
        Ok((status.state == "streaming" && status.term > before.term).then_some(()))
    })
    .await?;
    for part in cluster.parts() {
        cluster.kill_part(part).await?;
    }
    let acknowledged = workload.stop().await?;
    let loss = oracle::find_loss(cluster, &acknowledged).await?;
    ensure!(loss.is_none(), "lost: {}", loss.unwrap_or_default());
    test.passed();
    Ok(())
}
