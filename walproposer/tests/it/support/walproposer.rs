//! [`Walproposer`]: a walproposer inside the test's process.

use std::net::SocketAddr;

use candidacy::RetryDelays;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use utils::Shutdown;
use utils::shutdown::Signal;
use walproposer::config::{Cluster, RunConfig, SEND_BUFFER_BYTES_MAX};

use super::log::log_level;
use super::primary::ScriptedPrimary;
use super::wait::{DEADLINE, eventually};

/// A running walproposer.
pub(crate) struct Walproposer {
    http: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Walproposer {
    /// Starts to serve `primary`.
    pub(crate) async fn start(primary: &ScriptedPrimary, cluster: &Cluster) -> Self {
        Self::start_with(primary, cluster, |_| {}).await
    }

    /// Starts to serve `primary` with less WAL in memory.
    pub(crate) async fn start_with_buffer(
        primary: &ScriptedPrimary,
        cluster: &Cluster,
        send_buffer_bytes_max: u64,
    ) -> Self {
        Self::start_with(primary, cluster, |config| config.send_buffer_bytes_max = send_buffer_bytes_max)
            .await
    }

    /// Starts to serve `primary` under a name, if there is one.
    pub(crate) async fn start_as(primary: &ScriptedPrimary, cluster: &Cluster, name: Option<&str>) -> Self {
        let name = name.map(|name| name.parse().unwrap());
        Self::start_with(primary, cluster, |config| config.primary_name = name).await
    }

    /// Starts to serve `primary` with other delays between two attempts.
    pub(crate) async fn start_with_delays(
        primary: &ScriptedPrimary,
        cluster: &Cluster,
        retry_delays: RetryDelays,
    ) -> Self {
        Self::start_with(primary, cluster, |config| config.retry_delays = retry_delays).await
    }

    async fn start_with(
        primary: &ScriptedPrimary,
        cluster: &Cluster,
        configure: impl FnOnce(&mut RunConfig),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        let mut config = RunConfig {
            primary: primary.conninfo(),
            primary_name: None,
            cluster: cluster.clone(),
            slot: "wp".into(),
            application_name: "wp".into(),
            send_buffer_bytes_max: SEND_BUFFER_BYTES_MAX,
            retry_delays: RetryDelays::default(),
            listen_http: http,
            address_file: None,
        };

        configure(&mut config);

        let shutdown = Shutdown::new();
        let task = tokio::spawn(walproposer::serve(config, listener, shutdown.clone(), log_level()));
        Self { http, shutdown, task }
    }

    /// Ends it as SIGTERM does.
    pub(crate) async fn stop(self) {
        self.shutdown.signal(Signal::Terminate);
        tokio::time::timeout(DEADLINE, self.task).await.expect("the walproposer does not stop").unwrap();
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

    /// Answer of a PUT with a token: status code and JSON.
    pub(crate) async fn put_with_token(&self, path: &str, body: &Value, token: &str) -> (u16, Value) {
        let request = reqwest::Client::new().put(format!("http://{}{path}", self.http)).bearer_auth(token);
        let response = request.json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Answer of a DELETE: status code and JSON.
    pub(crate) async fn delete(&self, path: &str) -> (u16, Value) {
        let response =
            reqwest::Client::new().delete(format!("http://{}{path}", self.http)).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Waits until the configuration of this generation is decided and no other one follows.
    pub(crate) async fn until_decided(&self, generation: &Value) -> Value {
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

    /// Waits until commits are blocked for a reason that contains `words`.
    pub(crate) async fn until_blocked(&self, words: &str) -> Value {
        self.until(words, |status| status["blocked"].as_str().is_some_and(|text| text.contains(words))).await
    }

    /// Waits until it leads and nothing blocks commits.
    pub(crate) async fn until_leading(&self) -> Value {
        self.until("leading", |status| status["state"] == "streaming" && status["blocked"].is_null()).await
    }
}
