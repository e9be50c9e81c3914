//! A PostgreSQL by itself with the proxy before it: the smallest set-up in which a client goes the whole way. No
//! safekeepers, nothing is synced. Used by the tests of clients, and by `./dev soak` and `./dev regress`.

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

/// The one endpoint.
pub const ENDPOINT: &str = "main";
/// The name that clients connect to.
pub const SERVER_NAME: &str = "main.db.test";
/// Of every role: what a client does with a character that is not ASCII shows too.
pub const PASSWORD: &str = "p\u{e4}ssword";
/// The password as it stands in a URI.
const PASSWORD_IN_URI: &str = "p%C3%A4ssword";
/// What PostgreSQL keeps of the password for the role `crowd`. So few rounds that a client has hardly any work with it:
/// where thousands log in, the rounds would be all that is measured.
const VERIFIER_OF_FEW_ROUNDS: &str = "SCRAM-SHA-256$64:c2l4dGVlbiBieXRlcyBhdA==$\
     9zkyRzJ6U0UP0+EL3NYWEWm31qfc7nHCfaYfDSpeWUs=:hCpY7sWFrIxl+UP+979N7wHe+gEhmPUvQsj1EnmwNVY=";
const HOST_BASED_AUTHENTICATION: &str = "
host all         all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
";
/// Rows come back in the order in which they were written, and nothing here outlives the machine.
const SETTINGS: &str = "fsync = off\nfull_page_writes = off\nsynchronize_seqscans = off\n";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// What is not as usual.
#[derive(Clone, Debug, Default)]
pub struct ProxiedOptions {
    /// `--control-plane`, instead of a file that knows every role.
    pub control_plane: Option<String>,
    /// `--log-level`.
    pub log_level: Option<&'static str>,
}

/// Both of them, running.
#[derive(Debug)]
pub struct ProxiedPostgres {
    /// PostgreSQL.
    pub postgres: Postgres,
    /// Its postmaster, when it was started along with the proxy.
    pub postmaster: Option<ProcessId>,
    /// The proxy.
    pub proxy: ProcessId,
    /// Where clients connect.
    pub port: u16,
    /// What they trust.
    pub certificates: Certificates,
    http: String,
}

/// What [`make_database`] makes, copied from one that all tests of a run share.
pub async fn copy_database(tools: &Tools, directory: &Path) -> Result<Postgres> {
    // Another PostgreSQL cannot read what this one made.
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

/// A PostgreSQL with the roles `postgres`, `app` and `crowd` (who only differ in rights and in the rounds of their
/// verifiers) and the database `app`, made in a directory that must be empty. It is stopped.
pub async fn make_database(tools: &Tools, directory: &Path) -> Result<Postgres> {
    let postgres = database_in(tools, directory)?;
    postgres.initdb(&["--no-sync".into()]).await?;
    postgres.append("postgresql.conf", SETTINGS)?;
    fs::write(postgres.data_dir.join("pg_hba.conf"), HOST_BASED_AUTHENTICATION)?;
    let process = postgres.start(&[]).await?;
    let superuser = postgres.connect("postgres").await?;
    for statement in [
        format!("CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'"),
        format!("CREATE ROLE crowd LOGIN PASSWORD '{VERIFIER_OF_FEW_ROUNDS}'"),
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
    /// Starts PostgreSQL, and the proxy before it.
    pub async fn start(postgres: Postgres, options: ProxiedOptions) -> Result<Self> {
        let postmaster = postgres.start(&[]).await?;
        let starting = KillOnDrop::new(postmaster);
        let mut proxied = Self::before(postgres, &options).await?;
        starting.keep();
        proxied.postmaster = Some(postmaster);
        Ok(proxied)
    }

    /// Starts the proxy only; whether PostgreSQL runs is the caller's care.
    pub async fn before(postgres: Postgres, options: &ProxiedOptions) -> Result<Self> {
        let directory = directory(&postgres)?;
        let control_plane = match &options.control_plane {
            Some(control_plane) => control_plane.clone(),
            None => write_endpoints(&directory, &postgres).await?,
        };
        let certificates = certs::write(&directory, &["*.db.test"])?;
        let (proxy, port, http) = start_proxy(&postgres, &certificates, &control_plane, options).await?;
        Ok(Self { postgres, postmaster: None, proxy, port, certificates, http })
    }

    /// What libpq and its like need to log in through the proxy and to check its certificate.
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

    /// The same as a URI.
    pub fn uri(&self, role: &str) -> String {
        format!(
            "postgresql://{role}:{PASSWORD_IN_URI}@{SERVER_NAME}:{}/app?hostaddr=127.0.0.1&sslmode=verify-full&\
             sslrootcert={}",
            self.port,
            self.certificates.authority.display()
        )
    }

    /// The same for `tokio_postgres`, whose TLS is [`ProxiedPostgres::tls`].
    pub fn config(&self, role: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(SERVER_NAME).hostaddr([127, 0, 0, 1].into()).port(self.port);
        config.user(role).password(PASSWORD).dbname("app");
        config.ssl_mode(tokio_postgres::config::SslMode::Require);
        config
    }

    /// TLS that believes the proxy's certificate only.
    pub fn tls(&self) -> Result<VerifyFull> {
        VerifyFull::new(&self.certificates.authority)
    }

    /// Logs in through the proxy.
    pub async fn connect(&self, role: &str) -> Result<tokio_postgres::Client> {
        let (client, connection) = self.config(role).connect(self.tls()?).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A connection of the superuser that does not go through the proxy.
    pub async fn connect_directly(&self, database: &str) -> Result<tokio_postgres::Client> {
        self.postgres.connect(database).await
    }

    /// What the proxy answers on its port for operators.
    pub async fn http(&self, path: &str) -> Result<String> {
        Ok(client()?
            .get(format!("http://{}{path}", self.http))
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?)
    }

    /// A metric of the proxy, by its whole name.
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

/// Nothing is left behind when somebody gives up.
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

/// A JSON string is a TOML string.
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
    let told: serde_json::Value = serde_json::from_str(&fs::read_to_string(&address_file)?)?;
    let (Some(pg), Some(http)) = (told["pg"].as_str(), told["http"].as_str()) else {
        bail!("the proxy told {told}");
    };
    let port = pg.rsplit_once(':').context("no port")?.1.parse()?;
    Ok((process, port, http.to_owned()))
}

/// Runs a program that logs in through the proxy as its environment says; what it printed.
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
