//! A proxy and a PostgreSQL behind it, which is stopped until somebody wakes it.

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

/// For whatever a test waits for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const PASSWORD: &str = "p\u{e4}ssword";
/// Few: the rounds are the clients' work, and a crowd of clients in one test would be at it for many seconds.
const SCRAM_ITERATIONS: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// What is not as usual.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    /// Settings of the endpoint.
    pub(crate) endpoint: &'a str,
    /// Flags of the proxy. `DIR` stands for the installation's directory.
    pub(crate) flags: &'a [&'a str],
    /// The proxy gets neither certificate nor key by itself.
    pub(crate) no_certificate: bool,
    /// Lines of pg_hba.conf.
    pub(crate) hba: &'a str,
    /// Of `--control-plane`, with `DIR`; the file provider with `endpoints.toml` when it is empty.
    pub(crate) control_plane: &'a str,
    /// In place of `endpoints.toml`, when it is not empty. `PORT` is PostgreSQL's, `START` starts it.
    pub(crate) endpoints: &'a str,
}

/// What PostgreSQL has stored for `app`.
pub(crate) fn verifier() -> Verifier {
    Verifier::from_password(PASSWORD, b"sixteen bytes at", SCRAM_ITERATIONS)
}

pub(crate) struct Installation {
    pub(crate) environment: Option<TestEnvironment>,
    pub(crate) postgres: Postgres,
    pub(crate) certificates: Certificates,
    pub(crate) proxy: ProcessId,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where clients connect, all of it.
    pub(crate) addresses: Vec<SocketAddr>,
    http: String,
    /// Where logins with a browser are reported, where there are such.
    pub(crate) mgmt: Option<SocketAddr>,
}

impl Installation {
    /// A PostgreSQL with role and database `app`, stopped, and a proxy before it.
    pub(crate) async fn new(name: &str) -> Self {
        Self::with(name, &Setup::default()).await
    }

    /// The same; the compute does TLS, and `settings` are those of the endpoint besides the usual ones.
    pub(crate) async fn with_endpoint(name: &str, settings: &str) -> Self {
        Self::with(name, &Setup { endpoint: settings, ..Setup::default() }).await
    }

    /// One that is not as usual.
    pub(crate) async fn with(name: &str, setup: &Setup<'_>) -> Self {
        Self::with_files(name, setup, |_| ()).await
    }

    /// The same; `write` puts files into its directory before anything starts.
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
        let certificates = certs::write(&directory, &["*.db.test"]).unwrap();
        make_database(&postgres, &certificates, &verifier, setup.hba).await;
        write_endpoints(&directory, &postgres, &verifier, setup);
        let (proxy, addresses, http, mgmt) = start_proxy(&directory, &certificates, setup).await;
        let address = addresses[0];
        Self { environment: Some(environment), postgres, certificates, proxy, address, addresses, http, mgmt }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.postgres.data_dir.parent().unwrap()
    }

    /// How often the start command ran.
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

    /// What psql needs to check the certificate; role, password and database of the application.
    pub(crate) fn uri(&self) -> String {
        let (port, authority) = (self.address.port(), self.certificates.authority.display());
        let password = PASSWORD.replace('\u{e4}', "%C3%A4");
        format!(
            "postgresql://app:{password}@main.db.test:{port}/app?hostaddr=127.0.0.1&sslmode=verify-full&\
             sslrootcert={authority}"
        )
    }

    /// Runs psql. What it prints is without decoration.
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

    pub(crate) fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("main.db.test").hostaddr(self.address.ip()).port(self.address.port());
        config.user("app").password(PASSWORD).dbname("app");
        config.ssl_mode(tokio_postgres::config::SslMode::Require);
        config
    }

    pub(crate) fn tls(&self) -> VerifyFull {
        VerifyFull::new(&self.certificates.authority).unwrap()
    }

    /// A session that checks the certificate. The task ends with the connection, and says how.
    pub(crate) async fn connect(
        &self,
        config: &tokio_postgres::Config,
    ) -> Result<(tokio_postgres::Client, Connection), tokio_postgres::Error> {
        let (client, connection) = config.connect(self.tls()).await?;
        Ok((client, tokio::spawn(connection)))
    }

    /// Asks the proxy's own port.
    pub(crate) async fn http(&self, path: &str) -> String {
        let response = reqwest::get(format!("http://{}{path}", self.http)).await.unwrap();
        response.text().await.unwrap()
    }

    /// Tells the proxy's own port something in JSON; status and answer.
    pub(crate) async fn post(&self, path: &str, body: &'static str) -> (u16, String) {
        let request = reqwest::Client::new().post(format!("http://{}{path}", self.http));
        let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Waits until the operator's port shows no session any more.
    pub(crate) async fn wait_no_sessions(&self) {
        wait::until("sessions to end", DEADLINE, async || {
            Ok((self.http("/v1/sessions").await == r#"{"sessions":[]}"#).then_some(()))
        })
        .await
        .unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory().join("proxy.log")).unwrap()
    }

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

type Connection = tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>;

/// Nothing watches over the PostgreSQL that a start command started.
impl Drop for Installation {
    fn drop(&mut self) {
        self.stop_postgres();
    }
}
