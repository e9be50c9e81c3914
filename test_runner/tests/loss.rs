//! A safekeeper whose disk damaged what it had acknowledged: it says so, does not vote, and is repaired by whoever
//! leads the others.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use test_runner::cluster::{Cluster, ClusterOptions, PartName};
use test_runner::cluster_under_test::ClusterUnderTest;
use test_runner::faulty_network::{Fault, Relay};
use test_runner::oracle;
use test_runner::safekeeper::TimelineStatus;
use test_runner::wait::until;
use test_runner::workload::Workload;
use wal_types::Lsn;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
pub(crate) const ROWS: u64 = 300;
const ATTEMPTS_MAX: usize = 20;
/// More than a batch of the load: what is damaged so far below the end was acknowledged.
const DEPTH_BYTES: u64 = 8_000;

pub(crate) async fn status(cluster: &Cluster, id: u64) -> Result<TimelineStatus> {
    cluster.safekeeper(id)?.timeline(&cluster.state.tenant_id, &cluster.state.timeline_id).await
}

pub(crate) async fn becomes(cluster: &Cluster, id: u64, health: &str) -> Result<TimelineStatus> {
    until(&format!("sk{id} to be {health}"), TIMEOUT, async || {
        let status = status(cluster, id).await?;
        Ok((status.health == health).then_some(status))
    })
    .await
}

/// Turns the bits of some bytes of WAL, in the file that holds them.
pub(crate) fn damage(cluster: &Cluster, id: u64, at: Lsn) -> Result<PathBuf> {
    let (tenant, timeline) = (&cluster.state.tenant_id, &cluster.state.timeline_id);
    let directory = cluster.safekeeper(id)?.data_dir.join(tenant).join(timeline);
    let segment_bytes = cluster.state.origin.as_ref().context("never started")?.wal_segment_size;
    let file = segment(&directory, at.0 / segment_bytes, segment_bytes)?;
    let open = OpenOptions::new().read(true).write(true).open(&file)?;
    let mut bytes = [0; 64];
    open.read_exact_at(&mut bytes, at.0 % segment_bytes)?;
    open.write_all_at(&bytes.map(|byte| !byte), at.0 % segment_bytes)?;
    Ok(file)
}

/// By its name (PostgreSQL documentation, "WAL Internals").
fn segment(directory: &Path, number: u64, segment_bytes: u64) -> Result<PathBuf> {
    let per_id = (1 << 32) / segment_bytes;
    let name = format!("{:08X}{:08X}", number / per_id, number % per_id);
    let files = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_it = |file: &PathBuf| file.file_name().is_some_and(|file| file.to_string_lossy().ends_with(&name));
    files.into_iter().find(is_it).with_context(|| format!("no segment {name} in {}", directory.display()))
}

/// Kills safekeeper 1 when what it acknowledged is well above the commit position that it had written down, which it
/// does now and then only. From there on a start reads everything. Returns both; nobody reaches it any more.
pub(crate) async fn kill_far_behind_its_commit(
    cluster: &mut Cluster,
    relay: &Relay,
    workload: &Workload,
) -> Result<(Lsn, Lsn)> {
    for _ in 0..ATTEMPTS_MAX {
        relay.set(Fault::None);
        workload.wait_for_more(ROWS, TIMEOUT).await?;
        cluster.kill_part(PartName::Safekeeper(1)).await?;
        relay.set(Fault::Cut);
        cluster.start_part(PartName::Safekeeper(1)).await?;
        let status = becomes(cluster, 1, "healthy").await?;
        let (commit, end): (Lsn, Lsn) = (status.commit_lsn.parse()?, status.flush_lsn.parse()?);
        if end.bytes_since(commit) >= DEPTH_BYTES {
            cluster.kill_part(PartName::Safekeeper(1)).await?;
            return Ok((commit, end));
        }
    }
    bail!("the commit position is always written down at once")
}

/// It does not vote until then.
#[tokio::test]
async fn damaged_safekeeper_reports_and_is_repaired() -> Result<()> {
    let options = ClusterOptions { base_backup: true, ..ClusterOptions::default() };
    let mut test = ClusterUnderTest::prepare("loss", options).await?;
    let cluster = &mut test.cluster;
    let target = SocketAddr::from(([127, 0, 0, 1], cluster.safekeeper(1)?.pg_port));
    let relay = Relay::start(target).await?;
    cluster.options.relayed = vec![(1, relay.address.port())];
    cluster.start(&|_| {}).await?;
    let workload = Workload::start(&cluster.application_uri(), 4, 500).await?;
    let (commit, end) = kill_far_behind_its_commit(cluster, &relay, &workload).await?;
    damage(cluster, 1, commit.advance(10))?;

    cluster.start_part(PartName::Safekeeper(1)).await?;
    let lost = becomes(cluster, 1, "lost").await?;
    ensure!(lost.flush_lsn.parse::<Lsn>()? < end, "damaged bytes are shown: {lost:?}");

    // The others alone are no quorum when one of them is gone: it must not vote.
    cluster.kill_part(PartName::Walproposer).await?;
    cluster.kill_part(PartName::Safekeeper(2)).await?;
    relay.set(Fault::None);
    cluster.start_part(PartName::Walproposer).await?;
    let walproposer = cluster.walproposer();
    until("the walproposer to hear from two safekeepers", TIMEOUT, async || {
        let Ok(status) = walproposer.status().await else { return Ok(None) };
        ensure!(status.state != "streaming", "elected with the vote of one that lost what it acknowledged");
        let heard = status.safekeepers.iter().filter(|safekeeper| safekeeper.state != "offline").count();
        Ok((heard >= 2).then_some(()))
    })
    .await?;
    ensure!(status(cluster, 1).await?.health == "lost", "repaired without a quorum");

    cluster.start_part(PartName::Safekeeper(2)).await?;
    let repaired = becomes(cluster, 1, "healthy").await?;
    ensure!(repaired.flush_lsn.parse::<Lsn>()? >= end, "{repaired:?}");
    // Now each commit needs it.
    cluster.stop_part(PartName::Safekeeper(3), &|_| {}).await?;
    workload.wait_for_more(ROWS, TIMEOUT).await?;
    for part in cluster.parts() {
        cluster.kill_part(part).await?;
    }
    let acknowledged = workload.stop().await?;
    let loss = oracle::find_loss(cluster, &acknowledged).await?;
    ensure!(loss.is_none(), "lost: {}", loss.unwrap_or_default());
    test.passed();
    Ok(())
}
