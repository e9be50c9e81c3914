//! State of a cluster between two commands: ids, ports, passwords and processes, saved in `state.json` beside the data.
//! Users read `cluster.json` instead.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use postgres_protocol::password::scram_sha_256;
use serde::{Deserialize, Serialize};

use crate::ports;
use crate::process::ProcessId;

/// Version of `state.json`; raised when a later program can no longer run a cluster of an earlier one.
const FORMAT: u32 = 2;
/// Random bytes of a password.
const PASSWORD_BYTES: usize = 16;

/// All facts about one cluster that are not in its data directories.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterState {
    format: u32,
    /// `None` until the first start has finished; until then nothing in the directory is worth keeping.
    pub origin: Option<Origin>,
    /// The tenant id.
    pub tenant_id: String,
    /// The timeline id.
    pub timeline_id: String,
    /// Passwords of the roles.
    pub passwords: Passwords,
    /// The primary.
    pub postgres: Part,
    /// The safekeepers, in the order of their ids.
    pub safekeepers: Vec<SafekeeperState>,
    /// The walproposer; its port is the one of its HTTP interface.
    pub walproposer: Part,
    /// The proxy.
    pub proxy: ProxyState,
}

/// Origin of the safekeepers' log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// LSN of the first byte of a segment, as text.
    pub start_lsn: String,
    /// Segment size of the cluster in bytes.
    pub wal_segment_size: u64,
    /// System identifier of the cluster: a data directory with another one belongs to another cluster.
    pub system_id: String,
    /// PostgreSQL's timeline number at the start of the log.
    #[serde(default = "first_tli")]
    pub start_tli: u32,
}

const fn first_tli() -> u32 {
    1
}

impl Origin {
    /// The name of the segment before the first one (PostgreSQL documentation, "WAL Internals").
    pub fn segment_before(&self) -> Result<String> {
        let start: wal_types::Lsn = self.start_lsn.parse()?;
        let number = (start.0 / self.wal_segment_size).saturating_sub(1);
        let per_id = (1 << 32) / self.wal_segment_size;
        Ok(format!("{:08X}{:08X}{:08X}", self.start_tli, number / per_id, number % per_id))
    }
}

/// Passwords of the roles.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Passwords {
    /// Of the role `postgres`.
    pub superuser: String,
    /// Of the role `wp`.
    pub walproposer: String,
    /// Of the role `app`.
    pub application: String,
    /// SCRAM verifier of the role `app`: PostgreSQL and the proxy need the same one, salt included.
    pub application_verifier: String,
}

/// Port and process of a program.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Its port.
    pub port: u16,
    /// Its process; `None` when it was stopped on purpose. A process that no longer runs died by itself.
    pub process: Option<ProcessId>,
}

/// Id, ports and process of a safekeeper.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SafekeeperState {
    /// Its node id.
    pub id: u64,
    /// Its port for HTTP.
    pub http_port: u16,
    /// Its port for the PostgreSQL protocol, and its process.
    pub part: Part,
}

/// Ports and process of the proxy.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ProxyState {
    /// Its port for HTTP.
    pub http_port: u16,
    /// Its port for clients, and its process.
    pub part: Part,
}

/// The part of `state.json` that every version has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl ClusterState {
    /// State of a new cluster, with new ids, ports and passwords.
    pub fn new(safekeepers: u64) -> Result<Self> {
        let part = || Ok::<_, anyhow::Error>(Part { port: ports::pick()?, process: None });
        let safekeeper = |id| Ok(SafekeeperState { id, http_port: ports::pick()?, part: part()? });
        let application = random_hex(PASSWORD_BYTES)?;
        Ok(Self {
            format: FORMAT,
            origin: None,
            tenant_id: random_hex(16)?,
            timeline_id: random_hex(16)?,
            passwords: Passwords {
                superuser: random_hex(PASSWORD_BYTES)?,
                walproposer: random_hex(PASSWORD_BYTES)?,
                application_verifier: scram_sha_256(application.as_bytes()),
                application,
            },
            postgres: part()?,
            safekeepers: (1..=safekeepers).map(safekeeper).collect::<Result<_>>()?,
            walproposer: part()?,
            proxy: ProxyState { http_port: ports::pick()?, part: part()? },
        })
    }

    /// Reads the state of a cluster; `None` when there is none.
    pub fn load(file: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        let advice =
            || format!("{} is damaged: restore it, or move {} away", file.display(), directory(file));
        let Version { format } = serde_json::from_str(&text).with_context(advice)?;
        if format != FORMAT {
            bail!(
                "{} was written by another version of this program (format {format}, this one knows {FORMAT}): use that \
                 version, or move {} away",
                file.display(),
                directory(file)
            );
        }

        let state = serde_json::from_str(&text).with_context(advice)?;
        Ok(Some(state))
    }

    /// Writes the state. A crash leaves the old or the new file.
    pub fn save(&self, file: &Path) -> Result<()> {
        write_private(file, &serde_json::to_string_pretty(self)?)
    }
}

/// Writes a file that only its owner can read. It is written under a temporary name, synced and renamed.
pub fn write_private(file: &Path, text: &str) -> Result<()> {
    let temporary = file.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.sync_all()?;
    fs::rename(&temporary, file).with_context(|| format!("cannot write {}", file.display()))
}

fn directory(file: &Path) -> String {
    file.parent().unwrap_or(file).display().to_string()
}

fn random_hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer).context("no randomness from the operating system")?;
    Ok(hex::encode(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_saved_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::tempdir().unwrap().keep().join("state.json");
        let state = ClusterState::new(3).unwrap();
        state.save(&file).unwrap();
        let loaded = ClusterState::load(&file).unwrap().unwrap();
        assert_eq!(serde_json::to_string(&loaded).unwrap(), serde_json::to_string(&state).unwrap());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn segment_before_the_first_crosses_the_id() {
        let origin = |start_lsn: &str| Origin {
            start_lsn: start_lsn.into(),
            wal_segment_size: 16 << 20,
            system_id: String::new(),
            start_tli: 1,
        };
        assert_eq!(origin("0/1000000").segment_before().unwrap(), "000000010000000000000000");
        assert_eq!(origin("2/0").segment_before().unwrap(), "0000000100000001000000FF");
    }

    #[test]
    fn damaged_or_foreign_state_is_refused_with_remedy() {
        let file = tempfile::tempdir().unwrap().keep().join("state.json");
        assert!(ClusterState::load(&file).unwrap().is_none());
        fs::write(&file, "{\"format\":").unwrap();
        assert!(ClusterState::load(&file).unwrap_err().to_string().contains("move"));
        for foreign in ["{\"format\": 1}", "{\"format\": 9, \"more\": []}"] {
            fs::write(&file, foreign).unwrap();
            assert!(ClusterState::load(&file).unwrap_err().to_string().contains("another version"));
        }
    }
}
