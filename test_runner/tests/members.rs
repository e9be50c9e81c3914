//! Membership: a lost safekeeper is replaced under load, and a standby replaces the primary.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use test_runner::cluster::state::{Part, SafekeeperState};
use test_runner::cluster::{Cluster, ClusterOptions, PartName};
use test_runner::cluster_under_test::ClusterUnderTest;
use test_runner::holdfast::Holdfast;
use test_runner::http::{client, get_json};
use test_runner::oracle;
use test_runner::oracle::wait_replayed;
use test_runner::wait::until;
use test_runner::walproposer::Walproposer;
use test_runner::workload::Workload;
use test_runner::{clients, ports};
use wal_types::Lsn;

/// Time limit for every wait of a test.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Acknowledged rows between two steps.
const ROWS: u64 = 300;
/// Time for which a commit must not return.
const HELD_FOR: Duration = Duration::from_secs(2);

fn options() -> ClusterOptions {
    ClusterOptions { base_backup: true, without_proxy: true, ..ClusterOptions::default() }
}

/// Full status of the log on a safekeeper.
async fn log_of(cluster: &Cluster, id: u64) -> Result<Value> {
    let (tenant, timeline) = (&cluster.state.tenant_id, &cluster.state.timeline_id);
    get_json(&format!("{}/v1/timelines/{tenant}/{timeline}", cluster.safekeeper(id)?.http())).await
}

/// Creates a copy of the log on safekeeper `id` as an operator would, with parameters of a healthy safekeeper. Returns HTTP
/// status and body.
async fn create_log(cluster: &Cluster, id: u64) -> Result<(u16, String)> {
    let good = log_of(cluster, 1).await?;
    let other = log_of(cluster, 2).await?;
    let oldest = |log: &Value| log["oldest_lsn"].as_str().unwrap_or_default().parse::<Lsn>();
    let start = oldest(&good)?.max(oldest(&other)?);
    create_log_like(cluster, id, &good, &json!(start.to_string())).await
}

/// Creates a copy of the log on safekeeper `id` with the parameters of another copy.
async fn create_log_like(cluster: &Cluster, id: u64, good: &Value, start: &Value) -> Result<(u16, String)> {
    let body = json!({
        "tenant_id": cluster.state.tenant_id, "timeline_id": cluster.state.timeline_id,
        "start_lsn": start, "system_id": good["system_id"], "pg_version": good["pg_version"],
        "wal_segment_size": good["wal_segment_size"], "dialect": good["dialect"], "birth": good["birth"],
    });
    let url = format!("{}/v1/timelines", cluster.safekeeper(id)?.http());
    let answer = client()?.post(url).json(&body).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// Kills safekeeper 3 and wipes its disk, in two ways. Under its old number it gets another copy of the log at most, which
/// does not count. Its old data lies beside its directory afterwards.
async fn lose_the_third(cluster: &mut Cluster) -> Result<()> {
    let third = cluster.safekeeper(3)?;
    cluster.kill_part(PartName::Safekeeper(3)).await?;
    let kept = third.data_dir.with_extension("kept");
    clients::run("cp".as_ref(), &["-a", path(&third.data_dir)?, path(&kept)?], &[]).await?;

    fs::remove_dir_all(third.data_dir.join(&cluster.state.tenant_id).join(&cluster.state.timeline_id))?;
    cluster.start_part(PartName::Safekeeper(3)).await?;
    let (code, said) = create_log(cluster, 3).await?;
    ensure!(code == 409, "an empty disk got the log again: {code} {said}");

    cluster.kill_part(PartName::Safekeeper(3)).await?;
    fs::remove_dir_all(&third.data_dir)?;
    cluster.start_part(PartName::Safekeeper(3)).await?;
    let (code, said) = create_log(cluster, 3).await?;
    ensure!(code == 201, "{code} {said}");
    until("the new copy under the old number to be dismissed", TIMEOUT, async || {
        let status = cluster.walproposer().status().await?;
        let third = status.safekeepers.iter().find(|safekeeper| safekeeper.id == 3);
        let error = third.and_then(|third| third.last_error.clone()).unwrap_or_default();
        Ok(error.contains("log was created anew").then_some(()))
    })
    .await?;
    cluster.kill_part(PartName::Safekeeper(3)).await
}

fn path(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

/// Starts one commit in the background.
fn commit(cluster: &Cluster) -> tokio::task::JoinHandle<Result<()>> {
    let uri = cluster.application_uri();
    tokio::spawn(async move {
        let client = clients::connect(&uri).await?;
        Ok(client.batch_execute("INSERT INTO acknowledged VALUES (1000, 1)").await?)
    })
}

#[tokio::test]
async fn lost_disk_is_replaced_under_load() -> Result<()> {
    let mut test = ClusterUnderTest::start_with("members", options()).await?;
    let cluster = &mut test.cluster;
    let workload = Workload::start(&cluster.application_uri(), 4, 500).await?;
    workload.wait_for_more(ROWS, TIMEOUT).await?;
    let old = cluster.walproposer();
    lose_the_third(cluster).await?;

    let part = Part { port: ports::pick()?, process: None };
    cluster.state.safekeepers.push(SafekeeperState { id: 4, http_port: ports::pick()?, part });
    cluster.start_part(PartName::Safekeeper(4)).await?;
    let (code, said) = create_log(cluster, 4).await?;
    ensure!(code == 201, "{code} {said}");
    let [one, two, four] = [1, 2, 4].map(|id| cluster.safekeeper(id).map(|safekeeper| safekeeper.pg_port));
    let members = format!("1@127.0.0.1:{},2@127.0.0.1:{},4@127.0.0.1:{}", one?, two?, four?);
    let holdfast = Holdfast::of(cluster)?;
    let changed = holdfast.json(0, &["members", "set", &members]).await?["configuration"].take();
    ensure!(changed["generation"] == 2 && changed["decided"] == true, "{changed}");
    let shown = holdfast.json(0, &["members", "show"]).await?["walproposers"][0]["configuration"].take();
    ensure!(shown == changed, "holdfast members shows another configuration: {shown}");
    workload.wait_for_more(ROWS, TIMEOUT).await?;

    // Safekeeper 3 returns with its old disk, to a walproposer that was started with the old members.
    let third = cluster.safekeeper(3)?;
    fs::remove_dir_all(&third.data_dir)?;
    fs::rename(third.data_dir.with_extension("kept"), &third.data_dir)?;
    cluster.start_part(PartName::Safekeeper(3)).await?;
    cluster.kill_part(PartName::Walproposer).await?;
    cluster.state.walproposer.process = Some(old.start().await?);
    workload.wait_for_more(ROWS, TIMEOUT).await?;
    for id in [1, 4] {
        cluster.kill_part(PartName::Safekeeper(id)).await?;
    }
    until("the lack of a majority to be told", TIMEOUT, async || {
        let blocked = old.status().await?.blocked.unwrap_or_default();
        Ok(blocked.contains("2 of 3 safekeepers are unreachable (1, 4)").then_some(()))
    })
    .await?;
    let mut held = commit(cluster);
    let returned = tokio::time::timeout(HELD_FOR, &mut held).await;
    ensure!(returned.is_err(), "a commit returned with one member and one removed safekeeper");
    cluster.start_part(PartName::Safekeeper(4)).await?;
    tokio::time::timeout(TIMEOUT, held).await???;
    workload.wait_for_more(ROWS, TIMEOUT).await?;

    for part in cluster.parts() {
        cluster.kill_part(part).await?;
    }
    let acknowledged = workload.stop().await?;
    cluster.state.safekeepers.retain(|safekeeper| safekeeper.id != 3);
    let loss = oracle::find_loss(cluster, &acknowledged).await?;
    ensure!(loss.is_none(), "lost: {}", loss.unwrap_or_default());
    test.passed();
    Ok(())
}

/// Member 3 is behind, the disk of 2 is wiped and its log created anew, 1 is down. What 1 and 2 had committed is missing on
/// both that answer, so no recovery may settle the log. With 1 it does, and nothing is lost.
#[tokio::test]
async fn recovery_counts_no_copy_created_anew() -> Result<()> {
    let mut test = ClusterUnderTest::start_with("anew", options()).await?;
    let cluster = &mut test.cluster;
    let workload = Workload::start(&cluster.application_uri(), 4, 500).await?;
    workload.wait_for_more(ROWS, TIMEOUT).await?;
    cluster.kill_part(PartName::Safekeeper(3)).await?;
    workload.wait_for_more(ROWS, TIMEOUT).await?;
    for part in [PartName::Postgres, PartName::Walproposer] {
        cluster.kill_part(part).await?;
    }
    let acknowledged = workload.stop().await?;

    cluster.kill_part(PartName::Safekeeper(2)).await?;
    let kept = log_of(cluster, 1).await?;
    fs::remove_dir_all(cluster.safekeeper(2)?.data_dir)?;
    for id in [2, 3] {
        cluster.start_part(PartName::Safekeeper(id)).await?;
    }
    let (code, said) = create_log_like(cluster, 2, &kept, &kept["start_lsn"]).await?;
    ensure!(code == 201, "{code} {said}");
    cluster.kill_part(PartName::Safekeeper(1)).await?;
    let refused = cluster.walproposer().recover_within("6s").await;
    let said = refused.err().context("a recovery settled the log without what was committed")?;
    ensure!(format!("{said:#}").contains("log was created anew"), "{said:#}");

    cluster.start_part(PartName::Safekeeper(1)).await?;
    let end: Lsn = kept["flush_lsn"].as_str().context("no flush_lsn")?.parse()?;
    ensure!(cluster.walproposer().recover().await? >= end, "the log ends below what was committed");
    ensure!(!acknowledged.is_empty(), "nothing was acknowledged");
    test.passed();
    Ok(())
}

#[tokio::test]
async fn after_a_failover_the_old_primary_is_refused() -> Result<()> {
    let mut test = ClusterUnderTest::start_with("failover", options()).await?;
    let standby = test.cluster.standby("standby", 1).await?;
    let cluster = &mut test.cluster;
    let synchronous = [("synchronous_standby_names", "FIRST 1 (wp)")];
    test.others.push(standby.start(&synchronous).await?);
    Workload::make_table(&cluster.application_uri()).await?;
    let workload = Workload::resume(&cluster.application_uri(), 2, 100, 0)?;
    workload.wait_for_more(ROWS, TIMEOUT).await?;
    cluster.kill_part(PartName::Postgres).await?;
    let acknowledged = workload.stop().await?;

    let settled = cluster.walproposer().fail_over("pg-b").await?;
    ensure!(settled["primary"] == "pg-b", "{settled}");
    let end: Lsn = settled["end_lsn"].as_str().context("no end_lsn")?.parse()?;
    wait_replayed(&standby, end).await?;
    standby.ask("postgres", "SELECT pg_promote()").await?;
    standby.ask("postgres", "SELECT pg_create_physical_replication_slot('wp', true)").await?;
    let new = Walproposer {
        log: cluster.directory.join("walproposer-b.log"),
        http_port: ports::pick()?,
        primary: format!(
            "postgresql://wp:{}@127.0.0.1:{}/postgres",
            cluster.state.passwords.walproposer, standby.port
        ),
        primary_name: Some("pg-b".into()),
        ..cluster.walproposer()
    };
    test.others.push(new.start().await?);
    let writing = standby.ask("app", "INSERT INTO acknowledged VALUES (2000, 1) RETURNING client");
    tokio::time::timeout(TIMEOUT, writing).await??;
    let rows: usize = standby.ask("app", "SELECT count(*) FROM acknowledged").await?.parse()?;
    ensure!(rows > acknowledged.len(), "{} acknowledged, {rows} there", acknowledged.len());

    // The old primary starts again; its walproposer has run all the time.
    let postgres = cluster.postgres();
    until("the old PostgreSQL to start again", TIMEOUT, async || {
        // Processes of the dead server may hold its shared memory for a moment.
        Ok(cluster.start_part(PartName::Postgres).await.ok())
    })
    .await?;
    until("the old primary to be refused", TIMEOUT, async || {
        let blocked = cluster.walproposer().status().await?.blocked.unwrap_or_default();
        Ok(blocked.contains("was given to primary pg-b").then_some(()))
    })
    .await?;
    let held = tokio::time::timeout(HELD_FOR, commit(cluster)).await;
    ensure!(held.is_err(), "{} acknowledged a commit", postgres.name);
    standby.ask("app", "INSERT INTO acknowledged VALUES (2000, 2) RETURNING client").await?;
    ensure!(
        new.status().await?.configuration["primary"] == "pg-b",
        "the configuration designates another primary"
    );
    test.passed();
    Ok(())
}
