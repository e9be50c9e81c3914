//! [`Safekeepers`]: real safekeepers on real disks, each with a port that it keeps over a restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::BytesMut;
use consensus::{Configuration, ProposerGreeting, ProposerMessage, ProtocolVersion, VoteRequest, codec};
use postgres_backend::client::{Client, ClientCopyMessage, ConnectOptions};
use pq_proto::replication::FromPrimary;
use safekeeper::{Config, DataDir, DiskLimits, Listeners, Retention};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use utils::Shutdown;
use utils::shutdown::Signal;
use wal_types::{Generation, Lsn, NodeId, ProposerId, TenantTimelineId, Term, Tli};
use walproposer::config::{Cluster, SafekeeperAddress};

use super::log::log_level;
use super::primary::{PG_VERSION, SEGMENT_BYTES, SYSTEM_ID};
use super::wait::{DEADLINE, eventually};

/// Descriptors that a safekeeper is told to split: those of a usual system.
const DESCRIPTORS: usize = 1 << 16;

/// The disk belongs to the machine that runs the tests, and may be nearly full.
const NO_DISK_LIMITS: DiskLimits = DiskLimits { high_percent: 100, stop_free_bytes: Some(0) };

/// First byte of the log.
pub(crate) const LINEAGE_START: Lsn = Lsn(3 * SEGMENT_BYTES as u64);

const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Safekeepers 1 to n of one log.
pub(crate) struct Safekeepers {
    directory: TempDir,
    cluster: Cluster,
    http: BTreeMap<u64, SocketAddr>,
    retention: Retention,
    running: BTreeMap<u64, (Shutdown, JoinHandle<anyhow::Result<()>>)>,
}

impl Safekeepers {
    /// Starts `count` safekeepers and creates the log on each.
    pub(crate) async fn create(count: u64) -> Self {
        Self::create_with(count, Retention::default()).await
    }

    /// Starts them with other limits of old WAL.
    pub(crate) async fn create_with(count: u64, retention: Retention) -> Self {
        Self::create_in(tempfile::tempdir().unwrap(), count, retention).await
    }

    /// Starts them in a directory: the data of safekeeper `n` is in `sk<n>`.
    pub(crate) async fn create_in(directory: TempDir, count: u64, retention: Retention) -> Self {
        let id: TenantTimelineId = TenantTimelineId {
            tenant: "9ef87a5bf0d92544f6fafeeb3239695c".parse().unwrap(),
            timeline: "de200bd42b49cc1814412c7e592dd6e9".parse().unwrap(),
        };
        let address = |id| SafekeeperAddress { id: NodeId(id), host: "127.0.0.1".into(), port: 0 };
        let mut safekeepers = Self {
            directory,
            cluster: Cluster { safekeepers: (1..=count).map(address).collect(), id, token: None },
            http: BTreeMap::new(),
            retention,
            running: BTreeMap::new(),
        };

        for node in 1..=count {
            safekeepers.start(node).await;
        }
        let mut members = Vec::new();
        for node in 1..=count {
            let replica = safekeepers.create_log(node, LINEAGE_START).await;
            let mut member = safekeepers.member(node);
            member["replica_id"] = replica;
            members.push(member);
        }
        for node in 1..=count {
            safekeepers.bootstrap(node, &members).await;
        }
        safekeepers
    }

    /// Starts one more safekeeper, with an empty log that begins at `start`. Returns its entry as a member.
    pub(crate) async fn add(&mut self, node: u64, start: Lsn) -> Value {
        let address = SafekeeperAddress { id: NodeId(node), host: "127.0.0.1".into(), port: 0 };
        self.cluster.safekeepers.push(address);
        self.start(node).await;
        self.create_log(node, start).await;
        self.member(node)
    }

    /// Entry of a safekeeper in a list of members, as JSON.
    pub(crate) fn member(&self, node: u64) -> Value {
        let found = self.cluster.safekeepers.iter().find(|address| address.id.0 == node).unwrap();
        json!({"id": node, "host": found.host, "port": found.port})
    }

    /// The log and the addresses of its safekeepers.
    pub(crate) const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The log and the addresses, with another port for `node`.
    pub(crate) fn cluster_with(&self, node: u64, port: u16) -> Cluster {
        let mut cluster = self.cluster.clone();
        cluster.safekeepers.iter_mut().find(|address| address.id.0 == node).unwrap().port = port;
        cluster
    }

    /// Port of a safekeeper for the PostgreSQL protocol.
    pub(crate) fn port(&mut self, node: u64) -> u16 {
        self.address(node).port
    }

    fn address(&mut self, node: u64) -> &mut SafekeeperAddress {
        self.cluster.safekeepers.iter_mut().find(|address| address.id.0 == node).unwrap()
    }

    fn data_dir(&self, node: u64) -> PathBuf {
        self.directory.path().join(format!("sk{node}"))
    }

    /// Starts a safekeeper, on the port that it had.
    pub(crate) async fn start(&mut self, node: u64) {
        let data_dir = self.data_dir(node);
        let config = Config {
            id: NodeId(node),
            data_dir: data_dir.clone(),
            listen_pg: format!("127.0.0.1:{}", self.address(node).port),
            listen_http: "127.0.0.1:0".into(),
            address_file: None,
            pg_advertise: None,
            tls: None,
            token: None,
            retention: self.retention,
            disk_limits: NO_DISK_LIMITS,
            log_format: telemetry::LogFormat::Text,
            log_level: None,
        };

        let opened = DataDir::open(&data_dir, NodeId(node)).unwrap();
        let listeners = Listeners::bind(&config).await.unwrap();
        self.address(node).port = listeners.pg.local_addr().unwrap().port();
        self.http.insert(node, listeners.http.local_addr().unwrap());

        let shutdown = Shutdown::new();
        let handle = shutdown.clone();
        let budget = utils::DescriptorBudget::split(DESCRIPTORS);
        let task = tokio::spawn(async move {
            safekeeper::serve(&config, opened, listeners, budget, log_level(), handle).await
        });
        self.running.insert(node, (shutdown, task));
    }

    /// Stops a safekeeper.
    pub(crate) async fn stop(&mut self, node: u64) {
        let (shutdown, task) = self.running.remove(&node).unwrap();
        shutdown.signal(Signal::Terminate);
        tokio::time::timeout(DEADLINE, task).await.expect("the safekeeper does not stop").unwrap().unwrap();
    }

    /// Creates a copy of the log, and returns its replica id.
    async fn create_log(&self, node: u64, start: Lsn) -> Value {
        let body = json!({
            "tenant_id": self.cluster.id.tenant.to_string(),
            "timeline_id": self.cluster.id.timeline.to_string(),
            "start_lsn": start.to_string(),
            "system_id": SYSTEM_ID.to_string(),
            "pg_version": PG_VERSION,
            "wal_segment_size": SEGMENT_BYTES,
            "dialect": "holdfast",
        });
        let url = format!("http://{}/v1/timelines", self.http[&node]);
        let response = reqwest::Client::new().post(url).json(&body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 201, "{}", response.text().await.unwrap());
        self.status(node).await["replica_id"].clone()
    }

    async fn bootstrap(&self, node: u64, members: &[Value]) {
        let TenantTimelineId { tenant, timeline } = self.cluster.id;
        let url = format!("http://{}/v1/timelines/{tenant}/{timeline}/bootstrap", self.http[&node]);
        let request = reqwest::Client::new().put(url).json(&json!({"members": members}));
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{}", response.text().await.unwrap());
    }

    /// Status of the log on a safekeeper.
    pub(crate) async fn status(&self, node: u64) -> Value {
        let TenantTimelineId { tenant, timeline } = self.cluster.id;
        let url = format!("http://{}/v1/timelines/{tenant}/{timeline}", self.http[&node]);
        reqwest::get(url).await.unwrap().json().await.unwrap()
    }

    /// Directory of the log inside of a data directory.
    pub(crate) fn log_path(&self) -> PathBuf {
        let TenantTimelineId { tenant, timeline } = self.cluster.id;
        PathBuf::from(tenant.to_string()).join(timeline.to_string())
    }

    /// Status of a safekeeper itself.
    pub(crate) async fn own_status(&self, node: u64) -> Value {
        let url = format!("http://{}/v1/status", self.http[&node]);
        reqwest::get(url).await.unwrap().json().await.unwrap()
    }

    /// Metrics of a safekeeper.
    pub(crate) async fn metrics(&self, node: u64) -> String {
        let url = format!("http://{}/metrics", self.http[&node]);
        reqwest::get(url).await.unwrap().text().await.unwrap()
    }

    /// Commit position on the disk of a safekeeper.
    pub(crate) async fn persisted_commit(&self, node: u64) -> Lsn {
        lsn(&self.status(node).await["persisted_commit_lsn"])
    }

    /// Term histories of all running safekeepers.
    pub(crate) async fn histories(&self) -> Vec<Value> {
        let mut histories = Vec::new();
        for &node in self.running.keys() {
            histories.push(self.status(node).await["history"].clone());
        }
        histories
    }

    /// Waits until each running safekeeper has flushed up to exactly `end`.
    pub(crate) async fn until_all_flushed(&self, end: Lsn) {
        for &node in self.running.keys() {
            eventually(&format!("safekeeper {node} to have {end}"), async || {
                let status = self.status(node).await;
                if lsn(&status["flush_lsn"]) == end { Ok(()) } else { Err(status.to_string()) }
            })
            .await;
        }
    }

    /// Waits until each running safekeeper was told that everything below `end` is committed.
    pub(crate) async fn until_all_know_commit(&self, end: Lsn) {
        for &node in self.running.keys() {
            eventually(&format!("safekeeper {node} to know the commit of {end}"), async || {
                let status = self.status(node).await;
                if lsn(&status["commit_lsn"]) >= end { Ok(()) } else { Err(status.to_string()) }
            })
            .await;
        }
    }

    /// Makes one safekeeper alone promise a term.
    pub(crate) async fn promise_term(&self, node: u64, term: Term) {
        let version = codec::version_name(ProtocolVersion::Holdfast2);
        let client = self.client(node, "proposer").await;
        let mut copy =
            client.copy_both(&format!("START_WAL_PUSH (proto_version '{version}')")).await.unwrap();

        let proposer_id = ProposerId([9; 16]);
        let replica = self.status(node).await["replica_id"].as_str().unwrap().parse().unwrap();
        let greeting = ProposerMessage::Greeting(ProposerGreeting {
            version: ProtocolVersion::Holdfast2,
            id: self.cluster.id,
            pg_version: PG_VERSION,
            system_id: SYSTEM_ID,
            segment_bytes: SEGMENT_BYTES,
            tli: Tli::FIRST,
            proposer_id,
            configuration: Configuration::default(),
        });
        let vote =
            ProposerMessage::Vote(VoteRequest { generation: Generation(0), term, proposer_id, replica });

        for message in [greeting, vote] {
            let mut payload = BytesMut::new();
            codec::encode_proposer(ProtocolVersion::Holdfast2, &message, &mut payload).unwrap();
            copy.writer.send(&payload).await.unwrap();
            let answered = tokio::time::timeout(DEADLINE, copy.reader.next(MESSAGE_BYTES_MAX)).await;
            answered.expect("no answer").unwrap();
        }
        assert_eq!(self.status(node).await["term"], term.0);
    }

    async fn client(&self, node: u64, user: &str) -> Client {
        let address = &self.cluster.safekeepers[usize::try_from(node).unwrap() - 1];
        let TenantTimelineId { tenant, timeline } = self.cluster.id;
        let options = format!("-c tenant_id={tenant} timeline_id={timeline}");
        let options = ConnectOptions {
            host: address.host.clone(),
            port: address.port,
            user: user.into(),
            params: vec![("replication".into(), "true".into()), ("options".into(), options)],
            password: None,
            tls: None,
        };
        Client::connect(&options, DEADLINE).await.unwrap()
    }

    /// WAL of a safekeeper from the beginning up to `end`, which must be committed there.
    pub(crate) async fn wal(&self, node: u64, end: Lsn) -> Vec<u8> {
        let client = self.client(node, "reader").await;
        let mut copy =
            client.copy_both(&format!("START_REPLICATION PHYSICAL {LINEAGE_START}")).await.unwrap();

        let mut wal = Vec::new();
        let reading = async {
            while LINEAGE_START.advance(wal.len() as u64) < end {
                let ClientCopyMessage::Data(payload) = copy.reader.next(MESSAGE_BYTES_MAX).await.unwrap()
                else {
                    panic!("safekeeper {node} ended the stream")
                };
                if let FromPrimary::XLogData(piece) = FromPrimary::decode(payload).unwrap() {
                    wal.extend_from_slice(&piece.data);
                }
            }
        };

        tokio::time::timeout(DEADLINE, reading).await.expect("the log is not committed that far");
        wal
    }
}

/// The LSN in a JSON field.
pub(crate) fn lsn(value: &Value) -> Lsn {
    value.as_str().unwrap().parse().unwrap()
}
