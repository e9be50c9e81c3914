//! Clients of the proxy: PostgreSQL's own programs, drivers of other makers, tokio-postgres and crowds use an ordinary
//! PostgreSQL through the proxy, and must not notice it.

mod control_plane;
mod crowd;
mod drivers;
mod moved;
mod programs;
mod psql;
mod psql_18;
mod replication;
mod rust;
mod soak;

use anyhow::Result;
use test_runner::env::TestEnvironment;
use test_runner::proxied_postgres::{ProxiedOptions, ProxiedPostgres, copy_database};

/// A proxy and its PostgreSQL, for one test.
pub(crate) struct Installation {
    pub(crate) proxied: ProxiedPostgres,
    pub(crate) environment: TestEnvironment,
}

impl Installation {
    /// Copies the shared database and starts PostgreSQL and the proxy.
    pub(crate) async fn new(name: &str) -> Result<Self> {
        let environment = TestEnvironment::new(&format!("clients-{name}"))?;
        let postgres = copy_database(&environment.tools, &environment.directory).await?;
        let proxied = ProxiedPostgres::start(postgres, ProxiedOptions::default()).await?;
        Ok(Self { proxied, environment })
    }

    /// Stops both programs and removes the files of the test.
    pub(crate) async fn passed(self) -> Result<()> {
        self.proxied.stop().await?;
        self.environment.passed();
        Ok(())
    }
}
