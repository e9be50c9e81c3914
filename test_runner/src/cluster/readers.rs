//! Readers of WAL: attaches stock standbys and `pg_receivewal` to a safekeeper.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use wal_types::Lsn;

use super::Cluster;
use crate::clients;
use crate::ports;
use crate::postgres::Postgres;

/// Time limit for `pg_receivewal` to reach its end position.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(120);

impl Cluster {
    /// Connection string of a reader for the safekeeper on this port.
    pub fn reader_conninfo(&self, port: u16) -> String {
        format!(
            "host=127.0.0.1 port={port} user=reader application_name=reader sslmode=disable \
             options='-c tenant_id={} -c timeline_id={}'",
            self.state.tenant_id, self.state.timeline_id
        )
    }

    /// Makes a standby from the first base backup that streams from a safekeeper. It is not started.
    pub async fn standby(&self, name: &str, safekeeper: u64) -> Result<Postgres> {
        let standby = Postgres {
            name: name.into(),
            data_dir: self.directory.join(name),
            log: self.directory.join(format!("{name}.log")),
            port: ports::pick()?,
            ..self.postgres()
        };
        standby.copy_from(&self.directory.join("base_backup")).await?;
        standby.make_standby_of(&self.reader_conninfo(self.safekeeper(safekeeper)?.pg_port))?;
        Ok(standby)
    }

    /// Runs `pg_receivewal` from the beginning of the log up to `end`, into an empty directory.
    pub async fn receive_wal(&self, port: u16, directory: &Path, end: Lsn) -> Result<()> {
        // pg_receivewal begins behind the last whole segment in its directory, and at the server's end in an empty one.
        let origin = self.state.origin.as_ref().context("the cluster was never started")?;
        let before = directory.join(origin.segment_before()?);
        fs::File::create(&before)?.set_len(origin.wal_segment_size)?;
        let conninfo = self.reader_conninfo(port);
        let target = directory.to_str().context("a path is not UTF-8")?;
        // pg_receivewal ends when it has received a byte behind this position.
        let end = format!("--endpos={}", Lsn(end.0 - 1));
        let arguments = ["-d", &conninfo, "-D", target, &end, "--no-loop", "--no-sync"];
        let program = self.tools.postgres("pg_receivewal");
        let run = clients::run(&program, &arguments, &[]);
        tokio::time::timeout(RECEIVE_TIMEOUT, run).await.context("pg_receivewal did not reach its end")??;
        fs::remove_file(before)?;
        Ok(())
    }
}
