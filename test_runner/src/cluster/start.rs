//! Start of a cluster: creates it the first time, and starts its parts in order.
//!
//! The first time, the primary runs alone and without a synchronous standby: its roles, its database and the
//! replication slot of the walproposer have to exist before a commit can wait for the walproposer.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::state::Origin;
use super::{Cluster, PartName, ReportStep};
use crate::postgres::Postgres;
use crate::safekeeper::{NewTimeline, create_on_all};
use crate::wait;

/// Time limit for the walproposer to lead a quorum.
const STREAMING_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for the first commit after that.
const FIRST_COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for the stop of a server without a standby.
const PRIVATE_STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for the removal of a data directory.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The only synchronous standby is `wp`: a standby with another name must not release a COMMIT.
const SYNCHRONOUS: [(&str, &str); 1] = [("synchronous_standby_names", "FIRST 1 (wp)")];

impl Cluster {
    /// Starts all parts and waits until a commit went the whole way. On an error the started parts are ended again.
    pub async fn start(&mut self, report: ReportStep<'_>) -> Result<()> {
        let result = self.start_all(report).await;
        if result.is_err() {
            self.give_up_start().await?;
        }
        result
    }

    /// Ends the parts that a failed start has started. If it was the first start, removes the data directories too.
    pub async fn give_up_start(&mut self) -> Result<()> {
        self.end_at_once().await?;
        if self.state.origin.is_some() { Ok(()) } else { self.remove_unfinished().await }
    }

    async fn start_all(&mut self, report: ReportStep<'_>) -> Result<()> {
        if self.state.origin.is_none() {
            self.initialise(report).await?;
        }

        self.check_data_directory().await?;
        for id in self.safekeeper_ids() {
            report(&format!("starting sk{id}"));
            self.start_part(PartName::Safekeeper(id)).await?;
            self.check_timeline(id).await?;
        }

        report("starting postgres");
        self.start_part(PartName::Postgres).await?;
        report("starting walproposer, electing it");
        self.start_part(PartName::Walproposer).await?;
        self.wait_streaming().await?;
        report("waiting for a commit to go the whole way");
        self.commit_once().await?;
        if self.options.without_proxy {
            return Ok(());
        }

        report("starting proxy");
        self.start_part(PartName::Proxy).await
    }

    /// Refuses the data directory of another cluster. The walproposer would refuse it too, but only after PostgreSQL
    /// runs.
    async fn check_data_directory(&self) -> Result<()> {
        let postgres = self.postgres();
        postgres.check_version().await?;
        let (found, expected) =
            (postgres.system_id().await?, self.state.origin.as_ref().map(|origin| &origin.system_id));
        if Some(&found) == expected {
            return Ok(());
        }
        anyhow::bail!(
            "{} belongs to another cluster (system identifier {found}, this one is {}): put the right one back",
            postgres.data_dir.display(),
            expected.map_or("unknown", String::as_str)
        )
    }

    /// Refuses a safekeeper that runs but lacks the timeline or cannot serve it.
    async fn check_timeline(&self, id: u64) -> Result<()> {
        let safekeeper = self.safekeeper(id)?;
        let timeline = safekeeper.timeline(&self.state.tenant_id, &self.state.timeline_id).await;
        let problem = match timeline {
            // The walproposer repairs a safekeeper that lost WAL, from the others.
            Ok(timeline) if ["healthy", "full", "lost"].contains(&timeline.health.as_str()) => return Ok(()),
            Ok(timeline) => timeline.health,
            Err(error) => error.to_string(),
        };
        anyhow::bail!(
            "{}: its copy of the log is not usable ({problem}; log: {}): restore {}, or start the other parts one by \
             one with ./dev start NAME, two safekeepers are enough",
            safekeeper.name(),
            safekeeper.log.display(),
            safekeeper.data_dir.display()
        )
    }

    fn safekeeper_ids(&self) -> Vec<u64> {
        self.state.safekeepers.iter().map(|safekeeper| safekeeper.id).collect()
    }

    /// Starts one part and saves its process id at once.
    pub async fn start_part(&mut self, name: PartName) -> Result<()> {
        let process = match name {
            PartName::Postgres => self.postgres().start(&SYNCHRONOUS).await?,
            PartName::Walproposer => self.walproposer().start().await?,
            PartName::Proxy => self.proxy().start().await?,
            PartName::Safekeeper(id) => self.safekeeper(id)?.start().await?,
        };
        self.part_mut(name)?.process = Some(process);
        self.save()
    }

    /// Waits until commits go through; to be called after a start of the primary alone. When another part is down,
    /// commits cannot go through and the primary serves reads only: then returns at once and names that part.
    pub async fn wait_usable(&self) -> Result<Option<String>> {
        let missing = self.down_parts();
        if missing.is_none() {
            self.wait_streaming().await?;
        }
        Ok(missing)
    }

    /// Waits until the walproposer streams and reports that nothing blocks commits.
    pub async fn wait_streaming(&self) -> Result<()> {
        let walproposer = self.walproposer();
        let mut last = String::from("the walproposer does not answer");
        let waited = wait::until("the walproposer to stream", STREAMING_TIMEOUT, async || {
            if !self.is_running(PartName::Walproposer) {
                anyhow::bail!("the walproposer ended; its log is {}", walproposer.log.display());
            }
            match walproposer.status().await {
                Ok(status) if status.state == "streaming" && status.blocked.is_none() => return Ok(Some(())),
                Ok(status) => last = status.blocked.unwrap_or(status.state),
                Err(error) => last = error.to_string(),
            }
            Ok(None)
        })
        .await;
        waited.with_context(|| format!("commits are not acknowledged by a quorum: {last}"))
    }

    /// Commits one transaction that writes WAL and changes nothing.
    pub async fn commit_once(&self) -> Result<()> {
        let postgres = self.postgres();
        let commit = postgres.ask("postgres", "SELECT pg_logical_emit_message(true, 'holdfast', 'started')");
        let committed = tokio::time::timeout(FIRST_COMMIT_TIMEOUT, commit).await;
        committed.context("a commit did not return: no quorum acknowledged it")??;
        Ok(())
    }

    async fn initialise(&mut self, report: ReportStep<'_>) -> Result<()> {
        self.remove_unfinished().await?;
        fs::create_dir_all(&self.directory)?;
        // An interrupted start leaves processes; the saved state names them.
        self.save()?;
        report("making a PostgreSQL cluster (initdb)");
        self.make_data_directory().await?;
        report("creating roles, database and slot");
        let postgres = self.postgres();
        if self.options.promoted {
            postgres.start_as_standby()?;
        }
        let process = postgres.start(&[]).await?;
        self.state.postgres.process = Some(process);
        self.save()?;
        if self.options.promoted {
            postgres.ask("postgres", "SELECT pg_promote()").await?;
        }
        let new = self.prepare_primary(&postgres).await?;
        process.end(Signal::SIGINT, PRIVATE_STOP_TIMEOUT).await?;
        self.state.postgres.process = None;
        for id in self.safekeeper_ids() {
            report(&format!("creating the timeline on sk{id}"));
            self.start_part(PartName::Safekeeper(id)).await?;
        }
        let safekeepers: Vec<_> =
            self.safekeeper_ids().into_iter().map(|id| self.safekeeper(id)).collect::<Result<_>>()?;
        create_on_all(&safekeepers, &new).await?;
        for id in self.safekeeper_ids() {
            self.end_part_gently(PartName::Safekeeper(id)).await?;
        }

        self.state.origin = Some(Origin {
            start_lsn: new.start_lsn,
            wal_segment_size: u64::from(new.wal_segment_size),
            system_id: new.system_id,
            start_tli: new.start_tli,
        });

        self.save()
    }

    /// Removes the data directories of an unfinished first start. No commit was ever acknowledged from them.
    async fn remove_unfinished(&self) -> Result<()> {
        let mut left = vec![self.postgres().data_dir];
        for safekeeper in self.safekeepers()? {
            left.push(safekeeper.data_dir);
        }
        for directory in left {
            // Processes of a killed PostgreSQL may still write for a moment.
            let what = format!("the removal of {}", directory.display());
            wait::until(&what, REMOVE_TIMEOUT, async || {
                let gone = !directory.exists() || fs::remove_dir_all(&directory).is_ok();
                Ok(gone.then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    async fn make_data_directory(&mut self) -> Result<()> {
        match self.options.template.clone() {
            None => self.postgres().initdb(&self.options.initdb_arguments).await?,
            Some((template, password)) => {
                self.state.passwords.superuser = password;
                self.postgres().copy_from(&template).await?;
            }
        }
        self.postgres().append("postgresql.conf", &self.options.settings)
    }

    async fn prepare_primary(&self, postgres: &Postgres) -> Result<NewTimeline> {
        let passwords = &self.state.passwords;
        let client = postgres.connect("postgres").await?;
        for statement in [
            format!("CREATE ROLE wp REPLICATION LOGIN PASSWORD '{}'", passwords.walproposer),
            format!("CREATE ROLE app LOGIN PASSWORD '{}'", passwords.application_verifier),
            "CREATE DATABASE app OWNER app".to_owned(),
            "SELECT pg_create_physical_replication_slot('wp', true)".to_owned(),
        ] {
            client
                .batch_execute(&statement)
                .await
                .context("the new PostgreSQL refused its first statements")?;
        }

        if self.options.base_backup {
            postgres.base_backup(&self.directory.join("base_backup")).await?;
        }

        self.describe_timeline(postgres).await
    }

    async fn describe_timeline(&self, postgres: &Postgres) -> Result<NewTimeline> {
        let ask = |query: &'static str| postgres.ask("postgres", query);
        let wal_segment_size: u32 =
            ask("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'").await?.parse()?;
        let restart: wal_types::Lsn =
            ask("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'wp'").await?.parse()?;
        let start_tli = ask("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)").await?;
        let start_tli = u32::from_str_radix(&start_tli, 16)?;
        let start_history = match start_tli {
            1 => None,
            tli => {
                let file = format!("SELECT pg_read_file('pg_wal/{tli:08X}.history')");
                Some(postgres.ask("postgres", &file).await?)
            }
        };
        Ok(NewTimeline {
            start_tli,
            start_history,
            tenant_id: self.state.tenant_id.clone(),
            timeline_id: self.state.timeline_id.clone(),
            start_lsn: restart.align_down(u64::from(wal_segment_size)).to_string(),
            system_id: ask("SELECT system_identifier FROM pg_control_system()").await?,
            pg_version: ask("SHOW server_version_num").await?.parse()?,
            wal_segment_size,
        })
    }
}
