//! [`Installation`]: a proxy and a PostgreSQL behind it, which is stopped until a client wakes it.

mod provision;

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scram::Verifier;
use test_runner::certs::{self, Certificates};
use test_runner::env::TestEnvironment;
use test_runner::postgres::Postgres;
use test_runner::process::ProcessId;
use test_runner::tls_client::VerifyFull;
use test_runner::{clients, ports, wait};

use self::provision::{make_database, start_proxy, write_endpoints};

/// Time limit for every wait of a test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Password of the role `app`.
pub(crate) const PASSWORD: &str = "p\u{e4}ssword";
/// Few iterations: clients compute them, which would take a crowd of clients many seconds.
const SCRAM_ITERATIONS: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// Settings of an installation that differ from the usual ones.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    /// Further settings of the endpoint.
    pub(crate) endpoint: &'a str,
    /// Further flags of the proxy. `DIR` stands for the installation's directory.
    pub(crate) flags: &'a [&'a str],
    /// Whether the flags `--tls-cert` and `--tls-key` are left out.
    pub(crate) no_certificate: bool,
    /// Further lines of pg_hba.conf.
    pub(crate) hba: &'a str,
    /// Value of `--control-plane`, with `DIR`; when empty, the file provider with `endpoints.toml`.
    pub(crate) control_plane: &'a str,
    /// Content of `endpoints.toml`; when empty, the usual one. `PORT` stands for PostgreSQL's port, `START` for its
    /// start script.
    pub(crate) endpoints: &'a str,
}

/// The SCRAM verifier of `app`, as PostgreSQL stores it.
pub(crate) fn verifier() -> Verifier {
    Verifier::from_password(PASSWORD, b"sixteen bytes at", SCRAM_ITERATIONS)
}

/// A proxy with its PostgreSQL, in the directory of a test.
pub(crate) struct Installation {
    pub(crate) environment: Option<TestEnvironment>,
    pub(crate) postgres: Postgres,
    pub(crate) certificates: Certificates,
    pub(crate) proxy: ProcessId,
    /// First address for clients.
    pub(crate) address: SocketAddr,
    /// All addresses for clients.
    pub(crate) addresses: Vec<SocketAddr>,
    http: String,
    /// Address to which logins with a browser are reported; `None` without them.
    pub(crate) mgmt: Option<SocketAddr>,
}

impl Installation {
    /// A PostgreSQL with role and database `app`, stopped, and a proxy before it.
    pub(crate) async fn new(name: &str) -> Self {
        Self::with(name, &Setup::default()).await
    }

    /// An installation with further `settings` of its endpoint.
    pub(crate) async fn with_endpoint(name: &str, settings: &str) -> Self {
        Self::with(name, &Setup { endpoint: settings, ..Setup::default() }).await
    }

    /// An installation with other settings.
    pub(crate) async fn with(name: &str, setup: &Setup<'_>) -> Self {
        Self::with_files(name, setup, |_| ()).await
    }

    /// An installation with other settings; `write` puts files into its directory before the start.
    pub(crate) async fn with_files(name: &str, setup: &Setup<'_>, write: impl FnOnce(&Path)) -> Self {
        let environment = TestEnvironment::new(&format!("proxy-{name}")).unwrap();
        let directory = environment.directory.clone();
        let postgres = Postgres {
            tools: environment.tools.clone(),
            name: "postgres".into(),
            data_dir: directory.join("data"),
            log: directory.join("postgres.log"),
            port: ports::pick().unwrap(),
            superuser_password: "super".into(),
            dies_with_parent: true,
        };

        write(&directory);
        let verifier = verifier();
        let certificates = certs::create(&directory, &["*.db.test"]).unwrap();
        make_database(&postgres, &certificates, &verifier, setup.hba).await;
        write_endpoints(&directory, &postgres, &verifier, setup);
        let (proxy, addresses, http, mgmt) = start_proxy(&directory, &certificates, setup).await;
        let address = addresses[0];
        Self { environment: Some(environment), postgres, certificates, proxy, address, addresses, http, mgmt }
    }

    /// Directory of all files of the test.
    pub(crate) fn directory(&self) -> &Path {
        self.postgres.data_dir.parent().unwrap()
    }

    /// Number of runs of the start command.
    pub(crate) fn starts(&self) -> usize {
        fs::read_to_string(self.directory().join("starts")).map_or(0, |text| text.lines().count())
    }

    /// Starts PostgreSQL without the proxy.
    pub(crate) async fn start_postgres(&self) {
        let script = self.directory().join("start.sh");
        let status = tokio::process::Command::new(script).status().await.unwrap();
        assert!(status.success());
    }

    /// Stops PostgreSQL without the proxy.
    pub(crate) async fn put_to_sleep(&self) {
        kill(self.postmaster().unwrap(), Signal::SIGINT).unwrap();
        wait::until("PostgreSQL to stop", DEADLINE, async || Ok(self.postmaster().is_none().then_some(())))
            .await
            .unwrap();
    }

    /// The process of PostgreSQL, when it runs.
    pub(crate) fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.postgres.data_dir.join("postmaster.pid")).ok()?;
        Some(Pid::from_raw(text.lines().next()?.trim().parse().ok()?))
    }

    /// Connection URI of the application, with the parameters to check the certificate.
    pub(crate) fn uri(&self) -> String {
        let (port, authority) = (self.address.port(), self.certificates.authority.display());
        let password = PASSWORD.replace('\u{e4}', "%C3%A4");
        format!(
            "postgresql://app:{password}@main.db.test:{port}/app?hostaddr=127.0.0.1&sslmode=verify-full&\
             sslrootcert={authority}"
        )
    }

    /// Runs psql with unaligned output without headers.
    pub(crate) async fn psql(&self, uri: &str, commands: &[&str]) -> Output {
        let mut arguments = vec!["-X", "-A", "-t", "-q", "-v", "VERBOSITY=verbose", "-d", uri];
        arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
        let psql = self.postgres.tools.postgres("psql");
        clients::output(&psql, &arguments, &[("LC_ALL", "C.UTF-8")]).await.unwrap()
    }

    /// Runs psql, which must succeed, and returns what it printed.
    pub(crate) async fn ask(&self, uri: &str, commands: &[&str]) -> String {
        let output = self.psql(uri, commands).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Configuration of a client of the application, to be used with [`Installation::tls`].
    pub(crate) fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("main.db.test").hostaddr(self.address.ip()).port(self.address.port());
        config.user("app").password(PASSWORD).dbname("app");
        config.ssl_mode(tokio_postgres::config::SslMode::Require);
        config
    }

    /// TLS that trusts the authority of the installation only.
    pub(crate) fn tls(&self) -> VerifyFull {
        VerifyFull::new(&self.certificates.authority).unwrap()
    }

    /// Opens a session that checks the certificate. The task ends with the connection and returns its error.
    pub(crate) async fn connect(
        &self,
        config: &tokio_postgres::Config,
    ) -> Result<(tokio_postgres::Client, Connection), tokio_postgres::Error> {
        let (client, connection) = config.connect(self.tls()).await?;
        Ok((client, tokio::spawn(connection)))
    }

    /// Body of an answer of the admin port.
    pub(crate) async fn http(&self, path: &str) -> String {
        let response = reqwest::get(format!("http://{}{path}", self.http)).await.unwrap();
        response.text().await.unwrap()
    }

    /// Sends JSON to the admin port. Returns status and body of the answer.
    pub(crate) async fn post(&self, path: &str, body: &'static str) -> (u16, String) {
        let request = reqwest::Client::new().post(format!("http://{}{path}", self.http));
        let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Waits until the admin port lists no session.
    pub(crate) async fn wait_no_sessions(&self) {
        wait::until("sessions to end", DEADLINE, async || {
            Ok((self.http("/v1/sessions").await == r#"{"sessions":[]}"#).then_some(()))
        })
        .await
        .unwrap();
    }

    /// Log of the proxy.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory().join("proxy.log")).unwrap()
    }

    /// Marks the test as passed: its files are removed. To be called at the end of a test.
    pub(crate) fn passed(mut self) {
        self.stop_postgres();
        self.environment.take().unwrap().passed();
    }

    fn stop_postgres(&self) {
        if let Some(postmaster) = self.postmaster() {
            let _ = kill(postmaster, Signal::SIGQUIT);
        }
    }
}

/// Task of a connection.
type Connection = tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>;

/// PostgreSQL is stopped here because the start command makes it independent of the test.
impl Drop for Installation {
    fn drop(&mut self) {
        self.stop_postgres();
    }
}
