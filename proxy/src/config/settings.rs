//! Settings: the validated configuration. Made by [`super::flags`], and by tests that build a [`Config`] by hand.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::options::{CacheOptions, RateOptions};

/// The validated configuration of the proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: Vec<String>,
    /// Where the management port listens, with [`ControlPlaneSource::Link`].
    pub listen_mgmt: String,
    /// Where the HTTP port listens.
    pub listen_http: String,
    /// The file that gets the addresses once the ports are open.
    pub address_file: Option<PathBuf>,
    /// Certificates. Without any, sessions are not encrypted.
    pub tls: TlsSources,
    /// Threads that serve connections; `None` is one for each core.
    pub threads: Option<NonZeroUsize>,
    /// TLS to computes whose control plane sets none.
    pub compute_tls: ComputeTls,
    /// Whether connections begin with the PROXY protocol.
    pub proxy_protocol: ProxyProtocol,
    /// Open connections, at most; 0 is no limit.
    pub connections_max: usize,
    /// Open connections from one address, at most; 0 is no limit.
    pub connections_per_source_max: usize,
    /// Rates of logins to one endpoint, and of connections from one network.
    pub login_limits: LoginLimits,
    /// A file that overrides these limits while the proxy runs.
    pub limits_file: Option<PathBuf>,
    /// The provider of endpoints.
    pub control_plane: ControlPlaneSource,
    /// Sizes and times of the caches.
    pub caches: Caches,
    /// How clients prove their password.
    pub client_auth: ClientAuth,
    /// The file with the secret behind the salts of unknown roles.
    pub mock_secret_file: Option<PathBuf>,
    /// SCRAM iterations shown for roles that do not exist.
    pub scram_iterations: NonZeroU32,
    /// From the client's first byte to the end of its authentication.
    pub login_timeout: Duration,
    /// From the end of the authentication to the session at the compute.
    pub connect_timeout: Duration,
    /// The Unix socket by which a new process takes over from this one.
    pub handover_socket: Option<PathBuf>,
    /// How long the ports stay open in a drain.
    pub drain_grace: Duration,
    /// How long idle sessions may stay in a drain.
    pub drain_idle: Duration,
    /// How long sessions may stay in a drain; zero is no limit.
    pub drain_timeout: Duration,
    /// Format of the log.
    pub log_format: telemetry::LogFormat,
    /// Log filter, for example `info,proxy=debug`.
    pub log_level: Option<String>,
}

/// The caches of a control plane's answers, and the limit of wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// Addresses of computes.
    pub computes: CacheOptions,
    /// Verifiers of roles.
    pub role_secrets: CacheOptions,
    /// Allowlists of endpoints, and endpoints that do not exist.
    pub access_rules: CacheOptions,
    /// Rate of wakes of one endpoint.
    pub wakes: RateOptions,
}

/// Rates of logins and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginLimits {
    /// Logins to one endpoint.
    pub per_endpoint: RateOptions,
    /// Connections from one IPv4 /24 or IPv6 /64.
    pub per_network: RateOptions,
}

/// How connections to computes are encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ComputeTls {
    /// Not encrypted.
    Disable,
    /// Encrypted; any certificate is accepted.
    Require,
    /// Encrypted; the certificate must be for the host and signed by a known authority.
    VerifyFull {
        /// The authorities' certificates, PEM.
        authorities: PathBuf,
    },
}

/// The provider of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlPlaneSource {
    /// A file with addresses, roles and start commands.
    File(PathBuf),
    /// A service over HTTP.
    Http(PathBuf),
    /// A file with addresses; verifiers are in the databases.
    AuthQuery(PathBuf),
    /// Logins with a browser.
    Link(PathBuf),
}

/// Why a flag's value cannot be used.
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
    #[error(
        "--tls-cert is given {certificates} times and --tls-key {keys} times: each certificate needs its key"
    )]
    Pairs {
        /// Certificates.
        certificates: usize,
        /// Keys.
        keys: usize,
    },
    /// `verify-full` without authorities, or authorities without `verify-full`.
    #[error("--compute-tls {mode}: verify-full needs --compute-tls-ca, and no other mode takes it")]
    ComputeAuthorities {
        /// The mode.
        mode: String,
    },
    /// Client certificates without TLS.
    #[error("--tls-client-ca needs --tls-cert or --tls-certs-dir")]
    ClientAuthority,
    /// Not a known kind of control plane.
    #[error(
        "--control-plane {0}: expected file:PATH, http:PATH, auth_query:PATH or link:PATH, for example file:endpoints.toml"
    )]
    ControlPlane(String),
}

/// Where a certificate chain and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM; the server's own comes first.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// The files of TLS for clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSources {
    /// Pairs, the one for unknown names first.
    pub pairs: Vec<TlsFiles>,
    /// A directory with more: `NAME/tls.crt` and `NAME/tls.key`, or `NAME.crt` and `NAME.key`.
    pub directory: Option<PathBuf>,
    /// The authorities whose certificates clients must show.
    pub client_authority: Option<PathBuf>,
}

/// How clients prove their password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ClientAuth {
    /// SCRAM-SHA-256, bound to the TLS channel where the client can
    #[default]
    #[value(name = "scram-sha-256")]
    Scram,
    /// The password as it is, inside TLS only: for clients that cannot do SCRAM. Sessions without TLS use SCRAM
    Password,
}

/// Whether connections come through a load balancer that sends a PROXY header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Every connection begins with a header.
    Required,
    /// A header is read when there is one.
    Optional,
    /// No header is expected: one is refused as a malformed startup packet.
    #[default]
    Rejected,
}

impl FromStr for ProxyProtocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "required" => Ok(Self::Required),
            "optional" => Ok(Self::Optional),
            "rejected" => Ok(Self::Rejected),
            _ => Err("expected required, optional or rejected"),
        }
    }
}
