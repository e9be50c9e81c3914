//! Command-line flags: as clap reads them, and their validation into the values of [`crate::config`].
//!
//! There is no configuration file and no global: all settings stand in the arguments. Two may come from the environment:
//! `HOLDFAST_PRIMARY` and `RUST_LOG`. Called by `main`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use candidacy::RetryDelays;
use clap::{Args, Parser, Subcommand};
use consensus::MEMBERS_MAX;
use telemetry::LogFormat;
use wal_types::{TenantId, TenantTimelineId, TimelineId};

use crate::auth_token::read_token;
use crate::config::{Cluster, RecoverConfig, RunConfig, SEND_BUFFER_BYTES_MAX, SafekeeperAddress};
use crate::conninfo::ConnInfo;
use crate::primary_name::PrimaryName;

/// Smallest buffer. With less than several appends of space the primary would be read one message at a time.
const SEND_BUFFER_BYTES_MIN: u64 = 1024 * 1024;

const RUN_EXAMPLES: &str = "\
Before the first start, on the primary:
  CREATE ROLE wp REPLICATION LOGIN;
  SELECT pg_create_physical_replication_slot('wp', true);
allow 'host replication wp …' and 'host postgres wp …' in its pg_hba.conf,
and start it with  -c synchronous_standby_names='FIRST 1 (wp)'
(on the command line, so that ALTER SYSTEM cannot turn it off).

Example:
  walproposer run --primary 'host=127.0.0.1 port=5432 user=wp' \\
    --safekeepers 1@10.0.0.1:5454,2@10.0.0.2:5454,3@10.0.0.3:5454 \\
    --tenant-id 9ef87a5bf0d92544f6fafeeb3239695c \\
    --timeline-id de200bd42b49cc1814412c7e592dd6e9 --listen-http 127.0.0.1:7676

Then  holdfast status  shows leadership, safekeepers and what blocks commits, and  holdfast members
shows or changes the safekeepers (see holdfast --help).";

const RECOVER_EXAMPLES: &str = "\
Run it when the primary is gone, or stopped for good, to learn where its log ends. All WAL below
the printed position is committed then, and no WAL above it can be committed under an older term.

For a failover add --primary-name with the name of the server that takes over: from then on the
log takes the WAL of that primary only, and the old primary is refused when it comes back. When
two operators do this at once, one of them wins, and the other command fails and says so. Let the
standby replay up to the printed position, promote it, and start its walproposer with the same
--primary-name.

Example:
  walproposer recover --safekeepers 1@10.0.0.1:5454,2@10.0.0.2:5454,3@10.0.0.3:5454 \\
    --tenant-id 9ef87a5bf0d92544f6fafeeb3239695c \\
    --timeline-id de200bd42b49cc1814412c7e592dd6e9 --timeout 30s
  0/16B3748";

/// Makes the commits of an unpatched PostgreSQL wait for a quorum of safekeepers.
///
/// It streams the primary's write-ahead log (WAL) as its synchronous standby and writes it to the safekeepers. COMMIT
/// returns when a majority of the safekeepers has the WAL on disk.
#[derive(Debug, Parser)]
#[command(name = "walproposer", version)]
pub struct Flags {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands of this program.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "one value, made once at the start")]
pub enum Command {
    /// Serve a primary until stopped.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunFlags),
    /// Settle the end of the log without a primary: hold one election, print the end and exit.
    #[command(after_help = RECOVER_EXAMPLES)]
    Recover(RecoverFlags),
}

/// Flags that name the log and its safekeepers.
#[derive(Debug, Args)]
pub struct ClusterFlags {
    /// Safekeepers that store the log, separated by commas.
    #[arg(long, value_name = "ID@HOST:PORT", value_delimiter = ',', required = true)]
    safekeepers: Vec<SafekeeperAddress>,
    /// Tenant that owns the log, 32 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    tenant_id: TenantId,
    /// Id of the log, 32 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    timeline_id: TimelineId,
    /// File with the token that the safekeepers require; run requires it for changes of members and primary over HTTP, too.
    #[arg(long, value_name = "FILE")]
    auth_token_file: Option<PathBuf>,
}

/// Flags of the log output.
#[derive(Debug, Args)]
pub struct LogFlags {
    /// Format of log lines: text or json.
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// Log level, such as "info" or "info,walproposer=debug" [default: RUST_LOG].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunFlags {
    /// Address of the primary: "host=… port=… user=…" or postgresql://user@host:port
    ///
    /// If it contains a password, set it in the environment: every user of the machine can read a command line.
    #[arg(long, value_name = "CONNINFO", env = "HOLDFAST_PRIMARY", hide_env_values = true)]
    primary: ConnInfo,
    /// Name of this primary, up to 16 letters, digits, '.', '_' and '-'.
    ///
    /// A log that was given to a named primary (walproposer recover --primary-name, or PUT /v1/primary) takes WAL of no
    /// other: a server that was replaced cannot come back by mistake. Without this flag, only a log that was not given to
    /// any primary is written.
    #[arg(long, value_name = "NAME")]
    primary_name: Option<PrimaryName>,
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Physical replication slot on the primary; the slot keeps the WAL that the quorum lacks.
    #[arg(long, value_name = "NAME", default_value = "wp")]
    slot: String,
    /// Name of this standby in synchronous_standby_names [default: application_name of --primary, else wp].
    #[arg(long, value_name = "NAME")]
    application_name: Option<String>,
    /// WAL kept in memory for lagging safekeepers, in bytes; older WAL is read from another safekeeper.
    #[arg(long, value_name = "BYTES", default_value_t = SEND_BUFFER_BYTES_MAX)]
    send_buffer_bytes: u64,
    /// Address of the HTTP port: GET /v1/status /metrics /healthz /readyz, PUT /v1/members /v1/primary /v1/log-level,
    /// DELETE /v1/members/change.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen_http: SocketAddr,
    /// File that receives the bound address, as JSON.
    #[arg(long, value_name = "PATH")]
    address_file: Option<PathBuf>,
    /// Log output.
    #[command(flatten)]
    pub log: LogFlags,
}

/// Flags of `recover`.
#[derive(Debug, Args)]
pub struct RecoverFlags {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Fail after this long, such as 60s or 2m.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Give the log to the primary of this name when the end of the log is settled.
    #[arg(long, value_name = "NAME")]
    primary_name: Option<PrimaryName>,
    /// Print a JSON object instead of the bare position.
    #[arg(long)]
    json: bool,
    /// Log output.
    #[command(flatten)]
    pub log: LogFlags,
}

impl RunFlags {
    /// Checks that the values fit together, and reads the token file.
    pub fn validate(self) -> anyhow::Result<RunConfig> {
        ensure!(
            is_slot_name(&self.slot),
            "--slot {:?}: a slot name has 1 to 63 characters of a-z, 0-9 and _",
            self.slot
        );
        ensure!(
            self.send_buffer_bytes >= SEND_BUFFER_BYTES_MIN,
            "--send-buffer-bytes {}: must be at least {SEND_BUFFER_BYTES_MIN}",
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
            retry_delays: RetryDelays::default(),
            listen_http: self.listen_http,
            address_file: self.address_file,
        })
    }
}

impl RecoverFlags {
    /// Checks that the values fit together, and reads the token file.
    pub fn validate(self) -> anyhow::Result<RecoverConfig> {
        let Self { cluster, timeout, primary_name, json, log: _ } = self;
        Ok(RecoverConfig { cluster: cluster.validate()?, timeout, primary_name, json })
    }
}

impl ClusterFlags {
    fn validate(self) -> anyhow::Result<Cluster> {
        let mut seen = BTreeSet::new();
        for safekeeper in &self.safekeepers {
            ensure!(seen.insert(safekeeper.id), "--safekeepers lists id {} twice", safekeeper.id);
        }
        ensure!(seen.len() <= MEMBERS_MAX, "--safekeepers lists more than {MEMBERS_MAX} safekeepers");
        let token = self.auth_token_file.map(|path| read_token(&path)).transpose()?;
        let id = TenantTimelineId { tenant: self.tenant_id, timeline: self.timeline_id };
        Ok(Cluster { safekeepers: self.safekeepers, id, token })
    }
}

/// True for names that the server allows (PostgreSQL documentation, "Replication Slots"). Such a name is also safe between
/// quotes in a replication command.
fn is_slot_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests;
