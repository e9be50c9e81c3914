//! The command line: raw flags as people write them, and the validated [`Config`] that the rest of the program uses.
//! Opens no file and no socket. Called by `main`, and by tests that build a [`Config`] by hand.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use thiserror::Error;

use crate::scram::SCRAM_ITERATIONS_DEFAULT;

pub use crate::auth::ClientAuth;
pub use crate::proxy_protocol::ProxyProtocol;
pub use crate::tls::files::{TlsFiles, TlsSources};

/// One address for many PostgreSQL databases: finds the one that a client wants, authenticates the client, wakes the
/// database if it is stopped, and passes bytes.
///
/// A client names its database ("endpoint") by the first label of the host name that it connects to, by
/// "endpoint=NAME" in its options, or as USER@NAME.
#[derive(Debug, Parser)]
#[command(version, after_long_help = EXAMPLES)]
pub struct Flags {
    /// Where clients connect; port 0 takes a free one, see --address-file. May be repeated
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: Vec<String>,

    /// Where the service behind link logins reports who may come in: a small PostgreSQL server, for trusted networks only.
    /// It listens only with --control-plane link:PATH
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen_mgmt: String,

    /// Where the HTTP port for operators listens: /v1/sessions, /v1/cache, /metrics, /healthz, /readyz
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen_http: String,

    /// Written once all ports are open: {"pid":…,"pg":"host:port","pg_all":["host:port",…],"http":"host:port"}
    #[arg(long, value_name = "PATH")]
    address_file: Option<PathBuf>,

    /// Certificate chain (PEM); sessions must then use TLS. May be repeated: the server name of the client chooses, and
    /// the first one is for all others
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    tls_cert: Vec<PathBuf>,

    /// Private key (PEM) of the --tls-cert at the same place
    #[arg(long, value_name = "PATH", requires = "tls_cert")]
    tls_key: Vec<PathBuf>,

    /// More certificates: NAME/tls.crt with NAME/tls.key, or NAME.crt with NAME.key, in this directory. Names of the
    /// server are found in the certificates themselves. All certificates are read again at SIGHUP and when a file changes
    #[arg(long, value_name = "PATH")]
    tls_certs_dir: Option<PathBuf>,

    /// Clients must show a certificate that one of the authorities in this file (PEM) has signed; besides their password
    #[arg(long, value_name = "PATH")]
    tls_client_ca: Option<PathBuf>,

    /// Connections to databases that the control plane says nothing about: disable does not encrypt, require encrypts and
    /// believes any certificate, verify-full wants one for the host that --compute-tls-ca vouches for
    #[arg(long, value_name = "MODE", default_value = "disable", value_parser = ["disable", "require", "verify-full"])]
    compute_tls: String,

    /// Authorities for --compute-tls verify-full (PEM)
    #[arg(long, value_name = "PATH")]
    compute_tls_ca: Option<PathBuf>,

    /// Whether connections begin with the PROXY protocol, version 2, which says where they really come from. Only for
    /// ports that nobody but the load balancer reaches: required, optional or rejected
    #[arg(long, value_name = "WHETHER", default_value = "rejected")]
    proxy_protocol_v2: ProxyProtocol,

    /// Connections at the same time; one more is refused with SQLSTATE 53300. 0 is without limit
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    max_connections: usize,

    /// The same for connections from one IPv4 address or one /64 of IPv6
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    max_connections_per_ip: usize,

    /// Who knows the endpoints, and the TOML file that says the rest. file: addresses, roles and start commands are in it.
    /// http: a service is asked. auth_query: as file, but the databases themselves are asked for verifiers. link: people
    /// log in with a browser, see --listen-mgmt
    #[arg(long, value_name = "KIND:PATH")]
    control_plane: String,

    /// How clients prove that they know their password
    #[arg(long, value_name = "METHOD", value_enum, default_value_t)]
    client_auth: ClientAuth,

    /// Secret from which salts for unknown roles are made, so that nobody can tell them from known ones; made if it is
    /// not there. Without it the TLS key serves, until it is exchanged. Share it between proxies of the same endpoints
    #[arg(long, value_name = "PATH")]
    mock_secret_file: Option<PathBuf>,

    /// How often the databases hash a password (their scram_iterations). Roles that do not exist show the same number, so
    /// that nobody can tell them from known ones
    #[arg(long, value_name = "ROUNDS", default_value_t = SCRAM_ITERATIONS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    scram_iterations: u32,

    /// How long a client may take from its first byte until it is authenticated, TLS included
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    login_timeout: u64,

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
  PGPASSWORD=\"endpoint=main;PASSWORD\" psql \"host=10.0.0.1 sslmode=require user=app dbname=app\"

Other control planes: http:PATH, auth_query:PATH, link:PATH; an example of each is in proxy/examples.

Signals: SIGTERM takes no new sessions and lets the others finish, SIGINT ends at once.";

/// What the program runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: Vec<String>,
    /// Where the management port listens, with [`ControlPlaneSource::Link`].
    pub listen_mgmt: String,
    /// Where the HTTP port listens.
    pub listen_http: String,
    /// Where to tell the addresses.
    pub address_file: Option<PathBuf>,
    /// Certificates. Sessions are in plain when there is none.
    pub tls: TlsSources,
    /// To computes that the control plane says nothing about.
    pub compute_tls: ComputeTls,
    /// Whether connections begin with the PROXY protocol.
    pub proxy_protocol: ProxyProtocol,
    /// Connections at the same time; 0 is without limit.
    pub connections_max: usize,
    /// Connections from one address at the same time; 0 is without limit.
    pub connections_per_source_max: usize,
    /// Who knows the endpoints.
    pub control_plane: ControlPlaneSource,
    /// How clients prove that they know their password.
    pub client_auth: ClientAuth,
    /// The secret behind the salts of unknown roles.
    pub mock_secret_file: Option<PathBuf>,
    /// Rounds of roles that do not exist.
    pub scram_iterations: u32,
    /// From the first byte to authenticated.
    pub login_timeout: Duration,
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

/// How connections to computes are encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ComputeTls {
    /// Not at all.
    Disable,
    /// Encrypted, with whomever.
    Require,
    /// Encrypted, and the certificate must be for the host.
    VerifyFull {
        /// Who may vouch for it, PEM.
        authorities: PathBuf,
    },
}

/// Who knows the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlPlaneSource {
    /// A file that has everything.
    File(PathBuf),
    /// A service over HTTP.
    Http(PathBuf),
    /// A file with addresses; verifiers are in the databases.
    AuthQuery(PathBuf),
    /// Logins with a browser.
    Link(PathBuf),
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
    /// Authorities for a check that does not take place, or a check without authorities.
    #[error("--compute-tls {mode} and --compute-tls-ca: verify-full needs it, and nothing else does")]
    ComputeAuthorities {
        /// The mode.
        mode: String,
    },
    /// Certificates of clients where there is no TLS.
    #[error("--tls-client-ca needs --tls-cert or --tls-certs-dir")]
    ClientAuthority,
    /// Not a known kind of control plane.
    #[error(
        "--control-plane {0}: expected file:PATH, http:PATH, auth_query:PATH or link:PATH, for example file:endpoints.toml"
    )]
    ControlPlane(String),
}

impl Flags {
    /// Checks the flags.
    pub fn validate(self) -> Result<Config, ConfigError> {
        self.listen.iter().try_for_each(|address| check_address("--listen", address))?;
        check_address("--listen-http", &self.listen_http)?;
        check_address("--listen-mgmt", &self.listen_mgmt)?;
        if self.tls_cert.len() != self.tls_key.len() {
            return Err(ConfigError::Pairs { certificates: self.tls_cert.len(), keys: self.tls_key.len() });
        }
        let pairs = self.tls_cert.into_iter().zip(self.tls_key);
        let tls = TlsSources {
            pairs: pairs.map(|(certificate, key)| TlsFiles { certificate, key }).collect(),
            directory: self.tls_certs_dir,
            client_authority: self.tls_client_ca,
        };
        if tls.client_authority.is_some() && tls.pairs.is_empty() && tls.directory.is_none() {
            return Err(ConfigError::ClientAuthority);
        }
        let compute_tls = match (self.compute_tls.as_str(), self.compute_tls_ca) {
            ("disable", None) => ComputeTls::Disable,
            ("require", None) => ComputeTls::Require,
            ("verify-full", Some(authorities)) => ComputeTls::VerifyFull { authorities },
            (mode, _) => return Err(ConfigError::ComputeAuthorities { mode: mode.to_owned() }),
        };
        let control_plane = match self.control_plane.split_once(':') {
            Some(("file", path)) if !path.is_empty() => ControlPlaneSource::File(path.into()),
            Some(("http", path)) if !path.is_empty() => ControlPlaneSource::Http(path.into()),
            Some(("auth_query", path)) if !path.is_empty() => ControlPlaneSource::AuthQuery(path.into()),
            Some(("link", path)) if !path.is_empty() => ControlPlaneSource::Link(path.into()),
            _ => return Err(ConfigError::ControlPlane(self.control_plane)),
        };
        Ok(Config {
            listen: self.listen,
            listen_mgmt: self.listen_mgmt,
            listen_http: self.listen_http,
            address_file: self.address_file,
            tls,
            compute_tls,
            proxy_protocol: self.proxy_protocol_v2,
            connections_max: self.max_connections,
            connections_per_source_max: self.max_connections_per_ip,
            control_plane,
            client_auth: self.client_auth,
            scram_iterations: self.scram_iterations,
            mock_secret_file: self.mock_secret_file,
            login_timeout: Duration::from_secs(self.login_timeout),
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
        assert_eq!(
            (config.listen.as_slice(), &config.tls),
            (&["127.0.0.1:0".to_owned()][..], &TlsSources::default())
        );
        assert_eq!(
            (config.compute_tls, config.proxy_protocol),
            (ComputeTls::Disable, ProxyProtocol::Rejected)
        );
        assert_eq!((config.connections_max, config.connections_per_source_max), (0, 0));
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
        assert_eq!(config(&all).unwrap().tls.pairs[1], second);
    }

    #[test]
    fn databases_are_believed_as_the_flags_say() {
        let tls = |flags: &[&str]| {
            config(&[&["--control-plane", "file:e"], flags].concat()).map(|config| config.compute_tls)
        };
        assert_eq!(tls(&["--compute-tls", "require"]), Ok(ComputeTls::Require));
        let verified = tls(&["--compute-tls", "verify-full", "--compute-tls-ca", "ca.pem"]);
        assert_eq!(verified, Ok(ComputeTls::VerifyFull { authorities: "ca.pem".into() }));
        for flags in [
            &["--compute-tls", "verify-full"][..],
            &["--compute-tls-ca", "ca.pem"],
            &["--compute-tls", "require", "--compute-tls-ca", "ca.pem"],
        ] {
            assert!(tls(flags).unwrap_err().contains("verify-full needs it"), "{flags:?}");
        }
    }

    #[test]
    fn several_ports_and_limits_are_taken() {
        let config = config(&[
            "--control-plane",
            "file:e",
            "--listen",
            "[::1]:1",
            "--listen",
            "127.0.0.1:2",
            "--max-connections",
            "7",
            "--max-connections-per-ip",
            "3",
            "--proxy-protocol-v2",
            "optional",
        ]);
        let config = config.unwrap();
        assert_eq!(config.listen, ["[::1]:1", "127.0.0.1:2"]);
        assert_eq!((config.connections_max, config.connections_per_source_max), (7, 3));
        assert_eq!(config.proxy_protocol, ProxyProtocol::Optional);
    }

    #[test]
    fn a_bad_flag_is_refused_with_a_sentence_that_names_it() {
        let plane = ["--control-plane", "file:e"];
        for (flags, part) in [
            (&[][..], "--control-plane <KIND:PATH>"),
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
            (&[plane[0], plane[1], "--login-timeout", "0"], "--login-timeout"),
            (&[plane[0], plane[1], "--listen", "h:1", "--listen", "h"], "--listen h: expected HOST:PORT"),
            (&[plane[0], plane[1], "--proxy-protocol-v2", "maybe"], "required, optional or rejected"),
            (&[plane[0], plane[1], "--compute-tls", "prefer"], "disable, require, verify-full"),
            (&[plane[0], plane[1], "--tls-client-ca", "ca"], "--tls-client-ca needs --tls-cert"),
        ] {
            let error = config(flags).unwrap_err();
            assert!(error.contains(part), "{flags:?}: {error}");
        }
    }

    #[test]
    fn the_readme_has_every_flag_and_its_default() {
        use clap::CommandFactory;
        let readme = include_str!("../README.md");
        for flag in Flags::command().get_arguments() {
            let Some(name) = flag.get_long().filter(|name| !["help", "version"].contains(name)) else {
                continue;
            };
            let line =
                readme.lines().find(|line| line.starts_with('|') && line.contains(&format!("`--{name}`")));
            let line = line.unwrap_or_else(|| panic!("no --{name}"));
            for default in flag.get_default_values() {
                assert!(line.contains(&format!("| `{}`", default.to_str().unwrap())), "{line}");
            }
        }
    }

    #[test]
    fn the_help_is_consistent() {
        use clap::CommandFactory;
        Flags::command().debug_assert();
    }
}
