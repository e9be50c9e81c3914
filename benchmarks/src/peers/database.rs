//! [`Database`]: the one PostgreSQL that all variants of a proxy bench share. Clients log in to it with SCRAM; those that
//! connect directly may use TLS, with the certificate that the proxy has too.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result};
use test_runner::certs::{self, Certificates};
use test_runner::postgres::Postgres;
use test_runner::process::ProcessId;

use super::primary;
use crate::run::Run;

/// Role of the clients.
pub(crate) const ROLE: &str = "app";
/// Database of the clients.
pub(crate) const DATABASE: &str = "app";
/// Password of all roles.
pub(crate) const PASSWORD: &str = "benchmark";
/// Host name of the only endpoint, which the certificate covers.
pub(crate) const SERVER_NAME: &str = "main.db.test";
/// Scale of pgbench's tables: 400,000 accounts, which fit into shared buffers.
const SCALE: &str = "4";
/// Nothing is synced: no byte has to survive. Readers of a bulk copy must not meet a checkpoint.
const SETTINGS: &str = "
fsync = off
full_page_writes = off
shared_buffers = 256MB
checkpoint_timeout = 1h
max_wal_size = 20GB
autovacuum = off
ssl = on
";

/// A running PostgreSQL with the database and the role of the clients, and pgbench's tables.
#[derive(Debug)]
pub(crate) struct Database {
    /// The server.
    pub(crate) postgres: Postgres,
    /// Its postmaster.
    pub(crate) process: ProcessId,
    /// Certificate and key of the server and of all that stands before it.
    pub(crate) certificates: Certificates,
    /// What PostgreSQL stores of the role's password.
    pub(crate) verifier: String,
}

impl Database {
    /// Makes and starts it.
    pub(crate) async fn start(run: &Run) -> Result<Self> {
        let postgres = primary::postgres(&run.tools, &run.directory, "postgres", PASSWORD)?;
        postgres.initdb(&["--no-sync".into()]).await?;
        postgres.append("postgresql.conf", SETTINGS)?;
        let certificates = certs::create(&run.directory, &["*.db.test"])?;
        install(&postgres, &certificates)?;

        let process = postgres.start(&[]).await?;
        let superuser = postgres.connect("postgres").await?;
        superuser.batch_execute(&format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")).await?;
        superuser.batch_execute(&format!("CREATE DATABASE {DATABASE} OWNER {ROLE}")).await?;
        let query = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{ROLE}'");
        let verifier = superuser.query_one(&query, &[]).await?.try_get(0).context("no verifier")?;

        let uri = format!("postgresql://{ROLE}@127.0.0.1:{}/{DATABASE}", postgres.port);
        postgres.run_tool("pgbench", &["--initialize", "--quiet", "--scale", SCALE, &uri]).await?;
        Ok(Self { postgres, process, certificates, verifier })
    }
}

/// Copies the certificate and the key to where PostgreSQL finds them. It refuses a key that others may read.
fn install(postgres: &Postgres, certificates: &Certificates) -> Result<()> {
    for (from, name) in [(&certificates.certificate, "server.crt"), (&certificates.key, "server.key")] {
        let to = postgres.data_dir.join(name);
        fs::copy(from, &to)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600))?;
        postgres.tools.give_to_postgres(&to)?;
    }
    Ok(())
}
