//! [`Middle`]: what stands between clients and the database: Holdfast's proxy, a peer, or nothing.
//!
//! The connection to the client uses TLS or not; that to the database is plain, on loopback. HAProxy cannot answer
//! PostgreSQL's request for TLS, so it passes TLS through to the database.

mod haproxy;
mod ours;
mod pgbouncer;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use test_runner::certs::Certificates;
use test_runner::env::Tools;
use test_runner::process::{KillOnDrop, ProcessId, Program};
use test_runner::wait;
use tokio::net::TcpStream;

use super::database::{DATABASE, Database, PASSWORD, ROLE, SERVER_NAME};
use crate::run::Run;

/// Time limit for a program to listen.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Where Debian puts servers.
const SERVER_PROGRAMS: &str = "/usr/sbin";
/// Names of the variants.
pub(crate) const DIRECT: &str = "direct";
pub(crate) const PGBOUNCER: &str = "pgbouncer";
pub(crate) const PGBOUNCER_2: &str = "pgbouncer-2";
pub(crate) const HAPROXY: &str = "haproxy";
pub(crate) const BARE_RELAY: &str = "bare-relay";
pub(crate) const OURS: &str = "ours";

/// What all middles of a bench have in common.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Location of the programs.
    pub(crate) tools: Tools,
    /// Directory of configurations and logs.
    pub(crate) directory: PathBuf,
    /// Certificate and key for clients.
    pub(crate) certificates: Certificates,
    /// What PostgreSQL stores of the role's password.
    pub(crate) verifier: String,
    /// Port of the database on 127.0.0.1.
    pub(crate) database_port: u16,
    /// Whether clients use TLS.
    pub(crate) tls: bool,
}

/// A running middle.
#[derive(Clone, Debug)]
pub(crate) struct Middle {
    /// Name of the variant.
    pub(crate) name: &'static str,
    /// Its processes; none when clients connect directly.
    pub(crate) processes: Vec<ProcessId>,
    /// The port for clients on 127.0.0.1.
    pub(crate) port: u16,
    /// Startup parameter `options` with which a client names the endpoint; only the proxy needs it, and only without TLS.
    pub(crate) options: Option<&'static str>,
    /// Whether clients use TLS.
    pub(crate) tls: bool,
}

impl Setting {
    /// Before the database of a bench.
    pub(crate) fn new(run: &Run, database: &Database, tls: bool) -> Self {
        Self {
            tools: run.tools.clone(),
            directory: run.directory.clone(),
            certificates: database.certificates.clone(),
            verifier: database.verifier.clone(),
            database_port: database.postgres.port,
            tls,
        }
    }

    /// No middle: clients connect to the database.
    pub(crate) fn direct(&self) -> Middle {
        self.middle(DIRECT, Vec::new(), self.database_port)
    }

    fn middle(&self, name: &'static str, processes: Vec<ProcessId>, port: u16) -> Middle {
        Middle { name, processes, port, options: None, tls: self.tls }
    }

    fn program(
        &self,
        name: &str,
        executable: PathBuf,
        arguments: Vec<String>,
        account: Option<test_runner::account::Account>,
    ) -> Program {
        Program {
            name: name.into(),
            executable,
            arguments,
            environment: Vec::new(),
            account,
            log: self.directory.join(format!("{name}.log")),
            dies_with_parent: true,
        }
    }

    fn own_directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.directory.join(name);
        fs::create_dir_all(&directory)?;
        self.tools.give_to_postgres(&directory)?;
        Ok(directory)
    }
}

impl Middle {
    /// Connection URI of a client.
    pub(crate) fn uri(&self) -> String {
        let sslmode = if self.tls { "require" } else { "disable" };
        let options = self
            .options
            .map(|options| format!("&options={}", options.replace('=', "%3D")))
            .unwrap_or_default();
        format!(
            "postgresql://{ROLE}:{PASSWORD}@{SERVER_NAME}:{}/{DATABASE}?hostaddr=127.0.0.1&sslmode={sslmode}\
             &gssencmode=disable{options}",
            self.port
        )
    }

    /// Kills its processes.
    pub(crate) async fn stop(self) -> Result<()> {
        for process in self.processes {
            process.kill().await?;
        }
        Ok(())
    }
}

fn server_program(name: &str) -> Option<PathBuf> {
    Some(Path::new(SERVER_PROGRAMS).join(name)).filter(|path| path.exists())
}

/// Starts a program and waits until it accepts connections.
async fn start_listening(program: &Program, port: u16) -> Result<ProcessId> {
    let process = program.spawn()?;
    let starting = KillOnDrop::new(process);
    wait::until(&format!("{} to listen", program.name), START_TIMEOUT, async || {
        if !process.is_alive() {
            return Err(program.early_end());
        }
        Ok(TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop))
    })
    .await?;
    starting.keep();
    Ok(process)
}
