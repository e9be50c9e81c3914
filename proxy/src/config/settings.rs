//! What the program runs with, validated. Made by [`super::flags`], and by tests that build a [`Config`] by hand.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::options::{CacheOptions, RateOptions};

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
    /// Logins to one endpoint, and connections from one network.
    pub login_limits: LoginLimits,
    /// What stands in place of these limits.
    pub limits_file: Option<PathBuf>,
    /// Who knows the endpoints.
    pub control_plane: ControlPlaneSource,
    /// What is kept of its answers.
    pub caches: Caches,
    /// How clients prove that they know their password.
    pub client_auth: ClientAuth,
    /// The secret behind the salts of unknown roles.
    pub mock_secret_file: Option<PathBuf>,
    /// Rounds of roles that do not exist.
    pub scram_iterations: NonZeroU32,
    /// From the first byte to authenticated.
    pub login_timeout: Duration,
    /// From authenticated to connected.
    pub connect_timeout: Duration,
    /// By which a new process takes over from an old one.
    pub handover_socket: Option<PathBuf>,
    /// For which the ports stay open in a drain.
    pub drain_grace: Duration,
    /// For idle sessions in a drain.
    pub drain_idle: Duration,
    /// For all sessions in a drain; zero is without limit.
    pub drain_timeout: Duration,
    /// Look of the log.
    pub log_format: telemetry::LogFormat,
    /// What is logged.
    pub log_level: Option<String>,
}

/// What is kept of the answers of a control plane, and how often it may be asked to wake something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// Where computes are.
    pub computes: CacheOptions,
    /// Verifiers of roles.
    pub role_secrets: CacheOptions,
    /// From where each endpoint takes clients, and that there is no such endpoint.
    pub access_rules: CacheOptions,
    /// Wakes of one endpoint.
    pub wakes: RateOptions,
}

/// How often clients may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginLimits {
    /// To one endpoint.
    pub per_endpoint: RateOptions,
    /// From one /24 of IPv4 or /64 of IPv6.
    pub per_network: RateOptions,
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

/// Where a certificate chain and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM; the server's own comes first.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// Everything that TLS for clients is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSources {
    /// Pairs, the one for unknown names first.
    pub pairs: Vec<TlsFiles>,
    /// A directory with more: `NAME/tls.crt` and `NAME/tls.key`, or `NAME.crt` and `NAME.key`.
    pub directory: Option<PathBuf>,
    /// Who must have signed the certificates that clients then have to show.
    pub client_authority: Option<PathBuf>,
}

/// How clients prove that they know their password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ClientAuth {
    /// SCRAM-SHA-256, bound to the TLS channel where the client can
    #[default]
    #[value(name = "scram-sha-256")]
    Scram,
    /// The password as it is, inside TLS only: for clients that cannot do SCRAM. Sessions without TLS use SCRAM
    Password,
}

/// Whether clients come through a balancer that says who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Every connection begins with a header.
    Required,
    /// A header is read when there is one.
    Optional,
    /// Nobody looks for a header, so one is a malformed startup packet.
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
