//! Command line: the flags as clap reads them, and the validated [`Config`] that the rest of the program uses.
//!
//! Reads the files that flags name, but opens no socket and touches no data. Called by `main`; tests build a [`Config`]
//! directly.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use postgres_backend::{ServerTls, TlsError};
use thiserror::Error;
use utils::{ByteSize, is_host_port};
use wal_store::Retention;
use wal_types::NodeId;

use crate::auth::Token;
use crate::disk::DiskLimits;

/// Bytes that are read of the token file. A longer file cannot be a token.
const TOKEN_FILE_BYTES_MAX: u64 = 16 * 1024;

/// Stores PostgreSQL's write-ahead log. A quorum of safekeepers, usually 2 of 3, decides what is committed.
///
/// Each safekeeper has a number of its own, and its data directory belongs to this number for good. The operator creates
/// timelines over HTTP (POST /v1/timelines). A walproposer, or a compute that speaks the public proposer protocol, then
/// pushes WAL over the PostgreSQL port, and standbys and pg_receivewal read it there.
#[derive(Debug, Parser)]
#[command(version, after_long_help = EXAMPLES)]
pub struct Flags {
    /// Number of this safekeeper, from 1, unique in the cluster; a data directory keeps its number for good
    #[arg(long, value_name = "NUMBER")]
    id: u64,

    /// Directory of the WAL; created when it does not exist
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Address for proposers, standbys and archivers; port 0 takes a free port, see --address-file
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen_pg: String,

    /// Address of the admin HTTP port: /v1/status, /v1/timelines, /v1/log-level, /metrics, /healthz, /readyz
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen_http: String,

    /// File that is written when both ports are open: {"pid":…,"id":…,"pg":"host:port","http":"host:port"}
    #[arg(long, value_name = "PATH")]
    address_file: Option<PathBuf>,

    /// Address at which clients reach the PostgreSQL port, when it differs from --listen-pg; shown in /v1/status
    #[arg(long, value_name = "HOST:PORT")]
    pg_advertise: Option<String>,

    /// Certificate chain (PEM); connections to the PostgreSQL port must then use TLS
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key (PEM) of --tls-cert
    #[arg(long, value_name = "PATH", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// File with the token that clients send as password and HTTP clients as bearer; without it every client is trusted
    #[arg(long, value_name = "PATH")]
    auth_token_file: Option<PathBuf>,

    /// Committed WAL of each timeline is kept up to this size, for standbys and archivers that connect again
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(Retention::default().wal_keep_bytes))]
    wal_keep: ByteSize,

    /// WAL that is kept for a standby or archiver that is connected and behind, up to this size; 0 for none
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(Retention::default().reader_keep_bytes_max))]
    reader_keep: ByteSize,

    /// WAL that is kept for a member that is away or behind, up to this size; beyond it the member must be re-seeded
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(Retention::default().member_keep_bytes_max))]
    member_keep: ByteSize,

    /// WAL that is kept for a replication slot, up to this size; a slot that needs more is lost
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(Retention::default().slot_keep_bytes_max))]
    slot_keep: ByteSize,

    /// Percent of the disk from which on old WAL is given up: what nothing needs, then what readers lack, then what members
    /// lack; 100 for never
    #[arg(long, value_name = "PERCENT", default_value_t = DiskLimits::default().high_percent,
        value_parser = clap::value_parser!(u8).range(10..=100))]
    disk_high: u8,

    /// Free room below which slots are given up as well, the largest first; without this flag 2 GB or 1 % of the disk, the
    /// larger, and at most 10 %
    #[arg(long, value_name = "SIZE")]
    disk_stop: Option<ByteSize>,

    /// Format of the log on stderr
    #[arg(long, value_name = "text|json", default_value = "text")]
    log_format: telemetry::LogFormat,

    /// Level of the log, for example info or info,safekeeper=debug; without this flag RUST_LOG counts
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  A safekeeper on fixed ports:
    safekeeper --id 1 --data-dir /var/lib/safekeeper --listen-pg 10.0.0.1:5454 --listen-http 127.0.0.1:7676

  Create a timeline on each safekeeper; each answers the replica_id of its copy. Then tell each copy who the members are:
    curl -X POST http://127.0.0.1:7676/v1/timelines -H 'content-type: application/json' -d '{
      \"tenant_id\": \"cf0480929707ee75372337efaa5ecf96\", \"timeline_id\": \"112ded66422aa5e953e5440fa5427ac4\",
      \"start_lsn\": \"0/1000000\", \"system_id\": \"7710999284697415315\", \"pg_version\": 150018,
      \"wal_segment_size\": 16777216, \"dialect\": \"holdfast\"}'
    curl -X PUT http://127.0.0.1:7676/v1/timelines/cf04…/112d…/bootstrap -d '{\"members\": [
      {\"id\": 1, \"host\": \"10.0.0.1\", \"port\": 5454, \"replica_id\": \"…\"},
      {\"id\": 2, \"host\": \"10.0.0.2\", \"port\": 5454, \"replica_id\": \"…\"},
      {\"id\": 3, \"host\": \"10.0.0.3\", \"port\": 5454, \"replica_id\": \"…\"}]}'
    curl http://127.0.0.1:7676/v1/timelines

  Read the WAL with PostgreSQL's own tool:
    pg_receivewal -D wal -d \"host=10.0.0.1 port=5454 user=any options='-c tenant_id=cf04… -c timeline_id=112d…'\"

Signals: SIGTERM ends the program when everything received is on disk, SIGINT and SIGQUIT at once. No acknowledged WAL
is lost either way.";

/// The validated configuration. Every field is valid in itself; addresses are resolved when they are bound.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of this safekeeper.
    pub id: NodeId,
    /// Directory of the WAL.
    pub data_dir: PathBuf,
    /// Address of the PostgreSQL port, `HOST:PORT`.
    pub listen_pg: String,
    /// Address of the admin HTTP port, `HOST:PORT`.
    pub listen_http: String,
    /// File that the addresses are written to.
    pub address_file: Option<PathBuf>,
    /// Address at which clients reach the PostgreSQL port.
    pub pg_advertise: Option<String>,
    /// Certificate and key. With them connections to the PostgreSQL port must use TLS.
    pub tls: Option<ServerTls>,
    /// The token that clients have to present. Without one every client is trusted.
    pub token: Option<Arc<Token>>,
    /// How much old WAL is kept.
    pub retention: Retention,
    /// When old WAL is given up for want of room.
    pub disk_limits: DiskLimits,
    /// Format of the log.
    pub log_format: telemetry::LogFormat,
    /// Level of the log.
    pub log_level: Option<String>,
}

/// A flag whose value cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Zero means "no node" in the protocol.
    #[error("--id 0 is not possible: safekeepers are numbered from 1")]
    IdZero,
    /// Not `host:port`.
    #[error("{flag} {value}: expected HOST:PORT, for example 127.0.0.1:5454")]
    Address {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
    },
    /// Certificate or key cannot be used.
    #[error("--tls-cert, --tls-key: {0}")]
    Tls(#[from] TlsError),
    /// The token file cannot be read.
    #[error("--auth-token-file {path}: {error}", path = path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The token file holds no token.
    #[error("--auth-token-file {path}: expected one line with a token of 1 to 1024 printable characters", path = path.display())]
    Token {
        /// The file.
        path: PathBuf,
    },
}

impl Flags {
    /// Checks the flags, and reads the certificate, the key and the token.
    pub fn validate(self) -> Result<Config, ConfigError> {
        if self.id == 0 {
            return Err(ConfigError::IdZero);
        }
        check_address("--listen-pg", &self.listen_pg)?;
        check_address("--listen-http", &self.listen_http)?;
        if let Some(address) = &self.pg_advertise {
            check_address("--pg-advertise", address)?;
        }
        let tls_files = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        let tls =
            tls_files.map(|(certificate, key)| ServerTls::from_pem_files(certificate, key)).transpose()?;
        Ok(Config {
            id: NodeId(self.id),
            data_dir: self.data_dir,
            listen_pg: self.listen_pg,
            listen_http: self.listen_http,
            address_file: self.address_file,
            pg_advertise: self.pg_advertise,
            tls,
            token: self.auth_token_file.as_deref().map(read_token).transpose()?.map(Arc::new),
            retention: Retention {
                wal_keep_bytes: self.wal_keep.0,
                reader_keep_bytes_max: self.reader_keep.0,
                member_keep_bytes_max: self.member_keep.0,
                slot_keep_bytes_max: self.slot_keep.0,
            },
            disk_limits: DiskLimits {
                high_percent: self.disk_high,
                stop_free_bytes: self.disk_stop.map(|size| size.0),
            },
            log_format: self.log_format,
            log_level: self.log_level,
        })
    }
}

fn check_address(flag: &'static str, value: &str) -> Result<(), ConfigError> {
    if is_host_port(value) { Ok(()) } else { Err(ConfigError::Address { flag, value: value.to_owned() }) }
}

fn read_token(path: &Path) -> Result<Token, ConfigError> {
    let unreadable = |error| ConfigError::TokenFile { path: path.to_owned(), error };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    Token::new(text.trim_end()).ok_or_else(|| ConfigError::Token { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &[&str]) -> Result<Config, String> {
        let words = ["safekeeper", "--data-dir", "/d"].iter().chain(extra);
        let flags = Flags::try_parse_from(words).map_err(|error| error.to_string())?;
        flags.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn flags_need_only_id_and_directory() {
        let config = config(&["--id", "7"]).unwrap();
        assert_eq!(config.id, NodeId(7));
        assert_eq!(config.data_dir, Path::new("/d"));
        assert_eq!((config.listen_pg.as_str(), config.listen_http.as_str()), ("127.0.0.1:0", "127.0.0.1:0"));
        assert!(config.tls.is_none() && config.token.is_none());
        assert_eq!(config.retention, Retention::default());
    }

    #[test]
    fn disk_flags_take_percent_and_size() {
        assert_eq!(config(&["--id", "1"]).unwrap().disk_limits, DiskLimits::default());
        let flags = ["--id", "1", "--disk-high", "90", "--disk-stop", "1GB"];
        let expected = DiskLimits { high_percent: 90, stop_free_bytes: Some(1 << 30) };
        assert_eq!(config(&flags).unwrap().disk_limits, expected);
    }

    #[test]
    fn keep_flags_take_sizes() {
        let words = "--id 1 --wal-keep 64kB --member-keep 3GB --slot-keep 5MB";
        let flags: Vec<&str> = words.split(' ').chain(["--reader-keep", "2 TB"]).collect();
        let expected = Retention {
            wal_keep_bytes: 64 << 10,
            reader_keep_bytes_max: 2 << 40,
            member_keep_bytes_max: 3 << 30,
            slot_keep_bytes_max: 5 << 20,
        };
        assert_eq!(config(&flags).unwrap().retention, expected);
    }

    #[test]
    fn validate_error_names_the_flag() {
        for (flags, part) in [
            (&["--id", "0"][..], "--id 0 is not possible"),
            (&["--id", "one"], "--id <NUMBER>"),
            (&[], "--id <NUMBER>"),
            (&["--id", "1", "--listen-pg", "5454"], "--listen-pg 5454: expected HOST:PORT"),
            (&["--id", "1", "--listen-http", ":80"], "--listen-http :80: expected HOST:PORT"),
            (&["--id", "1", "--pg-advertise", "h:99999"], "--pg-advertise h:99999"),
            (&["--id", "1", "--tls-cert", "c"], "--tls-key"),
            (&["--id", "1", "--tls-cert", "/nonexistent/c", "--tls-key", "k"], "/nonexistent/c: I/O error"),
            (&["--id", "1", "--wal-keep", "1 GiB"], "'--wal-keep <SIZE>': expected a number of bytes"),
            (&["--id", "1", "--reader-keep", "99999999999TB"], "'99999999999TB' for '--reader-keep <SIZE>'"),
            (&["--id", "1", "--log-format", "xml"], "log format"),
            (&["--id", "1", "--auth-token-file", "/nonexistent/token"], "/nonexistent/token: No such file"),
            (&["--id", "1", "--auth-token-file", "/dev/null"], "expected one line with a token"),
        ] {
            let error = config(flags).unwrap_err();
            assert!(error.contains(part), "{flags:?}: {error}");
        }
    }

    #[test]
    fn flags_are_consistent() {
        use clap::CommandFactory;
        Flags::command().debug_assert();
    }
}
