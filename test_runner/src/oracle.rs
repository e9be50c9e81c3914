//! What the safekeepers' disks hold, and nothing else: the oracle of the crash tests.
//!
//! The primary keeps every row after a crash of the safekeepers, and the page cache keeps what was never synced, so
//! neither is asked. For each pair of safekeepers, on copies of their directories (an election repairs what the next
//! pair should show): an election without a primary, then a standby from the first base backup replays what the pair
//! holds, and the acknowledged rows are looked for there. The committed WAL of all pairs is compared byte by byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use nix::sys::signal::Signal;
use wal_types::Lsn;

use crate::cluster::Cluster;
use crate::postgres::Postgres;
use crate::process::ProcessId;
use crate::safekeeper::Safekeeper;
use crate::walproposer::Walproposer;
use crate::workload::Rows;
use crate::{clients, ports, wait};

/// How long a standby may take to replay everything.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a program of the oracle may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// The standby is for one look: what it syncs does not matter, and it has to replay fast.
const THROWN_AWAY: [(&str, &str); 2] = [("fsync", "off"), ("shared_buffers", "64MB")];
/// How many missing rows are named.
const NAMED_ROWS_MAX: usize = 5;

/// What one pair of safekeepers holds.
#[derive(Clone, Debug)]
pub struct PairFindings {
    /// Whose disks.
    pub pair: (u64, u64),
    /// Where the log ends after an election of these two.
    pub end: Lsn,
    /// The highest commit LSN that one of the two knew before the election.
    pub commit: Lsn,
    /// The rows that a standby finds.
    pub rows: Rows,
    /// A directory with the WAL as `pg_receivewal` wrote it.
    wal: PathBuf,
}

/// Examines a cluster of which nothing runs any more. `None` when every acknowledged row is found with each pair,
/// every pair's log reaches what any safekeeper knew as committed, and up to there all pairs have the same bytes;
/// else what was lost. An error means that the disks could not be examined.
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

/// Asks each pair.
pub async fn examine(cluster: &Cluster) -> Result<Vec<PairFindings>> {
    ensure!(cluster.running().is_empty(), "the oracle only looks at disks: something still runs");
    // Whatever the primary knows is out of reach from here on.
    let primary = cluster.postgres().data_dir;
    if primary.exists() {
        fs::rename(&primary, primary.with_extension("away"))?;
    }
    let ids: Vec<u64> = cluster.state.safekeepers.iter().map(|safekeeper| safekeeper.id).collect();
    let pairs = ids.iter().enumerate().flat_map(|(index, first)| {
        ids[index + 1..].iter().map(move |second| examine_pair(cluster, *first, *second))
    });
    // Not given up at the first error: each ends what it started.
    join_all(pairs).await.into_iter().collect()
}

async fn examine_pair(cluster: &Cluster, first: u64, second: u64) -> Result<PairFindings> {
    let found = async { Pair::copy(cluster, first, second).await?.examine().await };
    found.await.with_context(|| format!("the disks of safekeepers {first} and {second}"))
}

/// Undoes what [`examine`] did to the directory, so that the cluster can go on.
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

/// All WAL in a directory of `pg_receivewal`, up to a position.
fn read_wal(directory: &Path, upto: Lsn) -> Result<Vec<u8>> {
    let mut files: Vec<_> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let bytes = fs::read(&file)?;
        let start = segment_start(&file, bytes.len() as u64)?;
        let wanted = usize::try_from(upto.bytes_since(start))?.min(bytes.len());
        all.extend_from_slice(&bytes[..wanted]);
    }
    Ok(all)
}

/// Where a segment begins, by its name: timeline, then the number's high and low part (PostgreSQL documentation,
/// "WAL Internals").
fn segment_start(file: &Path, segment_bytes: u64) -> Result<Lsn> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let part = |range: std::ops::Range<usize>| {
        let digits = name.get(range).with_context(|| format!("{name} is not a segment"))?;
        Ok::<_, anyhow::Error>(u64::from_str_radix(digits, 16)?)
    };
    Ok(Lsn((part(8..16)? << 32) + part(16..24)? * segment_bytes))
}

/// Copies of two safekeepers and of the base backup, with addresses of their own.
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
        // A standby is stopped as one, the safekeepers end too: there is nothing to keep.
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
        processes.push(standby.start(&THROWN_AWAY).await?);
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

    /// A standby of the first of the two that began as the first base backup.
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

    /// Fetches the WAL with PostgreSQL's own tool.
    async fn receive_wal(&self, end: Lsn) -> Result<PathBuf> {
        let directory = self.directory.join("wal");
        fs::create_dir(&directory)?;
        self.cluster.receive_wal(self.safekeepers[0].pg_port, &directory, end).await?;
        Ok(directory)
    }
}

/// Waits until a standby has replayed up to a record's end.
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
