//! Loss of acknowledged WAL: a safekeeper with a damaged disk reports it, does not vote, and is repaired by the leader.

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

/// Time limit for every wait of a test.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// Acknowledged rows between two steps.
pub(crate) const ROWS: u64 = 300;
/// Attempts to kill a safekeeper far above its durable commit LSN.
const ATTEMPTS_MAX: usize = 20;
/// More than a batch of the load: bytes so far below the end were acknowledged.
const DEPTH_BYTES: u64 = 8_000;

/// Status of the log on a safekeeper.
pub(crate) async fn status(cluster: &Cluster, id: u64) -> Result<TimelineStatus> {
    cluster.safekeeper(id)?.timeline(&cluster.state.tenant_id, &cluster.state.timeline_id).await
}

/// Waits until a safekeeper reports this health. Returns its status.
pub(crate) async fn becomes(cluster: &Cluster, id: u64, health: &str) -> Result<TimelineStatus> {
    until(&format!("sk{id} to be {health}"), TIMEOUT, async || {
        let status = status(cluster, id).await?;
        Ok((status.health == health).then_some(status))
    })
    .await
}

/// Inverts some bytes of WAL in their segment file. Returns the file.
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

/// The file of a segment, found by its name (PostgreSQL documentation, "WAL Internals").
fn segment(directory: &Path, number: u64, segment_bytes: u64) -> Result<PathBuf> {
    let per_id = (1 << 32) / segment_bytes;
    let name = format!("{:08X}{:08X}", number / per_id, number % per_id);
    let files = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_it = |file: &PathBuf| file.file_name().is_some_and(|file| file.to_string_lossy().ends_with(&name));
    files.into_iter().find(is_it).with_context(|| format!("no segment {name} in {}", directory.display()))
}

/// Kills safekeeper 1 when its acknowledged position is well above its durable commit LSN, which it writes only now and
/// then. A start reads all WAL above the latter. Returns both; no connection reaches the safekeeper any more.
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
    bail!("the commit LSN was always durable at once")
}

/// The safekeeper does not vote until it is repaired.
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

    // One healthy safekeeper is no quorum: the damaged one must not vote.
    cluster.kill_part(PartName::Walproposer).await?;
    cluster.kill_part(PartName::Safekeeper(2)).await?;
    relay.set(Fault::None);
    cluster.start_part(PartName::Walproposer).await?;
    let walproposer = cluster.walproposer();
    until("the walproposer to hear from two safekeepers", TIMEOUT, async || {
        let Ok(status) = walproposer.status().await else { return Ok(None) };
        ensure!(
            status.state != "streaming",
            "elected with the vote of a safekeeper that lost acknowledged WAL"
        );
        let heard = status.safekeepers.iter().filter(|safekeeper| safekeeper.state != "offline").count();
        Ok((heard >= 2).then_some(()))
    })
    .await?;
    ensure!(status(cluster, 1).await?.health == "lost", "repaired without a quorum");

    cluster.start_part(PartName::Safekeeper(2)).await?;
    let repaired = becomes(cluster, 1, "healthy").await?;
    ensure!(repaired.flush_lsn.parse::<Lsn>()? >= end, "{repaired:?}");
    // From here on each commit needs the repaired safekeeper.
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
