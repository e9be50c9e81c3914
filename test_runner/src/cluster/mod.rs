//! [`Cluster`]: three safekeepers, a PostgreSQL, a walproposer and a proxy in one directory. `./dev up` and the tests
//! use it.
//!
//! `start` and `stop` are the orders that keep every acknowledged commit; `status` is the answer to `./dev status`.

mod cluster_json;
mod part_name;
mod readers;
mod start;
pub mod state;
pub mod status;
mod stop;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use self::state::{ClusterState, Part, SafekeeperState};
use crate::env::Tools;
use crate::postgres::Postgres;
use crate::proxy::Proxy;
use crate::safekeeper::Safekeeper;
use crate::unsynced::ForgettingDisk;
use crate::walproposer::Walproposer;

pub use self::part_name::{PartName, SAFEKEEPERS};

/// Callback that reports each step of a long operation to a person.
pub type ReportStep<'a> = &'a dyn Fn(&str);

/// Settings in which a cluster of a test differs from one of `./dev up`.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// A data directory that initdb made, to copy, because initdb takes long; and its superuser's password.
    pub template: Option<(PathBuf, String)>,
    /// Whether a base backup of the primary is taken before its first commit.
    pub base_backup: bool,
    /// Whether the kernel kills the programs when the thread that started them ends.
    pub dies_with_parent: bool,
    /// Ids of safekeepers that the walproposer reaches through a relay, with the port of the relay.
    pub relayed: Vec<(u64, u16)>,
    /// The library that makes the safekeepers' disks lose unsynced data (see [`crate::unsynced`]).
    pub forgetting_disks: Option<PathBuf>,
    /// Delay before each sync of such a disk.
    pub sync_delay: Duration,
    /// Further arguments of initdb, used without a template.
    pub initdb_arguments: Vec<String>,
    /// Further lines of postgresql.conf.
    pub settings: String,
    /// Further arguments of each safekeeper.
    pub safekeeper_arguments: Vec<String>,
    /// Whether the primary is promoted once before its log is created: the log begins on timeline 2.
    pub promoted: bool,
    /// Whether the proxy is left out.
    pub without_proxy: bool,
}

/// A cluster and its directory.
#[derive(Debug)]
pub struct Cluster {
    /// Directory of all data, logs and state.
    pub directory: PathBuf,
    /// Ids, ports, passwords and processes; saved as `state.json`.
    pub state: ClusterState,
    /// Programs of PostgreSQL and Holdfast.
    pub tools: Tools,
    /// Settings that differ from those of `./dev up`.
    pub options: ClusterOptions,
}

impl Cluster {
    /// Opens the cluster in this directory, or makes up the state of a new one. Starts nothing.
    pub fn open(directory: &Path, tools: Tools, options: ClusterOptions) -> Result<Self> {
        let state = match ClusterState::load(&directory.join("state.json"))? {
            Some(state) => state,
            None => ClusterState::new(SAFEKEEPERS)?,
        };
        Ok(Self { directory: directory.to_path_buf(), state, tools, options })
    }

    /// Saves the state.
    pub fn save(&self) -> Result<()> {
        self.state.save(&self.directory.join("state.json"))
    }

    /// The primary.
    pub fn postgres(&self) -> Postgres {
        Postgres {
            tools: self.tools.clone(),
            name: "postgres".into(),
            data_dir: self.directory.join("postgres"),
            log: self.log(PartName::Postgres),
            port: self.state.postgres.port,
            superuser_password: self.state.passwords.superuser.clone(),
            dies_with_parent: self.options.dies_with_parent,
        }
    }

    /// A safekeeper.
    pub fn safekeeper(&self, id: u64) -> Result<Safekeeper> {
        let state = self.safekeeper_state(id)?;
        Ok(Safekeeper {
            tools: self.tools.clone(),
            id,
            data_dir: self.directory.join(format!("sk{id}")),
            log: self.log(PartName::Safekeeper(id)),
            pg_port: state.part.port,
            arguments: self.options.safekeeper_arguments.clone(),
            http_port: state.http_port,
            environment: self
                .forgetting_disk(id)
                .map(|disk| disk.environment())
                .transpose()?
                .unwrap_or_default(),
            dies_with_parent: self.options.dies_with_parent,
        })
    }

    /// The forgetting disk of a safekeeper; `None` when its disk is an ordinary one.
    pub fn forgetting_disk(&self, id: u64) -> Option<ForgettingDisk> {
        let library = self.options.forgetting_disks.as_ref()?;
        let root = self.directory.join(format!("sk{id}"));
        Some(ForgettingDisk::new(library, &root).slower_by(self.options.sync_delay))
    }

    fn safekeeper_state(&self, id: u64) -> Result<&SafekeeperState> {
        let found = self.state.safekeepers.iter().find(|safekeeper| safekeeper.id == id);
        found.with_context(|| format!("there is no safekeeper {id}"))
    }

    /// All safekeepers.
    pub fn safekeepers(&self) -> Result<Vec<Safekeeper>> {
        self.state.safekeepers.iter().map(|state| self.safekeeper(state.id)).collect()
    }

    /// The walproposer.
    pub fn walproposer(&self) -> Walproposer {
        Walproposer {
            tools: self.tools.clone(),
            log: self.log(PartName::Walproposer),
            http_port: self.state.walproposer.port,
            primary: format!(
                "postgresql://wp:{}@127.0.0.1:{}/postgres",
                self.state.passwords.walproposer, self.state.postgres.port
            ),
            safekeepers: self
                .state
                .safekeepers
                .iter()
                .map(|state| (state.id, self.port_for_walproposer(state)))
                .collect(),
            tenant_id: self.state.tenant_id.clone(),
            timeline_id: self.state.timeline_id.clone(),
            primary_name: None,
            dies_with_parent: self.options.dies_with_parent,
        }
    }

    /// The proxy.
    pub fn proxy(&self) -> Proxy {
        Proxy {
            tools: self.tools.clone(),
            directory: self.directory.clone(),
            log: self.log(PartName::Proxy),
            port: self.state.proxy.part.port,
            http_port: self.state.proxy.http_port,
            postgres_port: self.state.postgres.port,
            password: self.state.passwords.application.clone(),
            verifier: self.state.passwords.application_verifier.clone(),
            dies_with_parent: self.options.dies_with_parent,
        }
    }

    fn port_for_walproposer(&self, safekeeper: &SafekeeperState) -> u16 {
        let relayed = self.options.relayed.iter().find(|(id, _)| *id == safekeeper.id);
        relayed.map_or(safekeeper.part.port, |(_, port)| *port)
    }

    /// The log file of a part.
    pub fn log(&self, part: PartName) -> PathBuf {
        self.directory.join(format!("{part}.log"))
    }

    /// All parts.
    pub fn parts(&self) -> Vec<PartName> {
        let safekeepers = self.state.safekeepers.iter().map(|state| PartName::Safekeeper(state.id));
        safekeepers.chain([PartName::Postgres, PartName::Walproposer, PartName::Proxy]).collect()
    }

    /// The port and process of a part.
    pub fn part(&self, name: PartName) -> Result<Part> {
        Ok(match name {
            PartName::Postgres => self.state.postgres,
            PartName::Walproposer => self.state.walproposer,
            PartName::Proxy => self.state.proxy.part,
            PartName::Safekeeper(id) => self.safekeeper_state(id)?.part,
        })
    }

    fn part_mut(&mut self, name: PartName) -> Result<&mut Part> {
        Ok(match name {
            PartName::Postgres => &mut self.state.postgres,
            PartName::Walproposer => &mut self.state.walproposer,
            PartName::Proxy => &mut self.state.proxy.part,
            PartName::Safekeeper(id) => {
                let found = self.state.safekeepers.iter_mut().find(|safekeeper| safekeeper.id == id);
                &mut found.with_context(|| format!("there is no safekeeper {id}"))?.part
            }
        })
    }

    /// True while this part runs.
    pub fn is_running(&self, name: PartName) -> bool {
        self.part(name).ok().and_then(|part| part.process).is_some_and(|process| process.is_alive())
    }

    /// The parts that run.
    pub fn running(&self) -> Vec<PartName> {
        self.parts().into_iter().filter(|name| self.is_running(*name)).collect()
    }

    /// Connection URI of the application that bypasses the proxy.
    pub fn application_uri(&self) -> String {
        let (password, port) = (&self.state.passwords.application, self.state.postgres.port);
        format!("postgresql://app:{password}@127.0.0.1:{port}/app")
    }

    /// A line for a shell that opens psql as the application, through the proxy.
    pub fn psql_line(&self) -> String {
        let psql = self.tools.postgres("psql").display().to_string();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
        let psql =
            if psql.chars().all(is_plain) { psql } else { format!("'{}'", psql.replace('\'', r"'\''")) };
        format!("{psql} \"{}\"", self.proxy().uri())
    }
}
