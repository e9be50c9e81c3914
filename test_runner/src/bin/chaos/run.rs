//! [`Run`]: the cluster, its load, and what a cycle does to both.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use test_runner::cluster::{Cluster, Options, PartName};
use test_runner::env::Tools;
use test_runner::process::ProcessId;
use test_runner::unsynced::{self, ForgettingDisk};
use test_runner::wire::{Record, Tap};
use test_runner::workload::Workload;
use test_runner::{oracle, ports, wait};
use wal_types::Lsn;

use super::inspect::{Found, inspect};
use super::plan::Plan;
use super::progress::Progress;
use super::rows::RowLog;

const CLIENTS: i32 = 6;
const PAYLOAD_BYTES: usize = 100;
/// How long commits may stand still after a crash.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the disk may take to sync the rows that were acknowledged.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the programs of a run that was killed may take to end.
const GONE_TIMEOUT: Duration = Duration::from_secs(30);
/// Numbers that an earlier run may have used and never heard of again.
const SEQUENCES_UNKNOWN_MAX: i64 = 1_000_000;
/// A slow disk, so that a kill finds something that is not synced.
const SYNC_DELAY: Duration = Duration::from_millis(4);
/// Small, so that segments begin and end, buffers are written out, and a crash recovery is short.
const INITDB: [&str; 1] = ["--wal-segsize=1"];
const SETTINGS: &str = "
shared_buffers = 2MB
min_wal_size = 2MB
max_wal_size = 16MB
checkpoint_timeout = 30s
autovacuum = off
";

/// A cluster under load.
pub(crate) struct Run {
    cluster: Cluster,
    taps: BTreeMap<u64, Tap>,
    /// Up to where the bytes of each safekeeper were compared.
    compared: BTreeMap<u64, Lsn>,
    workload: Workload,
    rows: RowLog,
    /// How many rows the last line said.
    rows_told: u64,
}

impl Run {
    /// Starts a new cluster, or goes on with the one that is there.
    pub(crate) async fn start(
        directory: &Path,
        tools: Tools,
        progress: &mut Progress,
        has_lying_disks: bool,
    ) -> Result<Self> {
        let options = Options {
            base_backup: true,
            dies_with_parent: true,
            forgetting_disks: Some(unsynced::library().await?),
            sync_delay: SYNC_DELAY,
            initdb_arguments: INITDB.map(Into::into).into(),
            settings: SETTINGS.into(),
            without_proxy: true,
            ..Options::default()
        };
        let mut cluster = Cluster::open(&directory.join("cluster"), tools, options)?;
        let is_new = progress.cycles == 0;
        let mut taps = BTreeMap::new();
        let is_forgotten = is_new || progress.is_of_another_boot()?;
        for safekeeper in cluster.safekeepers()? {
            let name = safekeeper.name();
            let record = if is_forgotten { Record::start } else { Record::resume }(directory, &name)?;
            let target = SocketAddr::from(([127, 0, 0, 1], safekeeper.pg_port));
            taps.insert(safekeeper.id, Tap::start(target, record).await?);
        }
        cluster.options.relayed = taps.iter().map(|(id, tap)| (*id, tap.address.port())).collect();
        let rows = directory.join("rows");
        if is_new {
            Self::start_new(&mut cluster, &rows).await?;
        }
        if has_lying_disks {
            for id in taps.keys() {
                fs::write(disk(&cluster, *id)?.lie, "")?;
            }
        }
        let (rows, told) = RowLog::open(rows)?;
        let used = rows.read()?.iter().map(|(_, sequence)| *sequence).max();
        let first = used.map_or(0, |used| used + SEQUENCES_UNKNOWN_MAX);
        let uri = cluster.application_uri();
        let workload = Workload::go_on_and_tell(&uri, CLIENTS, PAYLOAD_BYTES, first, Some(told))?;
        let mut this = Self { cluster, taps, compared: BTreeMap::new(), workload, rows, rows_told: 0 };
        if !is_new {
            this.go_on(is_forgotten).await?;
        }
        Ok(this)
    }

    async fn start_new(cluster: &mut Cluster, rows: &Path) -> Result<()> {
        // Of a run that did not come to its first cycle nothing is worth keeping.
        for part in cluster.running() {
            cluster.kill_part(part).await?;
        }
        if cluster.directory.exists() {
            fs::remove_dir_all(&cluster.directory)?;
        }
        if rows.exists() {
            fs::remove_file(rows)?;
        }
        let state = &mut cluster.state;
        state.origin = None;
        cluster.start(&|_| {}).await?;
        Workload::make_table(&cluster.application_uri()).await
    }

    /// After an interruption: what still runs is killed, and everybody is held to his word as after any crash.
    async fn go_on(&mut self, is_another_boot: bool) -> Result<()> {
        let parts = self.parts();
        if is_another_boot {
            // The machine forgot by itself what was not synced.
            for id in self.taps.keys() {
                let journal = self.cluster.directory.join(format!("sk{id}.journal"));
                if journal.exists() {
                    fs::remove_dir_all(journal)?;
                }
            }
        }
        if self.cluster.postgres().data_dir.with_extension("away").exists() {
            oracle::put_back(&self.cluster)?;
        }
        self.crash(&parts, false).await?;
        self.wait_gone().await?;
        self.revive(&parts).await.map(drop)
    }

    /// What an interrupted run had just started is in no list; it ends with that run, but not at once.
    async fn wait_gone(&self) -> Result<()> {
        let state = &self.cluster.state;
        let safekeepers = state.safekeepers.iter().flat_map(|part| [part.part.port, part.http_port]);
        let ports: Vec<u16> = safekeepers.chain([state.postgres.port, state.walproposer.port]).collect();
        let postgres = self.cluster.postgres();
        wait::until("the end of an earlier run's programs", GONE_TIMEOUT, async || {
            let is_gone = ports.iter().all(|port| ports::is_free(*port)) && !postgres.is_locked();
            Ok(is_gone.then_some(()))
        })
        .await?;
        // PostgreSQL takes a process that nobody has collected yet for one that runs.
        postgres.remove_lock()
    }

    /// All that run: there is no proxy.
    fn parts(&self) -> Vec<PartName> {
        self.cluster.parts().into_iter().filter(|part| *part != PartName::Proxy).collect()
    }

    /// Kills what the plan says, looks, and starts it again. Returns what there is to say.
    pub(crate) async fn cycle(&mut self, cycle: u64, progress: &mut Progress) -> Result<String> {
        let plan = Plan::of(progress.seed, cycle);
        self.wait_for_rows(plan.rows).await?;
        tokio::time::sleep(plan.delay).await;
        let mut forgotten = self.crash(&plan.parts, plan.forgets).await?;
        let mut again = "";
        if let (Some(delay), Some(id)) = (plan.again, safekeepers(&plan.parts).next()) {
            forgotten += self.kill_at_start(id, delay, plan.forgets).await?;
            again = " (twice)";
        }
        let found = self.revive(&plan.parts).await?;
        self.check_running()?;
        count(progress, &plan.parts, forgotten, &found);
        let names: Vec<String> = plan.parts.iter().map(PartName::to_string).collect();
        let forgot = if plan.forgets { format!(", {forgotten} changes forgotten") } else { String::new() };
        let rows = self.workload.count();
        let before = std::mem::replace(&mut self.rows_told, rows);
        Ok(format!(
            "killed {}{again}{forgot}{}; {rows} rows (+{})",
            names.join(" "),
            describe(&found),
            rows - before
        ))
    }

    async fn wait_for_rows(&self, rows: u64) -> Result<()> {
        let waited = self.workload.wait_for_more(rows.max(1), PROGRESS_TIMEOUT).await;
        if waited.is_err() {
            let status = self.cluster.status().await?;
            bail!("commits stand still: {}", status.blocked.unwrap_or_else(|| "nobody knows why".into()));
        }
        Ok(())
    }

    /// kill -9 of all, as nearly at once as can be. Returns how many changes the safekeepers lost.
    async fn crash(&mut self, parts: &[PartName], forgets: bool) -> Result<u64> {
        for id in safekeepers(parts) {
            self.tap(id)?.set_open(false);
        }
        let mut children = Vec::new();
        for part in parts {
            if let Some(process) = self.cluster.part(*part)?.process {
                children.extend(process.children());
                process.signal(Signal::SIGKILL)?;
            }
        }
        // The processes of PostgreSQL end as the ones of a machine do: all of them.
        for child in &children {
            child.signal(Signal::SIGKILL)?;
        }
        for part in parts {
            self.cluster.kill_part(*part).await?;
        }
        for child in children {
            child.kill().await?;
        }
        let mut forgotten = 0;
        for id in safekeepers(parts) {
            self.tap(id)?.heard_out().await?;
            forgotten += self.lose(id, forgets)?;
        }
        Ok(forgotten)
    }

    fn lose(&self, id: u64, forgets: bool) -> Result<u64> {
        let disk = disk(&self.cluster, id)?;
        if forgets { Ok(disk.forget()? as u64) } else { disk.keep().map(|()| 0) }
    }

    /// Kills a safekeeper once more, while it reads its disk or just after.
    async fn kill_at_start(&self, id: u64, delay: Duration, forgets: bool) -> Result<u64> {
        let process: ProcessId = self.cluster.safekeeper(id)?.program()?.spawn()?;
        tokio::time::sleep(delay).await;
        process.kill().await?;
        if disk(&self.cluster, id)?.has_begun() { self.lose(id, forgets) } else { Ok(0) }
    }

    /// Looks at each safekeeper alone, then starts the rest.
    async fn revive(&mut self, parts: &[PartName]) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for id in safekeepers(parts) {
            self.cluster.start_part(PartName::Safekeeper(id)).await?;
            found.push(self.inspect(id, false).await?);
        }
        for id in safekeepers(parts) {
            self.tap(id)?.set_open(true);
        }
        for part in [PartName::Postgres, PartName::Walproposer] {
            if parts.contains(&part) {
                self.cluster.start_part(part).await?;
            }
        }
        Ok(found)
    }

    async fn inspect(&mut self, id: u64, is_whole: bool) -> Result<Found> {
        let compared = if is_whole { None } else { self.compared.get(&id).copied() };
        let found = inspect(&self.cluster, id, self.tap(id)?, compared.unwrap_or(Lsn(0))).await?;
        self.compared.insert(id, found.owed);
        Ok(found)
    }

    fn check_running(&self) -> Result<()> {
        for part in self.parts() {
            ensure!(
                self.cluster.is_running(part),
                "{part} ended by itself: {}",
                self.cluster.log(part).display()
            );
        }
        self.taps.values().try_for_each(Tap::check)
    }

    /// Kills everything, compares every safekeeper's whole log, asks the oracle, and starts everything again unless
    /// this was the last time.
    pub(crate) async fn oracle(
        &mut self,
        cycle: u64,
        is_last: bool,
        progress: &mut Progress,
    ) -> Result<String> {
        self.wait_for_rows(1).await?;
        let (parts, forgets) = (self.parts(), Plan::of(progress.seed, cycle).forgets);
        let mut forgotten = self.crash(&parts, forgets).await?;
        let mut found = Vec::new();
        for id in safekeepers(&parts) {
            self.cluster.start_part(PartName::Safekeeper(id)).await?;
            found.push(self.inspect(id, true).await?);
            self.cluster.kill_part(PartName::Safekeeper(id)).await?;
            forgotten += self.lose(id, forgets)?;
        }
        count(progress, &parts, forgotten, &found);
        let rows = self.synced_rows().await?;
        ensure!(rows.len() as u64 >= progress.rows, "fewer acknowledged rows than the last time");
        if let Some(loss) = oracle::loss(&self.cluster, &rows).await? {
            bail!("lost: {loss}");
        }
        oracle::put_back(&self.cluster)?;
        progress.oracles += 1;
        progress.rows = rows.len() as u64;
        if !is_last {
            self.revive(&parts).await?;
            self.check_running()?;
        }
        Ok(format!("each pair of safekeepers has all {} acknowledged rows{}", rows.len(), describe(&found)))
    }

    /// All that were acknowledged so far, when nothing runs any more.
    async fn synced_rows(&self) -> Result<test_runner::workload::Rows> {
        wait::until("acknowledged rows to be synced", SYNC_TIMEOUT, async || {
            Ok((self.rows.synced() >= self.workload.count()).then_some(()))
        })
        .await?;
        self.rows.read()
    }

    /// Makes durable what was heard on the wire.
    pub(crate) fn sync(&self) -> Result<()> {
        self.taps.values().try_for_each(|tap| tap.record().sync())
    }

    fn tap(&self, id: u64) -> Result<&Tap> {
        self.taps.get(&id).with_context(|| format!("there is no tap for sk{id}"))
    }
}

fn disk(cluster: &Cluster, id: u64) -> Result<ForgettingDisk> {
    cluster.forgetting_disk(id).context("an ordinary disk")
}

fn safekeepers(parts: &[PartName]) -> impl Iterator<Item = u64> {
    parts.iter().filter_map(|part| match part {
        PartName::Safekeeper(id) => Some(*id),
        _ => None,
    })
}

fn count(progress: &mut Progress, parts: &[PartName], forgotten: u64, found: &[Found]) {
    progress.safekeeper_kills += safekeepers(parts).count() as u64;
    progress.walproposer_kills += u64::from(parts.contains(&PartName::Walproposer));
    progress.primary_kills += u64::from(parts.contains(&PartName::Postgres));
    progress.forgotten += forgotten;
    progress.compared_bytes += found.iter().map(|found| found.compared_bytes).sum::<u64>();
}

fn describe(found: &[Found]) -> String {
    let one = |found: &Found| {
        format!(
            "; sk{} owes {} shows {} ({} KB compared)",
            found.id,
            found.owed,
            found.flush,
            found.compared_bytes / 1000
        )
    };
    found.iter().map(one).collect()
}
