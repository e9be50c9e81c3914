//! Flags: the command line and its checks. Called by `main`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::TypedValueParser;
use scram::{ITERATIONS_DEFAULT, ITERATIONS_MAX};
use utils::is_host_port;

use super::options::{CacheOptions, RateOptions};
use super::settings::{
    Caches, ClientAuth, ComputeTls, Config, ConfigError, ControlPlaneSource, LoginLimits, ProxyProtocol,
    TlsFiles, TlsSources,
};

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

    /// Where the service behind browser logins reports confirmations: a small PostgreSQL server, for trusted networks only. It
    /// listens only with --control-plane link:PATH
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

    /// Connections to databases for which the control plane sets nothing: disable does not encrypt, require encrypts and accepts
    /// any certificate, verify-full wants one for the host, signed by an authority of --compute-tls-ca
    #[arg(long, value_name = "MODE", default_value = "disable", value_parser = ["disable", "require", "verify-full"])]
    compute_tls: String,

    /// Authorities for --compute-tls verify-full (PEM)
    #[arg(long, value_name = "PATH")]
    compute_tls_ca: Option<PathBuf>,

    /// Whether connections begin with the PROXY protocol, version 2, which says where they really come from. Only for
    /// ports that only the load balancer reaches: required, optional or rejected
    #[arg(long, value_name = "WHETHER", default_value = "rejected")]
    proxy_protocol_v2: ProxyProtocol,

    /// Threads that serve connections. Without the flag there is one for each core
    #[arg(long, value_name = "COUNT")]
    threads: Option<NonZeroUsize>,

    /// Open connections, at most; one more is refused with SQLSTATE 53300. 0 is no limit
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    max_connections: usize,

    /// Open connections from one IPv4 address or one IPv6 /64, at most
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    max_connections_per_ip: usize,

    /// New connections from one IPv4 /24 or one IPv6 /64: a rate per second, and a burst after a pause. One more is refused
    /// with SQLSTATE 53300. "off" is no limit
    #[arg(long, value_name = "OPTIONS", default_value = "rate=1000,burst=5000")]
    network_limit: RateOptions,

    /// The same for logins to one endpoint, successful or not
    #[arg(long, value_name = "OPTIONS", default_value = "rate=1000,burst=5000")]
    endpoint_limit: RateOptions,

    /// How often one endpoint is woken. Clients that wait for the same wake count once. One more is refused with SQLSTATE 53400
    #[arg(long, value_name = "OPTIONS", default_value = "rate=1,burst=20")]
    wake_limit: RateOptions,

    /// Cache of database addresses: how many are kept, and for how long. Keys are size; ttl (or absolute_ttl), since the
    /// answer; idle_ttl, since the last use; negative_ttl, for what does not exist. size=0 switches a cache off
    #[arg(long, value_name = "OPTIONS", default_value = "size=4000,ttl=5m")]
    wake_compute_cache: CacheOptions,

    /// The same for verifiers of roles. Its negative_ttl, for roles that do not exist, defaults to the ttl, so that a client
    /// cannot tell them apart
    #[arg(long, value_name = "OPTIONS", default_value = "size=10000,ttl=1m")]
    role_secret_cache: CacheOptions,

    /// The same for the allowlists of endpoints. Its negative_ttl is for endpoints that do not exist
    #[arg(long, value_name = "OPTIONS", default_value = "size=10000,ttl=1m,negative_ttl=5s")]
    access_rules_cache: CacheOptions,

    /// Limits that can be changed while the proxy runs: TOML, with max_connections, max_connections_per_ip, network_limit,
    /// endpoint_limit and wake_limit in place of these flags. Read again at SIGHUP and when it changes
    #[arg(long, value_name = "PATH")]
    limits_file: Option<PathBuf>,

    /// The provider of endpoints, and its TOML file. file: the file has addresses, roles and start commands. http: a service is
    /// asked. auth_query: as file, but the databases themselves are asked for verifiers. link: people log in with a browser,
    /// see --listen-mgmt
    #[arg(long, value_name = "KIND:PATH")]
    control_plane: String,

    /// How clients prove their password
    #[arg(long, value_name = "METHOD", value_enum, default_value_t)]
    client_auth: ClientAuth,

    /// File with the secret from which salts for unknown roles are made, so that a client cannot tell them from known ones.
    /// Created when missing. Without the flag the TLS key serves, until it is replaced. Proxies of the same endpoints share it
    #[arg(long, value_name = "PATH")]
    mock_secret_file: Option<PathBuf>,

    /// The databases' scram_iterations. Roles that do not exist show the same number, so that a client cannot tell them from
    /// known ones
    #[arg(long, value_name = "ROUNDS", default_value_t = ITERATIONS_DEFAULT, value_parser = iterations_parser())]
    scram_iterations: NonZeroU32,

    /// How long a client may take from its first byte until it is authenticated, TLS included
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    login_timeout: u64,

    /// How long an authenticated client waits for its database, a start included
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    connect_timeout: u64,

    /// A Unix socket. A new proxy takes the listening sockets over from the running proxy with the same flag, which
    /// then drains. A cancel request that reaches the new proxy finds the sessions of the old one. For processes of
    /// one account
    #[arg(long, value_name = "PATH")]
    handover_socket: Option<PathBuf>,

    /// After SIGTERM: how long the ports stay open, so that load balancers see /readyz fail. New clients are told to reconnect
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    drain_grace: u64,

    /// After SIGTERM: how long idle sessions may stay
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    drain_idle: u64,

    /// After SIGTERM: how long busy sessions may stay. 0 is no limit
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    drain_timeout: u64,

    /// Format of log lines on stderr
    #[arg(long, value_name = "text|json", default_value = "text")]
    log_format: telemetry::LogFormat,

    /// What is logged, for example info or info,proxy=debug; without this flag RUST_LOG is used
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

Signals: SIGTERM accepts no new sessions and lets the others finish; a second SIGTERM, and SIGINT, end at once. SIGHUP
reloads certificates, endpoints, token and limits; when one of them is invalid, all stay as they were.";

/// Parses a number of iterations, and refuses more than a login may cost.
fn iterations_parser() -> impl TypedValueParser<Value = NonZeroU32> {
    clap::value_parser!(u32).range(1..=i64::from(ITERATIONS_MAX.get())).try_map(NonZeroU32::try_from)
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
            threads: self.threads,
            compute_tls,
            proxy_protocol: self.proxy_protocol_v2,
            connections_max: self.max_connections,
            connections_per_source_max: self.max_connections_per_ip,
            limits_file: self.limits_file,
            login_limits: LoginLimits { per_endpoint: self.endpoint_limit, per_network: self.network_limit },
            control_plane,
            caches: Caches {
                computes: self.wake_compute_cache,
                role_secrets: self.role_secret_cache,
                access_rules: self.access_rules_cache,
                wakes: self.wake_limit,
            },
            client_auth: self.client_auth,
            scram_iterations: self.scram_iterations,
            mock_secret_file: self.mock_secret_file,
            login_timeout: Duration::from_secs(self.login_timeout),
            connect_timeout: Duration::from_secs(self.connect_timeout),
            handover_socket: self.handover_socket,
            drain_grace: Duration::from_secs(self.drain_grace),
            drain_idle: Duration::from_secs(self.drain_idle),
            drain_timeout: Duration::from_secs(self.drain_timeout),
            log_format: self.log_format,
            log_level: self.log_level,
        })
    }
}

fn check_address(flag: &'static str, value: &str) -> Result<(), ConfigError> {
    if is_host_port(value) { Ok(()) } else { Err(ConfigError::Address { flag, value: value.to_owned() }) }
}

/// The defaults of the flags.
#[cfg(test)]
impl Default for Caches {
    fn default() -> Self {
        use clap::Parser;
        Flags::parse_from(["proxy", "--control-plane", "file:e"]).validate().unwrap().caches
    }
}

#[cfg(test)]
mod tests;
