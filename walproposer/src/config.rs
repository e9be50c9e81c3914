//! Validated configuration of the subcommands: the safekeepers of one log, and what `run` and `recover` need.
//!
//! Built by [`crate::flags`] from the command line, and directly by tests.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use wal_types::{NodeId, TenantTimelineId};

use crate::conninfo::ConnInfo;
use crate::primary_name::PrimaryName;

/// WAL kept in memory for safekeepers that lag, unless told otherwise.
pub const SEND_BUFFER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One safekeeper and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafekeeperAddress {
    /// The node.
    pub id: NodeId,
    /// Name or address.
    pub host: String,
    /// Its PostgreSQL port.
    pub port: u16,
}

impl fmt::Display for SafekeeperAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for SafekeeperAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected ID@HOST:PORT, as in 1@127.0.0.1:5454";
        let (id, address) = text.trim().split_once('@').ok_or(EXPECTED)?;
        let (host, port) = address.rsplit_once(':').ok_or(EXPECTED)?;
        let id = id.parse().map(NodeId).map_err(|_| EXPECTED)?;
        let port = port.parse().ok().filter(|&port: &u16| port != 0).ok_or(EXPECTED)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() { Err(EXPECTED) } else { Ok(Self { id, host: host.to_owned(), port }) }
    }
}

/// The safekeepers of one log.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Who is talked to. Not empty, no id twice.
    pub safekeepers: Vec<SafekeeperAddress>,
    /// The log.
    pub id: TenantTimelineId,
    /// What they ask for as a password.
    pub token: Option<String>,
}

impl Cluster {
    /// The ids of all safekeepers.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.safekeepers.iter().map(|safekeeper| safekeeper.id).collect()
    }
}

/// What `run` needs.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The primary.
    pub primary: ConnInfo,
    /// What it is called, where logs are given to primaries.
    pub primary_name: Option<PrimaryName>,
    /// The safekeepers.
    pub cluster: Cluster,
    /// Name of the slot.
    pub slot: String,
    /// Name of the standby.
    pub application_name: String,
    /// WAL kept in memory for safekeepers that lag, in bytes.
    pub send_buffer_bytes_max: u64,
    /// Where HTTP is answered.
    pub listen_http: SocketAddr,
    /// Where the bound address is written.
    pub address_file: Option<PathBuf>,
}

/// What `recover` needs.
#[derive(Clone, Debug)]
pub struct RecoverConfig {
    /// The safekeepers.
    pub cluster: Cluster,
    /// When to give up.
    pub timeout: Duration,
    /// Who the log is given to.
    pub primary_name: Option<PrimaryName>,
    /// Whether the result is printed as JSON.
    pub json: bool,
}
