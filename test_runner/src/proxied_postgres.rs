//! [`ProxiedPostgres`]: one PostgreSQL behind the proxy, the smallest set-up in which a client passes the proxy. There
//! are no safekeepers, and nothing is synced. Used by the tests of clients, `./dev soak` and `./dev regress`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::certs::{self, Certificates};
use crate::env::{Tools, shared_directory};
use crate::http::client;
use crate::postgres::Postgres;
use crate::process::{KillOnDrop, ProcessId, Program, start_with_address_file};
use crate::tls_client::VerifyFull;
use crate::{clients, ports};

/// The only endpoint.
pub const ENDPOINT: &str = "main";
/// Host name that clients connect to.
pub const SERVER_NAME: &str = "main.db.test";
/// Password of every role. Its non-ASCII character tests how clients encode it.
pub const PASSWORD: &str = "p\u{e4}ssword";
/// The password, percent-encoded for a URI.
const PASSWORD_IN_URI: &str = "p%C3%A4ssword";
/// SCRAM verifier of [`PASSWORD`] for the role `crowd`, with few iterations: where thousands of clients log in,
/// iterations would take most of the measured time.
const VERIFIER_WITH_FEW_ITERATIONS: &str = "SCRAM-SHA-256$64:c2l4dGVlbiBieXRlcyBhdA==$\
     9zkyRzJ6U0UP0+EL3NYWEWm31qfc7nHCfaYfDSpeWUs=:hCpY7sWFrIxl+UP+979N7wHe+gEhmPUvQsj1EnmwNVY=";
/// `pg_hba.conf`.
const HOST_BASED_AUTHENTICATION: &str = "
host all         all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
";
/// Sequential scans return rows in the order of their insertion. Nothing is synced: no data has to survive a crash.
const SETTINGS: &str = "fsync = off\nfull_page_writes = off\nsynchronize_seqscans = off\n";
/// Time limit for the proxy to listen.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for the end of PostgreSQL or the proxy.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Options of the proxy that differ from the usual ones.
#[derive(Clone, Debug, Default)]
pub struct ProxiedOptions {
    /// `--control-plane`; by default a file with every role.
    pub control_plane: Option<String>,
    /// `--log-level`; `info` by default.
    pub log_level: Option<&'static str>,
}

/// A running proxy with its PostgreSQL.
#[derive(Debug)]
pub struct ProxiedPostgres {
    /// PostgreSQL.
    pub postgres: Postgres,
    /// The postmaster, when it was started together with the proxy.
    pub postmaster: Option<ProcessId>,
    /// The proxy.
    pub proxy: ProcessId,
    /// Port for clients.
    pub port: u16,
    /// Certificates of the proxy.
    pub certificates: Certificates,
    http: String,
}

/// A copy of the server of [`make_database`], which all tests of a run share. It is stopped.
pub async fn copy_database(tools: &Tools, directory: &Path) -> Result<Postgres> {
    // Another version of PostgreSQL needs another data directory.
    let version = clients::run(&tools.postgres("postgres"), &["--version"], &[]).await?;
    let name: String = version.chars().filter(char::is_ascii_alphanumeric).collect();
    let make = async |directory: &Path| make_database(tools, directory).await.map(drop);
    let shared = shared_directory(&format!("front-{name}"), make).await?;
    let postgres = database_in(tools, directory)?;
    postgres.copy_from(&shared.join("data")).await?;
    Ok(postgres)
}

fn database_in(tools: &Tools, directory: &Path) -> Result<Postgres> {
    Ok(Postgres {
        tools: tools.clone(),
        name: "postgres".into(),
        data_dir: directory.join("data"),
        log: directory.join("postgres.log"),
        port: ports::pick()?,
        superuser_password: PASSWORD.into(),
        dies_with_parent: true,
    })
}

/// Makes a PostgreSQL in an empty directory, with the database `app` and the roles `postgres`, `app` and `crowd`, which
/// differ only in rights and in the iterations of their verifiers. It is stopped.
pub async fn make_database(tools: &Tools, directory: &Path) -> Result<Postgres> {
    let postgres = database_in(tools, directory)?;
    postgres.initdb(&["--no-sync".into()]).await?;
    postgres.append("postgresql.conf", SETTINGS)?;
    fs::write(postgres.data_dir.join("pg_hba.conf"), HOST_BASED_AUTHENTICATION)?;
    let process = postgres.start(&[]).await?;
    let superuser = postgres.connect("postgres").await?;
    for statement in [
        format!("CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'"),
        format!("CREATE ROLE crowd LOGIN PASSWORD '{VERIFIER_WITH_FEW_ITERATIONS}'"),
        "CREATE DATABASE app OWNER app".into(),
    ] {
        superuser.batch_execute(&statement).await?;
    }

    drop(superuser);
    process.end(Signal::SIGINT, STOP_TIMEOUT).await?;
    Ok(postgres)
}

/// Name and verifier of every role that can log in.
pub async fn verifiers(postgres: &Postgres) -> Result<Vec<(String, String)>> {
    let superuser = postgres.connect("postgres").await?;
    let query =
        "SELECT rolname::text, rolpassword FROM pg_authid WHERE rolcanlogin AND rolpassword IS NOT NULL";
    let rows = superuser.query(query, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

impl ProxiedPostgres {
    /// Starts PostgreSQL and the proxy.
    pub async fn start(postgres: Postgres, options: ProxiedOptions) -> Result<Self> {
        let postmaster = postgres.start(&[]).await?;
        let starting = KillOnDrop::new(postmaster);
        let mut proxied = Self::proxy_only(postgres, &options).await?;
        starting.keep();
        proxied.postmaster = Some(postmaster);
        Ok(proxied)
    }

    /// Starts the proxy only. The caller starts and stops PostgreSQL.
    pub async fn proxy_only(postgres: Postgres, options: &ProxiedOptions) -> Result<Self> {
        let directory = directory(&postgres)?;
        let control_plane = match &options.control_plane {
            Some(control_plane) => control_plane.clone(),
            None => write_endpoints(&directory, &postgres).await?,
        };
        let certificates = certs::create(&directory, &["*.db.test"])?;
        let (proxy, port, http) = start_proxy(&postgres, &certificates, &control_plane, options).await?;
        Ok(Self { postgres, postmaster: None, proxy, port, certificates, http })
    }

    /// Environment variables with which libpq logs in through the proxy and checks its certificate.
    pub fn environment(&self, role: &str) -> Vec<(&'static str, String)> {
        vec![
            ("PGHOST", SERVER_NAME.into()),
            ("PGHOSTADDR", "127.0.0.1".into()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", role.into()),
            ("PGPASSWORD", PASSWORD.into()),
            ("PGDATABASE", "app".into()),
            ("PGSSLMODE", "verify-full".into()),
            ("PGSSLROOTCERT", self.certificates.authority.display().to_string()),
            ("LC_ALL", "C.UTF-8".into()),
        ]
    }

    /// Connection URI with the same parameters.
    pub fn uri(&self, role: &str) -> String {
        format!(
            "postgresql://{role}:{PASSWORD_IN_URI}@{SERVER_NAME}:{}/app?hostaddr=127.0.0.1&sslmode=verify-full&\
             sslrootcert={}",
            self.port,
            self.certificates.authority.display()
        )
    }

    /// The same parameters for `tokio_postgres`, to be used with [`ProxiedPostgres::tls`].
    pub fn config(&self, role: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(SERVER_NAME).hostaddr([127, 0, 0, 1].into()).port(self.port);
        config.user(role).password(PASSWORD).dbname("app");
        config.ssl_mode(tokio_postgres::config::SslMode::Require);
        config
    }

    /// TLS that trusts the authority of the proxy's certificate only.
    pub fn tls(&self) -> Result<VerifyFull> {
        VerifyFull::new(&self.certificates.authority)
    }

    /// Logs in through the proxy.
    pub async fn connect(&self, role: &str) -> Result<tokio_postgres::Client> {
        let (client, connection) = self.config(role).connect(self.tls()?).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Connects as the superuser, past the proxy.
    pub async fn connect_directly(&self, database: &str) -> Result<tokio_postgres::Client> {
        self.postgres.connect(database).await
    }

    /// Body of an answer of the proxy's admin port.
    pub async fn http(&self, path: &str) -> Result<String> {
        Ok(client()?
            .get(format!("http://{}{path}", self.http))
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?)
    }

    /// Value of a metric of the proxy, by its full name with labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let metrics = self.http("/metrics").await?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.with_context(|| format!("no metric {name}"))?.parse().context("not a number")
    }

    /// Stops the proxy and PostgreSQL, in this order.
    pub async fn stop(self) -> Result<()> {
        self.proxy.end(Signal::SIGINT, STOP_TIMEOUT).await?;
        match self.postmaster {
            Some(postmaster) => postmaster.end(Signal::SIGQUIT, STOP_TIMEOUT).await,
            None => Ok(()),
        }
    }
}

/// A test that fails leaves no process behind.
impl Drop for ProxiedPostgres {
    fn drop(&mut self) {
        let _ = self.proxy.signal(Signal::SIGKILL);
        if let Some(postmaster) = self.postmaster {
            let _ = postmaster.signal(Signal::SIGQUIT);
        }
    }
}

fn directory(postgres: &Postgres) -> Result<PathBuf> {
    Ok(postgres.data_dir.parent().context("a data directory is in a directory")?.to_path_buf())
}

/// Writes `endpoints.toml` with the verifiers of all roles. A JSON string is a valid TOML string.
async fn write_endpoints(directory: &Path, postgres: &Postgres) -> Result<String> {
    let file = directory.join("endpoints.toml");
    let address = json!(format!("127.0.0.1:{}", postgres.port));
    let mut text = format!("[endpoints.{ENDPOINT}]\naddress = {address}\n[endpoints.{ENDPOINT}.roles]\n");
    for (role, verifier) in verifiers(postgres).await? {
        text += &format!("{} = {}\n", json!(role), json!(verifier));
    }
    fs::write(&file, text)?;
    Ok(format!("file:{}", file.display()))
}

async fn start_proxy(
    postgres: &Postgres,
    certificates: &Certificates,
    control_plane: &str,
    options: &ProxiedOptions,
) -> Result<(ProcessId, u16, String)> {
    let directory = directory(postgres)?;
    let address_file = directory.join("proxy.address");
    let arguments = [
        ("--address-file", address_file.display().to_string()),
        ("--tls-cert", certificates.certificate.display().to_string()),
        ("--tls-key", certificates.key.display().to_string()),
        ("--control-plane", control_plane.to_owned()),
        ("--log-level", options.log_level.unwrap_or("info").to_owned()),
    ];

    let program = Program {
        name: "proxy".into(),
        executable: postgres.tools.programs.join("proxy"),
        arguments: arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect(),
        environment: Vec::new(),
        account: None,
        log: directory.join("proxy.log"),
        dies_with_parent: true,
    };

    let process = start_with_address_file(&program, &address_file, START_TIMEOUT).await?;
    let addresses: serde_json::Value = serde_json::from_str(&fs::read_to_string(&address_file)?)?;
    let (Some(pg), Some(http)) = (addresses["pg"].as_str(), addresses["http"].as_str()) else {
        bail!("unexpected address file of the proxy: {addresses}");
    };
    let port = pg.rsplit_once(':').context("no port")?.1.parse()?;
    Ok((process, port, http.to_owned()))
}

/// Runs a client program that logs in through the proxy as `role`. Returns its standard output.
pub async fn run(
    proxied: &ProxiedPostgres,
    role: &str,
    program: &Path,
    arguments: &[&str],
) -> Result<String> {
    let environment = proxied.environment(role);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    clients::run(program, arguments, &environment).await
}
