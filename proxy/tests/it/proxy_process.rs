//! [`Proxy`]: a further proxy process before the PostgreSQL of an [`Installation`]. A test sets its flags and
//! environment and reads its exit status.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_runner::wait;

use crate::installation::{DEADLINE, Installation, PASSWORD};

/// A running proxy, which is killed when this value is dropped.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) log: PathBuf,
    /// Address for clients.
    pub(crate) address: SocketAddr,
    pub(crate) http: String,
}

impl Proxy {
    /// Starts a proxy with these flags. Returns when it has written its address file.
    pub(crate) async fn start(
        installation: &Installation,
        name: &str,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxy"));
        command.stdin(Stdio::null());
        command.args(flags).envs(environment.iter().copied());
        Self::start_by(installation, name, command).await
    }

    /// Starts a proxy by a command whose last argument is the program.
    pub(crate) async fn start_by(installation: &Installation, name: &str, mut command: Command) -> Self {
        let directory = installation.directory();
        let (address_file, log) =
            (directory.join(format!("{name}.address")), directory.join(format!("{name}.log")));
        let _ = fs::remove_file(&address_file);
        let certificates = &installation.certificates;
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        if !command.get_args().any(|argument| argument == "--control-plane") {
            command.args(["--control-plane", &format!("file:{}", path(&directory.join("endpoints.toml")))]);
        }

        command.args(["--address-file", &path(&address_file)]);
        command.args(["--tls-cert", &path(&certificates.certificate), "--tls-key", &path(&certificates.key)]);
        let file = fs::File::create(&log).unwrap();
        command.stdout(Stdio::null()).stderr(file);
        // Its own process group: the PostgreSQL that it starts outlives it.
        let mut child = command.process_group(0).spawn().unwrap();
        let text = wait::until("the proxy's address file", DEADLINE, async || {
            assert!(child.try_wait()?.is_none(), "{}", fs::read_to_string(&log)?);
            Ok(fs::read_to_string(&address_file).ok())
        });
        let addresses: serde_json::Value = serde_json::from_str(&text.await.unwrap()).unwrap();
        let address = addresses["pg"].as_str().unwrap().parse().unwrap();
        let http = addresses["http"].as_str().unwrap().to_owned();
        Self { child, log, address, http }
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the end of the process. Returns its exit status and the time.
    pub(crate) async fn ended(&mut self) -> (ExitStatus, Instant) {
        let status = wait::until("the proxy to end", DEADLINE, async || Ok(self.child.try_wait()?)).await;
        (status.unwrap(), Instant::now())
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True while the process runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Content of its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Status and body of an answer of the admin port.
    pub(crate) async fn get(&self, path: &str) -> reqwest::Result<(u16, String)> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        let response = client.get(format!("http://{}{path}", self.http)).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// Sends a PUT request to the admin port. Returns status and body of the answer.
    pub(crate) async fn put(&self, path: &str, body: &'static str) -> (u16, String) {
        let request = reqwest::Client::new().put(format!("http://{}{path}", self.http)).body(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Waits until `count` sessions are open.
    pub(crate) async fn wait_open(&self, count: usize) {
        wait::until("connections to end", DEADLINE, async || {
            let sessions: serde_json::Value = serde_json::from_str(&self.get("/v1/sessions").await?.1)?;
            Ok((sessions["sessions"].as_array().map(Vec::len) == Some(count)).then_some(()))
        })
        .await
        .unwrap();
    }

    /// Connection URI for psql and pgbench.
    pub(crate) fn uri(&self, installation: &Installation) -> String {
        let own = format!(":{}/app", self.address.port());
        installation.uri().replace(&format!(":{}/app", installation.address.port()), &own)
    }

    /// Configuration of a client of this proxy.
    pub(crate) fn config(&self) -> tokio_postgres::Config {
        config_for(self.address)
    }
}

/// Configuration of a client of the proxy that listens on this address.
pub(crate) fn config_for(address: SocketAddr) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("main.db.test").hostaddr(address.ip()).port(address.port());
    config.user("app").password(PASSWORD).dbname("app");
    config.ssl_mode(tokio_postgres::config::SslMode::Require);
    config
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
