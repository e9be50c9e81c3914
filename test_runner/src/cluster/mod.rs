//! One cluster: three safekeepers, a PostgreSQL, a walproposer and a proxy, in one directory. `start` and `stop` are
//! the orders that keep every acknowledged commit; `status` is what people are told. Both `./dev up` and the tests
//! are made of this.

mod readers;
mod start;
pub mod state;
pub mod status;
mod stop;
mod under_test;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::state::{Part, SafekeeperState, State, write_private};
use crate::env::Tools;
use crate::postgres::Postgres;
use crate::proxy::{self, Proxy};
use crate::safekeepers::Safekeeper;
use crate::unsynced::ForgettingDisk;
use crate::walproposer::Walproposer;

pub use self::under_test::ClusterUnderTest;

/// How many safekeepers a cluster has.
pub const SAFEKEEPERS: u64 = 3;

/// Told to a person while something takes time.
pub type Progress<'a> = &'a dyn Fn(&str);

/// How a cluster of a test differs from one of `./dev up`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A data directory that initdb made: copied, because initdb takes long. With the superuser's password.
    pub template: Option<(PathBuf, String)>,
    /// Whether a base backup of the primary is kept from before its first commit.
    pub base_backup: bool,
    /// Whether the programs are killed with the thread that started them.
    pub dies_with_parent: bool,
    /// Safekeepers that the walproposer reaches by way of a relay on this port.
    pub relayed: Vec<(u64, u16)>,
    /// The library that makes the safekeepers' disks forget what was not synced.
    pub forgetting_disks: Option<PathBuf>,
    /// How much later each sync of such a disk begins.
    pub sync_delay: Duration,
    /// Arguments to initdb, beside the usual, where there is no template.
    pub initdb_arguments: Vec<String>,
    /// Lines for postgresql.conf, beside the usual.
    pub settings: String,
    /// Whether there is no proxy.
    pub without_proxy: bool,
}

/// A cluster and its directory.
#[derive(Debug)]
pub struct Cluster {
    /// Where everything lies.
    pub directory: PathBuf,
    /// What is known about it.
    pub state: State,
    /// The tools.
    pub tools: Tools,
    /// How it differs from the usual.
    pub options: Options,
}

/// A part that can be stopped and started alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartName {
    /// The primary.
    Postgres,
    /// The walproposer.
    Walproposer,
    /// The proxy.
    Proxy,
    /// A safekeeper.
    Safekeeper(u64),
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres => f.write_str("postgres"),
            Self::Walproposer => f.write_str("walproposer"),
            Self::Proxy => f.write_str("proxy"),
            Self::Safekeeper(id) => write!(f, "sk{id}"),
        }
    }
}

impl FromStr for PartName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "postgres" => Ok(Self::Postgres),
            "walproposer" => Ok(Self::Walproposer),
            "proxy" => Ok(Self::Proxy),
            _ => match text.strip_prefix("sk").and_then(|id| id.parse().ok()) {
                Some(id) if (1..=SAFEKEEPERS).contains(&id) => Ok(Self::Safekeeper(id)),
                _ => bail!(
                    "there is no part {text:?}: it is one of sk1, sk2, sk3, postgres, walproposer, proxy"
                ),
            },
        }
    }
}

impl Cluster {
    /// The cluster in this directory, or a new one. Nothing is started.
    pub fn open(directory: &Path, tools: Tools, options: Options) -> Result<Self> {
        let state = match State::load(&directory.join("state.json"))? {
            Some(state) => state,
            None => State::new(SAFEKEEPERS)?,
        };
        Ok(Self { directory: directory.to_path_buf(), state, tools, options })
    }

    /// Writes down what is known.
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
            http_port: state.http_port,
            environment: self
                .forgetting_disk(id)
                .map(|disk| disk.environment())
                .transpose()?
                .unwrap_or_default(),
            dies_with_parent: self.options.dies_with_parent,
        })
    }

    /// The disk of a safekeeper, when it is one that forgets.
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

    /// The log of a part.
    pub fn log(&self, part: PartName) -> PathBuf {
        self.directory.join(format!("{part}.log"))
    }

    /// Every part.
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

    /// Where an application connects that goes past the proxy.
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

    /// Writes `cluster.json`: where everything is, for programs.
    pub fn write_cluster_json(&self) -> Result<()> {
        let pid = |part: Part| part.process.map(|process| process.pid);
        let safekeepers: Result<Vec<_>> = self
            .safekeepers()?
            .iter()
            .map(|safekeeper| {
                Ok(serde_json::json!({
                    "id": safekeeper.id, "host": "127.0.0.1", "pg_port": safekeeper.pg_port,
                    "http": safekeeper.http(), "data_dir": safekeeper.data_dir,
                    "pid": pid(self.part(PartName::Safekeeper(safekeeper.id))?),
                }))
            })
            .collect();
        let (postgres, proxy) = (self.postgres(), self.proxy());
        let document = serde_json::json!({
            "postgres": {
                "host": "127.0.0.1", "port": postgres.port, "data_dir": postgres.data_dir,
                "pid": pid(self.state.postgres),
            },
            "walproposer": {"http": self.walproposer().http(), "pid": pid(self.state.walproposer)},
            "safekeepers": safekeepers?,
            "tenant_id": self.state.tenant_id,
            "timeline_id": self.state.timeline_id,
            "psql": self.psql_line(),
            "proxy": {
                "host": "127.0.0.1", "port": proxy.port, "endpoint": proxy::ENDPOINT,
                "server_name": proxy::SERVER_NAME, "user": "app", "password": proxy.password, "dbname": "app",
                "ca_cert": proxy.authority(), "http": proxy.http(), "pid": pid(self.state.proxy.part),
            },
        });
        write_private(&self.directory.join("cluster.json"), &serde_json::to_string_pretty(&document)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_name_parses_what_it_prints() {
        for part in [PartName::Postgres, PartName::Walproposer, PartName::Proxy, PartName::Safekeeper(3)] {
            assert_eq!(part.to_string().parse::<PartName>().unwrap(), part);
        }
        for unknown in ["", "sk0", "sk4", "sk", "Proxy", "Postgres"] {
            assert!(unknown.parse::<PartName>().is_err(), "{unknown}");
        }
    }
}
