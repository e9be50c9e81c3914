//! The proxy as a process: the file that tells it of the one endpoint, where clients connect, and what its HTTP
//! interface says. The endpoint's start and stop commands are this package's own program, so that a database that a
//! client wakes is the very one that `./dev` knows.

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

/// The one endpoint.
pub const ENDPOINT: &str = "main";
/// The name that clients connect to: the endpoint, in the domain of the certificate.
pub const SERVER_NAME: &str = "main.holdfast.localhost";
/// What the certificate is for.
const WILDCARD: &str = "*.holdfast.localhost";
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The proxy of one cluster.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where the programs are.
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
    /// The verifier that PostgreSQL has of the role `app`.
    pub verifier: String,
    /// Whether it is killed with the thread that started it.
    pub dies_with_parent: bool,
}

/// What its HTTP interface says.
#[derive(Clone, Debug, Serialize)]
pub struct ProxyStatus {
    /// Open connections of clients, the oldest first.
    pub sessions: Vec<ProxySession>,
    /// What it remembers.
    pub cache: ProxyCache,
}

/// A connection of a client (`GET /v1/sessions`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxySession {
    /// Its number, as in the log.
    pub id: String,
    /// Where the client is.
    pub peer: Option<String>,
    /// `handshake`, `authenticating`, `connecting` or `passing`.
    pub state: Option<String>,
    /// The endpoint, once it is known.
    pub endpoint: Option<String>,
    /// The role, once it is known.
    pub role: Option<String>,
    /// `none`, `open` or `failed`, as the database said last.
    pub transaction: Option<String>,
    /// For how long it is open.
    pub age_ms: u64,
    /// What the client sent.
    pub bytes_from_client: u64,
    /// What the client got.
    pub bytes_to_client: u64,
}

/// What the proxy remembers (`GET /v1/cache`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxyCache {
    /// Where databases are.
    pub addresses: Vec<CachedAddress>,
    /// How many databases are being started.
    pub waking: u64,
}

/// Where a database is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CachedAddress {
    /// Its endpoint.
    pub endpoint: String,
    /// Its address.
    pub address: String,
}

#[derive(Deserialize)]
struct Sessions {
    sessions: Vec<ProxySession>,
}

impl Proxy {
    /// The base URL of its HTTP interface.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The certificate that clients have to trust.
    pub fn authority(&self) -> PathBuf {
        Certificates::in_directory(&self.tls_directory()).authority
    }

    /// Where an application connects. The host name is never looked up: `hostaddr` tells where it is, and `localhost`
    /// names are not resolved everywhere.
    pub fn uri(&self) -> String {
        format!(
            "postgresql://app:{}@{SERVER_NAME}:{}/app?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={}",
            self.password,
            self.port,
            percent_encoded(&self.authority().to_string_lossy())
        )
    }

    /// Starts it and waits until it listens.
    pub async fn start(&self) -> Result<ProcessId> {
        for port in [self.port, self.http_port] {
            if !ports::is_free(port) {
                anyhow::bail!("proxy: port {port} is taken: stop what listens there (ss -ltnp)");
            }
        }
        let certificates = certs::keep(&self.tls_directory(), &[WILDCARD])?;
        write_private(&self.endpoints_file(), &self.endpoints()?)?;
        let address_file = self.log.with_extension("address");
        let program = self.program(&certificates, &address_file)?;
        start_with_address_file(&program, &address_file, START_TIMEOUT).await
    }

    /// What it says about itself.
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

    /// The text of its control plane's file. A JSON string is a TOML string.
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

/// For a value in a URI that stands between double quotes in a shell.
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
