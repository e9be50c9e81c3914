//! Primaries: the PostgreSQL of each variant, all copied from one data directory, so that all begin alike.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use test_runner::env::Tools;
use test_runner::ports;
use test_runner::postgres::Postgres;
use test_runner::process::ProcessId;

use super::pgbench;
use crate::run::Run;

/// Time limit for the stop of the template.
const STOP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// Scale of pgbench's tables: 100,000 accounts each.
const SCALE: &str = "4";
/// Settings of all servers. No checkpoint and no vacuum falls into the rounds of one variant only.
pub(crate) const SETTINGS: &str = "
shared_buffers = 128MB
checkpoint_timeout = 1h
max_wal_size = 20GB
autovacuum = off
wal_sender_timeout = 60s
log_checkpoints = on
";
/// The table that one-row INSERTs go to, with an index, and the superuser's password of every server.
const TABLE: &str = "CREATE TABLE log (id bigserial PRIMARY KEY, text text)";
/// The statement of a one-row INSERT.
pub(crate) const INSERT: &str = "INSERT INTO log (text) VALUES ('a line of text that a program wrote');\n";

/// A data directory that every server is copied from.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// The stopped server.
    pub(crate) postgres: Postgres,
    /// A file with [`INSERT`], for pgbench.
    pub(crate) insert_script: PathBuf,
}

/// A running server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// The server.
    pub(crate) postgres: Postgres,
    /// Its postmaster.
    pub(crate) process: ProcessId,
}

impl Template {
    /// Makes the data directory, with pgbench's tables and the table of the INSERTs.
    pub(crate) async fn make(run: &Run) -> Result<Self> {
        let postgres = postgres(&run.tools, &run.directory, "template", "bench")?;
        postgres.initdb(&[]).await?;
        postgres.append("postgresql.conf", SETTINGS)?;
        let process = postgres.start(&[]).await?;
        let uri = postgres.superuser_uri("postgres");
        let arguments = ["--initialize", "--quiet", "--scale", SCALE, &uri];
        postgres.run_tool("pgbench", &arguments).await?;
        postgres.connect("postgres").await?.batch_execute(TABLE).await?;
        process.end(Signal::SIGINT, STOP_TIMEOUT).await?;

        let insert_script = run.directory.join("insert.sql");
        std::fs::write(&insert_script, INSERT).context("cannot write the script of the INSERTs")?;
        Ok(Self { postgres, insert_script })
    }

    /// Copies the template and starts the copy. `settings` go on its command line.
    pub(crate) async fn start_copy(&self, name: &str, settings: &[(&str, &str)]) -> Result<Server> {
        let copy = self.copy(name).await?;
        let process = copy.start(settings).await?;
        Ok(Server { postgres: copy, process })
    }

    /// Copies the template.
    pub(crate) async fn copy(&self, name: &str) -> Result<Postgres> {
        let directory = self.postgres.data_dir.parent().context("the template has no directory")?;
        let copy = postgres(&self.postgres.tools, directory, name, &self.postgres.superuser_password)?;
        copy.copy_from(&self.postgres.data_dir).await?;
        Ok(copy)
    }

    /// The script of one-row INSERTs.
    pub(crate) fn insert(&self) -> pgbench::Script {
        pgbench::Script::File(self.insert_script.clone())
    }
}

/// A server in `directory/NAME` on a free port, not yet made.
pub(crate) fn postgres(tools: &Tools, directory: &Path, name: &str, password: &str) -> Result<Postgres> {
    Ok(Postgres {
        tools: tools.clone(),
        name: name.into(),
        data_dir: directory.join(name),
        log: directory.join(format!("{name}.log")),
        port: ports::pick()?,
        superuser_password: password.into(),
        dies_with_parent: true,
    })
}
