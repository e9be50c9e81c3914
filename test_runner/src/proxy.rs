//! [`Proxy`]: starts the proxy of a cluster as a process, writes its `endpoints.toml`, and reads its status over HTTP.
//!
//! The endpoint's start and stop commands run `local_cluster`, so that `./dev` knows the database that a client wakes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::certs::{self, Certificates};
use crate::cluster::state::write_private;
use crate::env::Tools;
use crate::http::get_json;
use crate::ports;
use crate::process::{ProcessId, Program, start_with_address_file};

/// The only endpoint.
pub const ENDPOINT: &str = "main";
/// Host name that clients connect to: the endpoint in the domain of the certificate.
pub const SERVER_NAME: &str = "main.holdfast.localhost";
/// Name in the certificate.
const WILDCARD: &str = "*.holdfast.localhost";
/// Time limit for the proxy to listen.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The proxy of one cluster.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Location of the programs.
    pub tools: Tools,
    /// The cluster's directory.
    pub directory: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// Its port for clients.
    pub port: u16,
    /// Its port for HTTP.
    pub http_port: u16,
    /// The port of PostgreSQL.
    pub postgres_port: u16,
    /// The password of the role `app`.
    pub password: String,
    /// SCRAM verifier of the role `app`, as PostgreSQL stores it.
    pub verifier: String,
    /// Whether the kernel kills it when the thread that started it ends.
    pub dies_with_parent: bool,
}

/// Status of the proxy, from its HTTP interface.
#[derive(Clone, Debug, Serialize)]
pub struct ProxyStatus {
    /// Open sessions, the oldest first.
    pub sessions: Vec<ProxySession>,
    /// Its cache of compute addresses.
    pub cache: ProxyCache,
}

/// An open session (`GET /v1/sessions`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxySession {
    /// Session id, as in the log.
    pub id: String,
    /// Address of the client.
    pub peer: Option<String>,
    /// `handshake`, `authenticating`, `connecting` or `passing`.
    pub state: Option<String>,
    /// The endpoint, once it is known.
    pub endpoint: Option<String>,
    /// The role, once it is known.
    pub role: Option<String>,
    /// `none`, `open` or `failed`, from the last ReadyForQuery of the database.
    pub transaction: Option<String>,
    /// Age of the session.
    pub age_ms: u64,
    /// Bytes that the client sent.
    pub bytes_from_client: u64,
    /// Bytes that the client received.
    pub bytes_to_client: u64,
}

/// Cache of compute addresses (`GET /v1/cache`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxyCache {
    /// Cached addresses of computes.
    pub addresses: Vec<CachedAddress>,
    /// Number of computes that are being woken.
    pub waking: u64,
}

/// A cached address of a compute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CachedAddress {
    /// Its endpoint.
    pub endpoint: String,
    /// Its address.
    pub address: String,
}

/// Answer of `GET /v1/sessions`.
#[derive(Deserialize)]
struct Sessions {
    sessions: Vec<ProxySession>,
}

impl Proxy {
    /// The base URL of its HTTP interface.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// File of the certificate that clients have to trust.
    pub fn authority(&self) -> PathBuf {
        Certificates::in_directory(&self.tls_directory()).authority
    }

    /// Connection URI of the application. Clients do not resolve the host name, because not every system resolves names
    /// below `localhost`: `hostaddr` holds the address.
    pub fn uri(&self) -> String {
        format!(
            "postgresql://app:{}@{SERVER_NAME}:{}/app?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={}",
            self.password,
            self.port,
            percent_encoded(&self.authority().to_string_lossy())
        )
    }

    /// Starts the proxy and waits until it listens.
    pub async fn start(&self) -> Result<ProcessId> {
        for port in [self.port, self.http_port] {
            if !ports::is_free(port) {
                anyhow::bail!("proxy: port {port} is taken: stop what listens there (ss -ltnp)");
            }
        }
        let certificates = certs::load_or_create(&self.tls_directory(), &[WILDCARD])?;
        write_private(&self.endpoints_file(), &self.endpoints()?)?;
        let address_file = self.log.with_extension("address");
        let program = self.program(&certificates, &address_file)?;
        start_with_address_file(&program, &address_file, START_TIMEOUT).await
    }

    /// Open sessions and cached addresses.
    pub async fn status(&self) -> Result<ProxyStatus> {
        let Sessions { sessions } = get_json(&format!("{}/v1/sessions", self.http())).await?;
        Ok(ProxyStatus { sessions, cache: get_json(&format!("{}/v1/cache", self.http())).await? })
    }

    fn tls_directory(&self) -> PathBuf {
        self.directory.join("tls")
    }

    fn endpoints_file(&self) -> PathBuf {
        self.directory.join("endpoints.toml")
    }

    /// Content of `endpoints.toml`. A JSON string is a valid TOML string.
    fn endpoints(&self) -> Result<String> {
        let program = text(&self.tools.programs.join("local_cluster"))?;
        let directory = text(&self.directory)?;
        let command =
            |words: &[&str]| json!([&[program.as_str(), "--directory", &directory], words].concat());
        Ok(format!(
            "# Written at every start of the proxy.\n[endpoints.{ENDPOINT}]\naddress = {}\ndbname = \"app\"\n\
             start = {}\nstop = {}\nroles = {{ app = {} }}",
            json!(format!("127.0.0.1:{}", self.postgres_port)),
            command(&["start", "postgres", "--for-proxy"]),
            command(&["stop", "postgres"]),
            json!(self.verifier)
        ))
    }

    fn program(&self, certificates: &Certificates, address_file: &Path) -> Result<Program> {
        let arguments = [
            ("--listen", format!("127.0.0.1:{}", self.port)),
            ("--listen-http", format!("127.0.0.1:{}", self.http_port)),
            ("--address-file", text(address_file)?),
            ("--tls-cert", text(&certificates.certificate)?),
            ("--tls-key", text(&certificates.key)?),
            ("--control-plane", format!("file:{}", text(&self.endpoints_file())?)),
        ];

        Ok(Program {
            name: "proxy".into(),
            executable: self.tools.programs.join("proxy"),
            arguments: arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect(),
            environment: Vec::new(),
            account: None,
            log: self.log.clone(),
            dies_with_parent: self.dies_with_parent,
        })
    }
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
}

/// Percent-encodes a value of a URI that stands between double quotes in a shell.
fn percent_encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let encode =
        |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn uri_path_survives_shell_and_libpq() {
        for (path, encoded) in [
            ("/home/a-b_c.d/~x/ca.pem", "/home/a-b_c.d/~x/ca.pem"),
            ("/a b/$c/\"&?%/\u{e4}", "/a%20b/%24c/%22%26%3F%25/%C3%A4"),
        ] {
            assert_eq!(super::percent_encoded(path), encoded);
        }
    }
}
