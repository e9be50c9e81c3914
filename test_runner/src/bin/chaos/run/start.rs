//! Start of a run: a new cluster with its load, or the cluster of an interrupted run.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use test_runner::cluster::{Cluster, ClusterOptions};
use test_runner::env::Tools;
use test_runner::wire::{Tap, WireRecord};
use test_runner::workload::Workload;
use test_runner::{oracle, ports, unsynced, wait};

use super::{Run, disk};
use crate::progress::RunProgress;
use crate::rows::RowLog;

/// Clients of the load.
const CLIENTS: i32 = 6;
/// Payload of each row.
const PAYLOAD_BYTES: usize = 100;
/// Time limit for the end of the programs of a killed run.
const GONE_TIMEOUT: Duration = Duration::from_secs(30);
/// Sequence numbers above the last recorded row that an earlier run may have used without an answer.
const SEQUENCES_UNKNOWN_MAX: i64 = 1_000_000;
/// Delay of each sync, so that a kill finds unsynced data.
const SYNC_DELAY: Duration = Duration::from_millis(4);
/// Small segments, so that many begin and end in a run.
const INITDB: [&str; 1] = ["--wal-segsize=1"];
/// Small buffers and frequent checkpoints, so that buffers are written out and a crash recovery is short.
const SETTINGS: &str = "
shared_buffers = 2MB
min_wal_size = 2MB
max_wal_size = 16MB
checkpoint_timeout = 30s
autovacuum = off
";

impl Run {
    /// Starts a new cluster, or resumes the cluster of an interrupted run.
    pub(crate) async fn start(
        directory: &Path,
        tools: Tools,
        progress: &mut RunProgress,
        has_lying_disks: bool,
    ) -> Result<Self> {
        let options = ClusterOptions {
            base_backup: true,
            dies_with_parent: true,
            forgetting_disks: Some(unsynced::library().await?),
            sync_delay: SYNC_DELAY,
            initdb_arguments: INITDB.map(Into::into).into(),
            settings: SETTINGS.into(),
            without_proxy: true,
            ..ClusterOptions::default()
        };

        let mut cluster = Cluster::open(&directory.join("cluster"), tools, options)?;
        let is_new = progress.cycles == 0;
        let mut taps = BTreeMap::new();
        let is_forgotten = is_new || progress.is_of_another_boot()?;
        for safekeeper in cluster.safekeepers()? {
            let name = safekeeper.name();
            let record = if is_forgotten { WireRecord::start } else { WireRecord::resume }(directory, &name)?;
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

        let (rows, reports) = RowLog::open(rows)?;
        let used = rows.read()?.iter().map(|(_, sequence)| *sequence).max();
        let first = used.map_or(0, |used| used + SEQUENCES_UNKNOWN_MAX);
        let uri = cluster.application_uri();
        let workload = Workload::resume_and_report(&uri, CLIENTS, PAYLOAD_BYTES, first, Some(reports))?;
        let mut this = Self { cluster, taps, compared: BTreeMap::new(), workload, rows, rows_reported: 0 };
        if !is_new {
            this.resume(is_forgotten).await?;
        }
        Ok(this)
    }

    async fn start_new(cluster: &mut Cluster, rows: &Path) -> Result<()> {
        // A run without a finished cycle has left nothing worth keeping.
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

    /// Resumes after an interruption: kills the parts that still run, and inspects every safekeeper as after any crash.
    async fn resume(&mut self, is_another_boot: bool) -> Result<()> {
        let parts = self.parts();
        if is_another_boot {
            // The restart of the machine has lost unsynced data already.
            for id in self.taps.keys() {
                let journal = self.cluster.directory.join(format!("sk{id}.journal"));
                if journal.exists() {
                    fs::remove_dir_all(journal)?;
                }
            }
        }

        if self.cluster.postgres().data_dir.with_extension("away").exists() {
            oracle::clean_up(&self.cluster)?;
        }

        self.crash(&parts, false).await?;
        self.wait_gone().await?;
        self.restart_and_inspect(&parts).await.map(drop)
    }

    /// Waits for programs that an interrupted run had just started: they are not in its state, and end with it, but not
    /// at once.
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
        // PostgreSQL takes a dead process that was not reaped yet for a running one.
        postgres.remove_lock()
    }
}
