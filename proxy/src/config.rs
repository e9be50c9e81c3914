//! The command line: raw flags as people write them, and the validated [`Config`] that the rest of the program uses.
//! Opens no file and no socket. Called by `main`, and by tests that build a [`Config`] by hand.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use thiserror::Error;

pub use crate::tls::TlsFiles;

/// One address for many PostgreSQL databases: finds the one that a client wants, authenticates the client, wakes the
/// database if it is stopped, and passes bytes.
///
/// A client names its database ("endpoint") by the first label of the host name that it connects to, by
/// "endpoint=NAME" in its options, or as USER@NAME.
#[derive(Debug, Parser)]
#[command(version, after_long_help = EXAMPLES)]
pub struct Flags {
    /// Where clients connect; port 0 takes a free one, see --address-file
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: String,

    /// Where the HTTP port for operators listens: /v1/sessions, /v1/cache, /metrics, /healthz, /readyz
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen_http: String,

    /// Written once both ports are open: {"pid":…,"pg":"host:port","http":"host:port"}
    #[arg(long, value_name = "PATH")]
    address_file: Option<PathBuf>,

    /// Certificate chain (PEM); sessions must then use TLS. May be repeated: the server name of the client chooses, and
    /// the first one is for all others
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    tls_cert: Vec<PathBuf>,

    /// Private key (PEM) of the --tls-cert at the same place
    #[arg(long, value_name = "PATH", requires = "tls_cert")]
    tls_key: Vec<PathBuf>,

    /// Who knows the endpoints: file:PATH for a TOML file with addresses, roles and start commands
    #[arg(long, value_name = "file:PATH")]
    control_plane: String,

    /// Secret from which salts for unknown roles are made, so that nobody can tell them from known ones; made if it is
    /// not there. Without it the TLS key serves, until it is exchanged. Share it between proxies of the same endpoints
    #[arg(long, value_name = "PATH")]
    mock_secret_file: Option<PathBuf>,

    /// How long an authenticated client waits for its database, a start included
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    connect_timeout: u64,

    /// After SIGTERM: how long sessions that have nothing to do may stay
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    drain_idle: u64,

    /// After SIGTERM: how long the others may take until they are cut
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    drain_timeout: u64,

    /// Look of a log line on stderr
    #[arg(long, value_name = "text|json", default_value = "text")]
    log_format: telemetry::LogFormat,

    /// What is logged, for example info or info,proxy=debug; RUST_LOG counts when it is not given
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

const EXAMPLES: &str = "\
Example: endpoints.toml, with the verifier that PostgreSQL itself has (SELECT rolname, rolpassword FROM pg_authid):

  [endpoints.main]
  address = \"127.0.0.1:5432\"
  start = [\"pg_ctl\", \"start\", \"-w\", \"-D\", \"/var/lib/postgresql/main\"]    # returns when it takes connections

  [endpoints.main.roles]
  app = \"SCRAM-SHA-256$4096:…\"

With a certificate for *.db.example.com:

  proxy --listen 0.0.0.0:5432 --tls-cert cert.pem --tls-key key.pem --control-plane file:endpoints.toml
  psql \"postgresql://app@main.db.example.com/app?sslmode=verify-full\"

Or, where the host name cannot tell the endpoint:

  psql \"postgresql://app@10.0.0.1/app?sslmode=require&options=endpoint%3Dmain\"
  psql \"host=10.0.0.1 sslmode=require user=app@main dbname=app\"

Signals: SIGTERM takes no new sessions and lets the others finish, SIGINT ends at once.";

/// What the program runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: String,
    /// Where the HTTP port listens.
    pub listen_http: String,
    /// Where to tell the addresses.
    pub address_file: Option<PathBuf>,
    /// Certificates, the one for unknown names first. Sessions are in plain when there is none.
    pub tls: Vec<TlsFiles>,
    /// Who knows the endpoints.
    pub control_plane: ControlPlaneSource,
    /// The secret behind the salts of unknown roles.
    pub mock_secret_file: Option<PathBuf>,
    /// From authenticated to connected.
    pub connect_timeout: Duration,
    /// For idle sessions in a drain.
    pub drain_idle: Duration,
    /// For all sessions in a drain.
    pub drain_timeout: Duration,
    /// Look of the log.
    pub log_format: telemetry::LogFormat,
    /// What is logged.
    pub log_level: Option<String>,
}

/// Who knows the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlPlaneSource {
    /// A TOML file.
    File(PathBuf),
}

/// A flag whose value cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not `host:port`.
    #[error("{flag} {value}: expected HOST:PORT, for example 127.0.0.1:5432")]
    Address {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
    },
    /// A certificate without a key, or a key without a certificate.
    #[error("--tls-cert is given {certificates} times and --tls-key {keys} times: they go in pairs")]
    Pairs {
        /// Certificates.
        certificates: usize,
        /// Keys.
        keys: usize,
    },
    /// Not a known kind of control plane.
    #[error("--control-plane {0}: expected file:PATH, for example file:endpoints.toml")]
    ControlPlane(String),
}

impl Flags {
    /// Checks the flags.
    pub fn validate(self) -> Result<Config, ConfigError> {
        check_address("--listen", &self.listen)?;
        check_address("--listen-http", &self.listen_http)?;
        if self.tls_cert.len() != self.tls_key.len() {
            return Err(ConfigError::Pairs { certificates: self.tls_cert.len(), keys: self.tls_key.len() });
        }
        let pairs = self.tls_cert.into_iter().zip(self.tls_key);
        let control_plane = match self.control_plane.split_once(':') {
            Some(("file", path)) if !path.is_empty() => ControlPlaneSource::File(path.into()),
            _ => return Err(ConfigError::ControlPlane(self.control_plane)),
        };
        Ok(Config {
            listen: self.listen,
            listen_http: self.listen_http,
            address_file: self.address_file,
            tls: pairs.map(|(certificate, key)| TlsFiles { certificate, key }).collect(),
            control_plane,
            mock_secret_file: self.mock_secret_file,
            connect_timeout: Duration::from_secs(self.connect_timeout),
            drain_idle: Duration::from_secs(self.drain_idle),
            drain_timeout: Duration::from_secs(self.drain_timeout),
            log_format: self.log_format,
            log_level: self.log_level,
        })
    }
}

fn check_address(flag: &'static str, value: &str) -> Result<(), ConfigError> {
    let well_formed =
        value.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if well_formed { Ok(()) } else { Err(ConfigError::Address { flag, value: value.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &[&str]) -> Result<Config, String> {
        let flags =
            Flags::try_parse_from(["proxy"].iter().chain(extra)).map_err(|error| error.to_string())?;
        flags.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn a_control_plane_is_enough() {
        let config = config(&["--control-plane", "file:e.toml"]).unwrap();
        assert_eq!(config.control_plane, ControlPlaneSource::File("e.toml".into()));
        assert_eq!((config.listen.as_str(), config.tls.len()), ("127.0.0.1:0", 0));
        assert_eq!(config.connect_timeout, Duration::from_secs(60));
    }

    #[test]
    fn certificates_and_keys_go_in_pairs() {
        let all = [
            "--tls-cert",
            "c1",
            "--tls-key",
            "k1",
            "--tls-cert",
            "c2",
            "--tls-key",
            "k2",
            "--control-plane",
            "file:e",
        ];
        let second = TlsFiles { certificate: "c2".into(), key: "k2".into() };
        assert_eq!(config(&all).unwrap().tls[1], second);
    }

    #[test]
    fn a_bad_flag_is_refused_with_a_sentence_that_names_it() {
        let plane = ["--control-plane", "file:e"];
        for (flags, part) in [
            (&[][..], "--control-plane <file:PATH>"),
            (&["--control-plane", "e.toml"], "--control-plane e.toml: expected file:PATH"),
            (&["--control-plane", "file:"], "expected file:PATH"),
            (&[plane[0], plane[1], "--listen", "5432"], "--listen 5432: expected HOST:PORT"),
            (&[plane[0], plane[1], "--listen-http", ":80"], "--listen-http :80: expected HOST:PORT"),
            (&[plane[0], plane[1], "--tls-cert", "c"], "--tls-key"),
            (
                &[plane[0], plane[1], "--tls-cert", "c", "--tls-key", "k", "--tls-key", "k"],
                "they go in pairs",
            ),
            (&[plane[0], plane[1], "--connect-timeout", "0"], "--connect-timeout"),
        ] {
            let error = config(flags).unwrap_err();
            assert!(error.contains(part), "{flags:?}: {error}");
        }
    }

    #[test]
    fn the_help_is_consistent() {
        use clap::CommandFactory;
        Flags::command().debug_assert();
    }
}
