//! Oracle of the crash tests: searches the safekeepers' disks, and nothing else, for lost rows and lost WAL.
//!
//! The primary keeps every row after a crash of the safekeepers, and the page cache keeps unsynced data, so the oracle
//! uses neither. It examines each pair of safekeepers, on copies of their directories, because an election would repair
//! damage that the next pair should show. It runs an election without a primary, lets a standby from the first base
//! backup replay the log of the pair, and searches the acknowledged rows there. It compares the committed WAL of all
//! pairs byte by byte.

mod received_wal;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use nix::sys::signal::Signal;
use wal_types::Lsn;

use self::received_wal::read_wal;
use crate::cluster::Cluster;
use crate::postgres::Postgres;
use crate::process::ProcessId;
use crate::safekeeper::Safekeeper;
use crate::walproposer::Walproposer;
use crate::workload::Rows;
use crate::{clients, ports, wait};

/// Time limit for a standby to replay the log.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(120);
/// Time limit for the end of a program of the oracle.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// Settings of the standby: it is thrown away after one query and has to replay fast.
const THROWAWAY_SETTINGS: [(&str, &str); 2] = [("fsync", "off"), ("shared_buffers", "64MB")];
/// Number of missing rows that a message names.
const NAMED_ROWS_MAX: usize = 5;

/// Content of the disks of one pair of safekeepers.
#[derive(Clone, Debug)]
pub struct PairFindings {
    /// Ids of the two safekeepers.
    pub pair: (u64, u64),
    /// End of the log after an election of these two.
    pub end: Lsn,
    /// The higher commit LSN of the two before the election.
    pub commit: Lsn,
    /// The rows of a standby that has replayed the log.
    pub rows: Rows,
    /// Directory with the WAL, as `pg_receivewal` wrote it.
    wal: PathBuf,
}

/// Examines a stopped cluster. Returns `None` when each pair has every acknowledged row, the log of each pair reaches
/// the highest commit LSN of any safekeeper, and up to there all pairs have the same bytes. Otherwise returns one
/// sentence about the loss. An error means that the disks could not be examined.
pub async fn find_loss(cluster: &Cluster, acknowledged: &Rows) -> Result<Option<String>> {
    let findings = examine(cluster).await?;
    for found in &findings {
        let missing: Vec<_> = acknowledged.difference(&found.rows).collect();
        if !missing.is_empty() {
            return Ok(Some(format!(
                "safekeepers {:?} lost {} of {} acknowledged rows, such as {:?}",
                found.pair,
                missing.len(),
                acknowledged.len(),
                &missing[..missing.len().min(NAMED_ROWS_MAX)]
            )));
        }
    }
    lost_wal(&findings)
}

/// Examines each pair of a stopped cluster.
pub async fn examine(cluster: &Cluster) -> Result<Vec<PairFindings>> {
    ensure!(
        cluster.running().is_empty(),
        "the oracle examines disks of a stopped cluster, but parts of it still run"
    );
    // Moved away, so that no data of the primary can reach the standbys.
    let primary = cluster.postgres().data_dir;
    if primary.exists() {
        fs::rename(&primary, primary.with_extension("away"))?;
    }
    let ids: Vec<u64> = cluster.state.safekeepers.iter().map(|safekeeper| safekeeper.id).collect();
    let pairs = ids.iter().enumerate().flat_map(|(index, first)| {
        ids[index + 1..].iter().map(move |second| examine_pair(cluster, *first, *second))
    });
    // Not dropped at the first error: each pair ends the processes that it started.
    join_all(pairs).await.into_iter().collect()
}

async fn examine_pair(cluster: &Cluster, first: u64, second: u64) -> Result<PairFindings> {
    let found = async { Pair::copy(cluster, first, second).await?.examine().await };
    found.await.with_context(|| format!("the disks of safekeepers {first} and {second}"))
}

/// Undoes the changes of [`examine`] to the directory, so that the cluster can start again.
pub fn clean_up(cluster: &Cluster) -> Result<()> {
    let primary = cluster.postgres().data_dir;
    fs::rename(primary.with_extension("away"), &primary)?;
    for entry in fs::read_dir(&cluster.directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("oracle-") {
            let (path, is_directory) = (entry.path(), entry.file_type()?.is_dir());
            if is_directory { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
    }
    Ok(())
}

fn lost_wal(findings: &[PairFindings]) -> Result<Option<String>> {
    let commit = findings.iter().map(|found| found.commit).max().unwrap_or(Lsn::INVALID);
    let Some((reference, others)) = findings.split_first() else { return Ok(None) };
    if let Some(short) = findings.iter().find(|found| found.end < commit) {
        let (pair, end) = (short.pair, short.end);
        return Ok(Some(format!(
            "{commit} was committed, but the log of safekeepers {pair:?} ends at {end}"
        )));
    }

    let expected = read_wal(&reference.wal, commit)?;
    for found in others {
        let bytes = read_wal(&found.wal, commit)?;
        ensure!(
            bytes.len() == expected.len(),
            "pairs {:?} and {:?} differ in length",
            reference.pair,
            found.pair
        );
        if let Some(at) = expected.iter().zip(&bytes).position(|(one, other)| one != other) {
            let pairs = (reference.pair, found.pair);
            return Ok(Some(format!("pairs {pairs:?} differ {at} bytes into the log")));
        }
    }
    Ok(None)
}

/// Copies of two safekeepers and of the base backup, with their own ports.
struct Pair<'a> {
    cluster: &'a Cluster,
    directory: PathBuf,
    safekeepers: [Safekeeper; 2],
}

impl<'a> Pair<'a> {
    async fn copy(cluster: &'a Cluster, first: u64, second: u64) -> Result<Self> {
        let directory = cluster.directory.join(format!("oracle-{first}-{second}"));
        fs::create_dir(&directory)?;
        let one = Self::copy_safekeeper(cluster, first, &directory).await?;
        let other = Self::copy_safekeeper(cluster, second, &directory).await?;
        Ok(Self { cluster, directory, safekeepers: [one, other] })
    }

    async fn copy_safekeeper(cluster: &Cluster, id: u64, directory: &Path) -> Result<Safekeeper> {
        let mut safekeeper = cluster.safekeeper(id)?;
        let copy = directory.join(format!("sk{id}"));
        copy_directory(&safekeeper.data_dir, &copy).await?;
        safekeeper.data_dir = copy;
        safekeeper.log = cluster.directory.join(format!("oracle-{}-sk{id}.log", file_name(directory)));
        safekeeper.pg_port = ports::pick()?;
        safekeeper.http_port = ports::pick()?;
        safekeeper.environment.clear();
        Ok(safekeeper)
    }

    async fn examine(&self) -> Result<PairFindings> {
        let mut processes = Vec::new();
        let found = self.examine_with(&mut processes).await;
        // SIGTERM is enough for all of them: none has data to keep.
        for process in processes.iter().rev() {
            process.end(Signal::SIGTERM, END_TIMEOUT).await?;
        }
        found
    }

    async fn examine_with(&self, processes: &mut Vec<ProcessId>) -> Result<PairFindings> {
        let state = &self.cluster.state;
        let mut commit = Lsn::INVALID;
        for safekeeper in &self.safekeepers {
            processes.push(safekeeper.start().await?);
            let timeline = safekeeper.timeline(&state.tenant_id, &state.timeline_id).await?;
            ensure!(timeline.health == "healthy", "{} is {}", safekeeper.name(), timeline.health);
            commit = commit.max(timeline.commit_lsn.parse()?);
        }
        let end = self.walproposer().recover().await?;
        let standby = self.standby().await?;
        processes.push(standby.start(&THROWAWAY_SETTINGS).await?);
        let rows = self.rows_at(&standby, end).await?;
        let wal = self.receive_wal(end).await?;
        let pair = (self.safekeepers[0].id, self.safekeepers[1].id);
        Ok(PairFindings { pair, end, commit, rows, wal })
    }

    fn walproposer(&self) -> Walproposer {
        Walproposer {
            safekeepers: self
                .safekeepers
                .iter()
                .map(|safekeeper| (safekeeper.id, safekeeper.pg_port))
                .collect(),
            ..self.cluster.walproposer()
        }
    }

    /// A standby of the first of the two, made from the first base backup.
    async fn standby(&self) -> Result<Postgres> {
        let mut standby = self.cluster.postgres();
        standby.name = format!("standby of {}", file_name(&self.directory));
        standby.data_dir = self.directory.join("standby");
        standby.log = self.cluster.directory.join(format!("{}-standby.log", file_name(&self.directory)));
        standby.port = ports::pick()?;
        standby.copy_from(&self.cluster.directory.join("base_backup")).await?;
        standby.make_standby_of(&self.cluster.reader_conninfo(self.safekeepers[0].pg_port))?;
        Ok(standby)
    }

    async fn rows_at(&self, standby: &Postgres, end: Lsn) -> Result<Rows> {
        wait_replayed(standby, end).await?;
        let client = standby.connect("app").await?;
        let table: bool =
            client.query_one("SELECT to_regclass('acknowledged') IS NOT NULL", &[]).await?.get(0);
        if !table {
            return Ok(Rows::new());
        }
        let rows = client.query("SELECT client, sequence FROM acknowledged", &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Fetches the WAL with `pg_receivewal`.
    async fn receive_wal(&self, end: Lsn) -> Result<PathBuf> {
        let directory = self.directory.join("wal");
        fs::create_dir(&directory)?;
        self.cluster.receive_wal(self.safekeepers[0].pg_port, &directory, end).await?;
        Ok(directory)
    }
}

/// Waits until a standby has replayed up to `end`, the end of a record.
pub async fn wait_replayed(standby: &Postgres, end: Lsn) -> Result<()> {
    let what = format!("{} to replay up to {end}", standby.name);
    wait::until(&what, REPLAY_TIMEOUT, async || {
        let at = standby.ask("postgres", "SELECT coalesce(pg_last_wal_replay_lsn(), '0/0')").await?;
        Ok((at.parse::<Lsn>()? >= end).then_some(()))
    })
    .await
}

async fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    let text = |path: &Path| path.to_str().map(ToOwned::to_owned).context("a path is not UTF-8");
    clients::run(Path::new("cp"), &["-a", "--reflink=auto", &text(from)?, &text(to)?], &[]).await?;
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(pair: (u64, u64), wal: &[u8], end: Lsn, commit: Lsn) -> PairFindings {
        let directory = tempfile::tempdir().unwrap().keep();
        fs::write(directory.join("000000010000000000000001.partial"), wal).unwrap();
        PairFindings { pair, end, commit, rows: Rows::new(), wal: directory }
    }

    #[test]
    fn oracle_compares_all_committed_bytes_and_no_others() {
        let start = Lsn(16);
        let one = findings((1, 2), b"committedx......", start.advance(10), start.advance(9));
        let two = findings((1, 3), b"committedy......", start.advance(10), start.advance(5));
        let said = |findings: &[PairFindings]| lost_wal(findings).unwrap();
        assert_eq!(said(&[one.clone(), two.clone()]), None);
        let knows_more = PairFindings { commit: start.advance(10), ..two.clone() };
        assert!(said(&[one.clone(), knows_more]).unwrap().contains("differ 9 bytes"));
        let ends_early = PairFindings { end: start.advance(8), ..two };
        assert!(said(&[one, ends_early]).unwrap().contains("was committed"));
    }
}
