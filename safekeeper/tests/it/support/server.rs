//! [`Server`]: a safekeeper inside the test process, and the requests that tests send to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;

use consensus::Dialect;
use postgres_backend::client::{Client, ClientError, ConnectOptions};
use safekeeper::{Config, DataDir, DiskLimits, Listeners, Retention, Token, serve};
use serde_json::{Value, json};
use telemetry::{LogFormat, LogLevel, Telemetry};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use utils::shutdown::Signal;
use utils::{DescriptorBudget, Shutdown};
use wal_types::{NodeId, TenantTimelineId};

use super::{NODE, PATIENCE, PG_VERSION, SEGMENT_BYTES, START, SYSTEM, WalStream, within};

fn log_level() -> LogLevel {
    static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();
    let options = telemetry::Options {
        level: Some("warn".into()),
        format: LogFormat::Text,
        ..telemetry::Options::default()
    };
    TELEMETRY.get_or_init(|| telemetry::init(&options).unwrap()).log_level().clone()
}

/// Descriptors that a server is told to split: those of a usual system.
const DESCRIPTORS: usize = 1 << 16;

/// The disk belongs to the machine that runs the tests, and may be nearly full.
const NO_DISK_LIMITS: DiskLimits = DiskLimits { high_percent: 100, stop_free_bytes: Some(0) };

/// The two addresses of a server.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub(crate) pg: SocketAddr,
    pub(crate) http: SocketAddr,
}

/// A server inside this process.
pub(crate) struct Server {
    pub(crate) at: Address,
    shutdown: Shutdown,
    task: JoinHandle<anyhow::Result<()>>,
    _directory: Option<TempDir>,
}

/// The configuration of a server on free ports.
pub(crate) fn config(data_dir: &Path) -> Config {
    Config {
        id: NodeId(NODE),
        data_dir: data_dir.to_owned(),
        listen_pg: "127.0.0.1:0".into(),
        listen_http: "127.0.0.1:0".into(),
        address_file: None,
        pg_advertise: None,
        tls: None,
        token: None,
        retention: Retention::default(),
        disk_limits: NO_DISK_LIMITS,
        log_format: LogFormat::Text,
        log_level: None,
    }
}

impl Server {
    /// Starts a server in a directory of its own.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self::start_with(config(directory.path())).await;
        server._directory = Some(directory);
        server
    }

    pub(crate) async fn start_in(data_dir: &Path) -> Self {
        Self::start_with(config(data_dir)).await
    }

    pub(crate) async fn start_with_token(data_dir: &Path, token: &str) -> Self {
        let token = Some(Token::new(token).unwrap().into());
        Self::start_with(Config { token, ..config(data_dir) }).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let data_dir = DataDir::open(&config.data_dir, config.id).unwrap();
        let listeners = Listeners::bind(&config).await.unwrap();
        let at =
            Address { pg: listeners.pg.local_addr().unwrap(), http: listeners.http.local_addr().unwrap() };
        let shutdown = Shutdown::new();
        let task = tokio::spawn({
            let shutdown = shutdown.clone();
            async move {
                let budget = DescriptorBudget::split(DESCRIPTORS);
                serve(&config, data_dir, listeners, budget, log_level(), shutdown).await
            }
        });
        Self { at, shutdown, task, _directory: None }
    }

    pub(crate) fn drain(&self) {
        self.shutdown.signal(Signal::Terminate);
    }

    /// Drains, and waits for the end.
    pub(crate) async fn stop(self) {
        self.drain();
        within("the end of the server", self.task).await.unwrap().unwrap();
    }
}

/// Body of a creation.
pub(crate) fn timeline_body(id: TenantTimelineId, dialect: Dialect) -> Value {
    json!({
        "tenant_id": id.tenant.to_string(), "timeline_id": id.timeline.to_string(),
        "start_lsn": START.to_string(), "system_id": SYSTEM.to_string(), "pg_version": PG_VERSION,
        "wal_segment_size": SEGMENT_BYTES,
        "dialect": if dialect == Dialect::Neon { "neon" } else { "holdfast" },
    })
}

impl Address {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// Sends a creation; returns the status of the response, and its body.
    pub(crate) async fn post(&self, body: &Value) -> (u16, String) {
        let request = reqwest::Client::new().post(self.url("/v1/timelines")).json(body);
        let response = within("a response", request.send()).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(crate) async fn create(&self, id: TenantTimelineId, dialect: Dialect) {
        let (status, text) = self.post(&timeline_body(id, dialect)).await;
        assert_eq!(status, 201, "{text}");
        let created: Value = serde_json::from_str(&text).unwrap();
        let (status, text) = self.bootstrap(id, created["replica_id"].as_str().unwrap()).await;
        assert_eq!(status, 200, "{text}");
    }

    /// Makes this safekeeper, with this copy, the only member.
    pub(crate) async fn bootstrap(&self, id: TenantTimelineId, replica: &str) -> (u16, String) {
        let body =
            json!({"members": [{"id": NODE, "host": "127.0.0.1", "port": 5454, "replica_id": replica}]});
        self.put_bootstrap(id, &body).await
    }

    pub(crate) async fn put_bootstrap(&self, id: TenantTimelineId, body: &Value) -> (u16, String) {
        let url = self.url(&format!("/v1/timelines/{}/{}/bootstrap", id.tenant, id.timeline));
        let response = within("a response", reqwest::Client::new().put(url).json(body).send()).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = within("a response", reqwest::get(self.url(path))).await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{path}");
        response.json().await.unwrap()
    }

    pub(crate) async fn status(&self, id: TenantTimelineId) -> Value {
        self.get(&format!("/v1/timelines/{}/{}", id.tenant, id.timeline)).await
    }

    pub(crate) async fn connect(&self, id: TenantTimelineId) -> Client {
        let options = format!("-c tenant_id={} -c timeline_id={}", id.tenant, id.timeline);
        within("a connection", self.try_connect(&[("options", &options)], None)).await.unwrap()
    }

    pub(crate) async fn try_connect(
        &self,
        params: &[(&str, &str)],
        password: Option<&str>,
    ) -> Result<Client, ClientError> {
        let params = params.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let options = ConnectOptions {
            host: self.pg.ip().to_string(),
            port: self.pg.port(),
            user: "any".into(),
            params: params.chain([("replication".into(), "true".into())]).collect(),
            password: password.map(Into::into),
            tls: None,
        };
        Client::connect(&options, PATIENCE).await
    }

    /// Opens START_REPLICATION with these arguments.
    pub(crate) async fn read(&self, id: TenantTimelineId, request: &str) -> WalStream {
        let client = self.connect(id).await;
        let command = format!("START_REPLICATION {request}");
        let copy = client.copy_both(&command);
        WalStream(within("the beginning of a copy", copy).await.unwrap())
    }
}
