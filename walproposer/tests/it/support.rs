//! A walproposer inside the test's process, beside a scripted primary and real safekeepers.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use telemetry::{LogLevel, Telemetry};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use utils::Shutdown;
use utils::shutdown::Signal;
use wal_types::Lsn;
use walproposer::config::{Cluster, RecoverConfig, RunConfig, SEND_BUFFER_BYTES_MAX};
use walproposer::recover::Recovered;

use crate::primary::ScriptedPrimary;

/// No step of a test takes this long unless it hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// `RUST_LOG` shows what happens in a test.
pub(crate) fn log_level() -> LogLevel {
    static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();
    let options = telemetry::Options { service: "test", version: "0", ..telemetry::Options::default() };
    TELEMETRY.get_or_init(|| telemetry::init(&options).unwrap()).log_level().clone()
}

/// A running walproposer.
pub(crate) struct Walproposer {
    http: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Walproposer {
    /// Starts to serve `primary`.
    pub(crate) async fn start(primary: &ScriptedPrimary, cluster: &Cluster) -> Self {
        Self::start_with_buffer(primary, cluster, SEND_BUFFER_BYTES_MAX).await
    }

    /// The same, keeping less WAL in memory.
    pub(crate) async fn start_with_buffer(
        primary: &ScriptedPrimary,
        cluster: &Cluster,
        send_buffer_bytes_max: u64,
    ) -> Self {
        Self::start_as(primary, cluster, send_buffer_bytes_max, None).await
    }

    /// The same for a primary that has a name.
    pub(crate) async fn start_as(
        primary: &ScriptedPrimary,
        cluster: &Cluster,
        send_buffer_bytes_max: u64,
        name: Option<&str>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        let config = RunConfig {
            primary: primary.conninfo(),
            primary_name: name.map(|name| name.parse().unwrap()),
            cluster: cluster.clone(),
            slot: "wp".into(),
            application_name: "wp".into(),
            send_buffer_bytes_max,
            listen_http: http,
            address_file: None,
        };
        let shutdown = Shutdown::new();
        let task = tokio::spawn(walproposer::serve(config, listener, shutdown.clone(), log_level()));
        Self { http, shutdown, task }
    }

    /// Ends it as SIGTERM does.
    pub(crate) async fn stop(self) {
        self.shutdown.signal(Signal::Terminate);
        tokio::time::timeout(DEADLINE, self.task).await.expect("it does not stop").unwrap();
    }

    /// Answer of a GET: status code and text.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let response = reqwest::get(format!("http://{}{path}", self.http)).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Answer of a PUT: status code and JSON.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.put_with_token(path, body, "").await
    }

    /// The same with a token.
    pub(crate) async fn put_with_token(&self, path: &str, body: &Value, token: &str) -> (u16, Value) {
        let request = reqwest::Client::new().put(format!("http://{}{path}", self.http)).bearer_auth(token);
        let response = request.json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Waits until the configuration of this generation is decided and no other one follows.
    pub(crate) async fn decided(&self, generation: &Value) -> Value {
        let status = self.until("a decided configuration", |status| {
            let configuration = &status["configuration"];
            configuration["generation"] == *generation && configuration["decided"] == true
        });
        status.await
    }

    /// `GET /v1/status`.
    pub(crate) async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/v1/status").await.1).unwrap()
    }

    /// Waits for a status, and returns it.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || {
            let status = self.status().await;
            if wanted(&status) { Ok(status) } else { Err(status.to_string()) }
        })
        .await
    }

    /// Waits until it says that commits wait, in words that contain `words`.
    pub(crate) async fn blocked(&self, words: &str) -> Value {
        self.until(words, |status| status["blocked"].as_str().is_some_and(|text| text.contains(words))).await
    }

    /// Waits until it leads and nothing blocks commits.
    pub(crate) async fn leads(&self) -> Value {
        self.until("leading", |status| status["state"] == "streaming" && status["blocked"].is_null()).await
    }
}

/// One election without a primary.
pub(crate) async fn recover(cluster: &Cluster, timeout: Duration) -> anyhow::Result<Recovered> {
    fail_over(cluster, timeout, None).await
}

/// The same, and the log is given to the primary of this name.
pub(crate) async fn fail_over(
    cluster: &Cluster,
    timeout: Duration,
    name: Option<&str>,
) -> anyhow::Result<Recovered> {
    log_level();
    let primary_name = name.map(|name| name.parse().unwrap());
    let config = RecoverConfig { cluster: cluster.clone(), timeout, primary_name, json: false };
    walproposer::recover::run(&config).await
}

/// Asks until the answer is `Ok`; the last `Err` is shown when that takes too long.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(seen) if tokio::time::Instant::now() > deadline => {
                panic!("waited in vain for {what}: {seen}")
            }
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

/// An LSN out of a JSON field.
pub(crate) fn lsn(value: &Value) -> Lsn {
    value.as_str().unwrap().parse().unwrap()
}
