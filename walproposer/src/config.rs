//! Validated configuration of the subcommands: the safekeepers of one log, and what `run` and `recover` need.
//!
//! Built by [`crate::flags`] from the command line, and directly by tests.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use candidacy::RetryDelays;
use wal_types::{NodeId, TenantTimelineId};

use crate::conninfo::ConnInfo;
use crate::primary_name::PrimaryName;

/// Default of `--send-buffer-bytes`: WAL kept in memory for lagging safekeepers.
pub const SEND_BUFFER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Id and address of one safekeeper: `ID@HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafekeeperAddress {
    /// Node id.
    pub id: NodeId,
    /// Host name or IP address.
    pub host: String,
    /// Port for the PostgreSQL protocol.
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

/// One log, and the safekeepers that store it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Safekeepers to connect to. Not empty, no id twice.
    pub safekeepers: Vec<SafekeeperAddress>,
    /// Id of the log.
    pub id: TenantTimelineId,
    /// Token that the safekeepers require as a password.
    pub token: Option<String>,
}

impl Cluster {
    /// The ids of all safekeepers.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.safekeepers.iter().map(|safekeeper| safekeeper.id).collect()
    }
}

/// Configuration of `run`.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Address and role of the primary.
    pub primary: ConnInfo,
    /// Name of the primary (`--primary-name`). `None`: it may write only a log that has no designated primary.
    pub primary_name: Option<PrimaryName>,
    /// The log and its safekeepers.
    pub cluster: Cluster,
    /// Physical replication slot on the primary.
    pub slot: String,
    /// Name of this standby in `synchronous_standby_names`.
    pub application_name: String,
    /// WAL kept in memory for lagging safekeepers, in bytes.
    pub send_buffer_bytes_max: u64,
    /// Delays between two attempts to lead.
    pub retry_delays: RetryDelays,
    /// Address of the HTTP port.
    pub listen_http: SocketAddr,
    /// File that receives the bound address.
    pub address_file: Option<PathBuf>,
}

/// Configuration of `recover`.
#[derive(Clone, Debug)]
pub struct RecoverConfig {
    /// The log and its safekeepers.
    pub cluster: Cluster,
    /// Time after which the recovery fails.
    pub timeout: Duration,
    /// Primary that the log is given to, if any: it becomes the designated one.
    pub primary_name: Option<PrimaryName>,
    /// Whether the result is printed as JSON.
    pub json: bool,
}
