//! What the command line says: raw flags as clap reads them, then values that the rest of the program relies on.
//!
//! No file and no global: everything the program is told stands in its arguments (the level of the log may come from
//! `RUST_LOG`). Called by `main`, and by tests that build a [`RunConfig`] directly.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use consensus::MEMBERS_MAX;
use telemetry::LogFormat;
use wal_types::{NodeId, TenantId, TenantTimelineId, TimelineId};

use crate::conninfo::ConnInfo;
use crate::members::MembersFlags;
use crate::primary_name::PrimaryName;

/// Longest token file that is read.
const TOKEN_BYTES_MAX: u64 = 8 * 1024;

/// WAL kept in memory for safekeepers that lag, unless told otherwise.
pub const SEND_BUFFER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// An append must fit, and some more, or the primary would be read one message at a time.
const SEND_BUFFER_BYTES_MIN: u64 = 1024 * 1024;

const RUN_EXAMPLES: &str = "\
Before the first start, on the primary:
  CREATE ROLE wp REPLICATION LOGIN;
  SELECT pg_create_physical_replication_slot('wp', true);
and start it with  -c synchronous_standby_names='FIRST 1 (wp)'
(on the command line, so that nobody can turn it off with ALTER SYSTEM).

Example:
  walproposer run --primary 'host=127.0.0.1 port=5432 user=wp' \\
    --safekeepers 1@10.0.0.1:5454,2@10.0.0.2:5454,3@10.0.0.3:5454 \\
    --tenant-id 9ef87a5bf0d92544f6fafeeb3239695c \\
    --timeline-id de200bd42b49cc1814412c7e592dd6e9 --listen-http 127.0.0.1:7676

Then  curl http://127.0.0.1:7676/v1/status  tells what it does and what blocks commits.";

const RECOVER_EXAMPLES: &str = "\
Run it when the primary is gone, or stopped for good, to learn where its log ends:
every WAL byte below the printed position is then committed, and nothing above it ever will be under an older term.

For a failover add --primary-name with the name of the server that takes over: from then on the log takes the WAL of
that primary only, and the old one is refused when it comes back. When two do this at once, one of them wins and the
other one is told so. Let the standby replay up to the printed position, promote it, and start its walproposer with
the same --primary-name.

Example:
  walproposer recover --safekeepers 1@10.0.0.1:5454,2@10.0.0.2:5454,3@10.0.0.3:5454 \\
    --tenant-id 9ef87a5bf0d92544f6fafeeb3239695c \\
    --timeline-id de200bd42b49cc1814412c7e592dd6e9 --timeout 30s
  0/16B3748";

/// Makes the commits of an unpatched PostgreSQL wait for a quorum of safekeepers.
///
/// It streams the primary's write-ahead log as its synchronous standby, writes it to the safekeepers, and lets COMMIT
/// return when a majority of them has it on disk.
#[derive(Debug, Parser)]
#[command(name = "walproposer", version)]
pub struct Flags {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What this program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a primary until stopped.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunFlags),
    /// Hold one election without a primary, settle the end of the log, print it and exit.
    #[command(after_help = RECOVER_EXAMPLES)]
    Recover(RecoverFlags),
    /// Show or change who stores the log, by way of a running walproposer.
    Members(MembersFlags),
}

/// Which safekeepers, which log.
#[derive(Debug, Args)]
pub struct ClusterFlags {
    /// Safekeepers, separated by commas.
    #[arg(long, value_name = "ID@HOST:PORT", value_delimiter = ',', required = true)]
    safekeepers: Vec<SafekeeperAddress>,
    /// Owner of the log, 32 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    tenant_id: TenantId,
    /// The log, 32 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    timeline_id: TimelineId,
    /// File with the token that the safekeepers ask for.
    #[arg(long, value_name = "FILE")]
    auth_token_file: Option<PathBuf>,
}

/// How to log.
#[derive(Debug, Args)]
pub struct LogFlags {
    /// How a log line looks: text or json.
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// What to log, such as "info" or "info,walproposer=debug"; without it RUST_LOG counts.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunFlags {
    /// The primary: "host=… port=… user=…" or postgresql://user@host:port
    ///
    /// With a password in it, give it in the environment: everybody on the machine can read a command line.
    #[arg(long, value_name = "CONNINFO", env = "HOLDFAST_PRIMARY", hide_env_values = true)]
    primary: ConnInfo,
    /// Name of this primary, up to 16 letters, digits, '.', '_' and '-'.
    ///
    /// Once a log was given to a primary of some name (walproposer recover --primary-name, or PUT /v1/primary), it takes
    /// no other one's WAL: a server that was replaced cannot come back by mistake. Without a name, only a log that was
    /// given to nobody is written.
    #[arg(long, value_name = "NAME")]
    primary_name: Option<PrimaryName>,
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Physical replication slot on the primary; it keeps the WAL that the quorum lacks.
    #[arg(long, value_name = "NAME", default_value = "wp")]
    slot: String,
    /// The name that stands in synchronous_standby_names [default: that of CONNINFO, else wp].
    #[arg(long, value_name = "NAME")]
    application_name: Option<String>,
    /// WAL kept in memory for safekeepers that lag, in bytes; who needs older WAL reads it from another safekeeper.
    #[arg(long, value_name = "BYTES", default_value_t = SEND_BUFFER_BYTES_MAX)]
    send_buffer_bytes: u64,
    /// Where to answer HTTP: /v1/status /metrics /healthz /readyz, PUT /v1/members and /v1/primary.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen_http: SocketAddr,
    /// File to write the bound address to, as JSON.
    #[arg(long, value_name = "PATH")]
    address_file: Option<PathBuf>,
    /// How to log.
    #[command(flatten)]
    pub log: LogFlags,
}

/// Flags of `recover`.
#[derive(Debug, Args)]
pub struct RecoverFlags {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Give up after this long, such as 60s or 2m.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Give the log to the primary of this name as soon as its end is settled.
    #[arg(long, value_name = "NAME")]
    primary_name: Option<PrimaryName>,
    /// Print a JSON object instead of the bare position.
    #[arg(long)]
    json: bool,
    /// How to log.
    #[command(flatten)]
    pub log: LogFlags,
}

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

impl RunFlags {
    /// Checks what clap cannot.
    pub fn validate(self) -> anyhow::Result<RunConfig> {
        ensure!(
            is_slot_name(&self.slot),
            "--slot {:?}: a slot name has 1 to 63 characters out of a-z, 0-9 and _",
            self.slot
        );
        ensure!(
            self.send_buffer_bytes >= SEND_BUFFER_BYTES_MIN,
            "--send-buffer-bytes {}: at least {SEND_BUFFER_BYTES_MIN} are needed",
            self.send_buffer_bytes
        );
        let application_name = self
            .application_name
            .or_else(|| self.primary.application_name.clone())
            .unwrap_or_else(|| "wp".to_owned());
        ensure!(!application_name.is_empty(), "--application-name must not be empty");
        Ok(RunConfig {
            primary: self.primary,
            primary_name: self.primary_name,
            cluster: self.cluster.validate()?,
            slot: self.slot,
            application_name,
            send_buffer_bytes_max: self.send_buffer_bytes,
            listen_http: self.listen_http,
            address_file: self.address_file,
        })
    }
}

impl RecoverFlags {
    /// Checks what clap cannot.
    pub fn validate(self) -> anyhow::Result<RecoverConfig> {
        let Self { cluster, timeout, primary_name, json, log: _ } = self;
        Ok(RecoverConfig { cluster: cluster.validate()?, timeout, primary_name, json })
    }
}

impl ClusterFlags {
    fn validate(self) -> anyhow::Result<Cluster> {
        let mut seen = BTreeSet::new();
        for safekeeper in &self.safekeepers {
            ensure!(seen.insert(safekeeper.id), "--safekeepers names id {} twice", safekeeper.id);
        }
        ensure!(seen.len() <= MEMBERS_MAX, "--safekeepers: at most {MEMBERS_MAX} are possible");
        let token = self.auth_token_file.map(|path| read_token(&path)).transpose()?;
        let id = TenantTimelineId { tenant: self.tenant_id, timeline: self.timeline_id };
        Ok(Cluster { safekeepers: self.safekeepers, id, token })
    }
}

/// Slot names are restricted by the server (PostgreSQL documentation, "Replication Slots"), which also makes them safe
/// to put between quotes.
fn is_slot_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

pub(crate) fn read_token(path: &std::path::Path) -> anyhow::Result<String> {
    let length =
        std::fs::metadata(path).with_context(|| format!("--auth-token-file {}", path.display()))?.len();
    ensure!(length <= TOKEN_BYTES_MAX, "--auth-token-file {}: too long for a token", path.display());
    let text =
        std::fs::read_to_string(path).with_context(|| format!("--auth-token-file {}", path.display()))?;
    let token = text.trim();
    ensure!(!token.is_empty(), "--auth-token-file {}: it is empty", path.display());
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "--safekeepers 1@h:1,2@[::1]:2 --tenant-id 9ef87a5bf0d92544f6fafeeb3239695c --timeline-id de200bd42b49cc1814412c7e592dd6e9";

    fn parse(line: &str) -> Result<Flags, String> {
        let words = std::iter::once("walproposer").chain(line.split_whitespace());
        Flags::try_parse_from(words).map_err(|error| error.to_string())
    }

    fn run_config(line: &str) -> Result<RunConfig, String> {
        match parse(line)?.command {
            Command::Run(flags) => flags.validate().map_err(|error| error.to_string()),
            Command::Recover(_) | Command::Members(_) => Err("not run".into()),
        }
    }

    #[test]
    fn a_short_line_has_defaults() {
        let config = run_config(&format!("run --primary postgresql://wp@h:5433 {CLUSTER}")).unwrap();
        assert_eq!((config.slot.as_str(), config.application_name.as_str()), ("wp", "wp"));
        assert_eq!(config.cluster.nodes(), [NodeId(1), NodeId(2)]);
        assert_eq!(config.cluster.safekeepers[1].to_string(), "[::1]:2");
        assert_eq!(config.listen_http.port(), 0);
    }

    #[test]
    fn the_command_line_names_the_standby_before_the_conninfo_does() {
        let uri = format!("run --primary postgresql://wp@h?application_name=a {CLUSTER}");
        assert_eq!(run_config(&uri).unwrap().application_name, "a");
        assert_eq!(run_config(&format!("{uri} --application-name b")).unwrap().application_name, "b");
    }

    #[test]
    fn recover_knows_how_long_to_try() {
        let Command::Recover(flags) =
            parse(&format!("recover {CLUSTER} --timeout 2m --json")).unwrap().command
        else {
            panic!("not recover")
        };
        let config = flags.validate().unwrap();
        assert_eq!((config.timeout, config.json), (Duration::from_secs(120), true));
    }

    #[test]
    fn a_wrong_flag_is_named() {
        let ids =
            "--tenant-id 9ef87a5bf0d92544f6fafeeb3239695c --timeline-id de200bd42b49cc1814412c7e592dd6e9";
        for (line, expected) in [
            (format!("run {CLUSTER}"), "--primary"),
            (format!("run --primary host=h {CLUSTER}"), "user is missing"),
            (format!("run --primary postgresql://wp@h {CLUSTER} --slot W"), "slot name"),
            (format!("run --primary postgresql://wp@h {CLUSTER} --send-buffer-bytes 9"), "at least 1048576"),
            (format!("run --primary postgresql://wp@h --safekeepers 1@h:1,1@h:2 {ids}"), "id 1 twice"),
            (format!("run --primary postgresql://wp@h --safekeepers h:1 {ids}"), "ID@HOST:PORT"),
            (format!("run --primary postgresql://wp@h --safekeepers 1@h:0 {ids}"), "ID@HOST:PORT"),
            (format!("run --primary postgresql://wp@h --safekeepers 1@:5 {ids}"), "ID@HOST:PORT"),
            (
                format!("run --primary postgresql://wp@h {CLUSTER} --auth-token-file /nonexistent/token"),
                "token",
            ),
            ("recover --safekeepers 1@h:1 --tenant-id 12 --timeline-id 34".into(), "32 hexadecimal digits"),
            (format!("recover {CLUSTER} --timeout soon"), "--timeout"),
            (format!("recover {CLUSTER} --primary-name pg/a"), "as in pg-a"),
        ] {
            let error = match parse(&line) {
                Ok(Flags { command: Command::Run(flags) }) => flags.validate().unwrap_err().to_string(),
                Ok(_) => panic!("{line} was accepted"),
                Err(error) => error,
            };
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
