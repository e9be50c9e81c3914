//! What the tests are made of: a server in this process, a scripted proposer, WAL, and a reader.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use consensus::{
    AcceptorMessage, AppendRequest, AppendResponse, Configuration, Dialect, ProposerElected,
    ProposerGreeting, ProposerMessage, ProtocolVersion, TermHistory, TermStart, TliSwitch, VoteRequest,
    VoteResponse, codec,
};
use postgres_backend::client::{Client, ClientCopyBoth, ClientCopyMessage, ClientError, ConnectOptions};
use pq_proto::ErrorResponse;
use pq_proto::replication::FromPrimary;
use safekeeper::{Config, DataDir, Listeners, Retention, Token, serve};
use serde_json::{Value, json};
use telemetry::{LogFormat, LogLevel, Telemetry};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use utils::Shutdown;
use utils::shutdown::Signal;
use wal_format::{PageMagic, ScanContext, WalBuilder};
use wal_types::{
    Generation, Lsn, NodeId, ProposerId, SegmentSize, SystemId, TenantTimelineId, Term, TimelineId, Tli,
};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const NODE: u64 = 1;
pub(crate) const SYSTEM: SystemId = SystemId(7_710_999_284_697_415_315);
pub(crate) const PG_VERSION: u32 = 150_018;
pub(crate) const SEGMENT_BYTES: u32 = 64 * 1024;
/// Start of the third segment.
pub(crate) const START: Lsn = Lsn(0x2_0000);

const MESSAGE_BYTES_MAX: usize = 1 << 20;

pub(crate) fn timeline(number: u8) -> TenantTimelineId {
    let tenant = "cf0480929707ee75372337efaa5ecf96".parse().unwrap();
    TenantTimelineId { tenant, timeline: TimelineId([number; 16]) }
}

/// Waits until `check` gives something.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

fn log_level() -> LogLevel {
    static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();
    let options = telemetry::Options {
        level: Some("warn".into()),
        format: LogFormat::Text,
        ..telemetry::Options::default()
    };
    TELEMETRY.get_or_init(|| telemetry::init(&options).unwrap()).log_level().clone()
}

/// Where a server listens.
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
        log_format: LogFormat::Text,
        log_level: None,
    }
}

impl Server {
    /// In a directory of its own.
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
            async move { serve(&config, data_dir, listeners, log_level(), shutdown).await }
        });
        Self { at, shutdown, task, _directory: None }
    }

    pub(crate) fn drain(&self) {
        self.shutdown.signal(Signal::Terminate);
    }

    /// Drains, and waits until it ended.
    pub(crate) async fn stop(self) {
        self.drain();
        within("the end of the server", self.task).await.unwrap().unwrap();
    }
}

pub(crate) fn timeline_body(id: TenantTimelineId, dialect: Dialect) -> Value {
    json!({
        "tenant_id": id.tenant.to_string(), "timeline_id": id.timeline.to_string(),
        "start_lsn": START.to_string(), "system_id": SYSTEM.to_string(), "pg_version": PG_VERSION,
        "wal_segment_size": SEGMENT_BYTES,
        "dialect": if dialect == Dialect::Neon { "neon" } else { "holdfast" },
        "members": [{"id": NODE, "host": "127.0.0.1", "port": 5454}],
    })
}

impl Address {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// Creates a timeline; the status of the answer, and its text.
    pub(crate) async fn post(&self, body: &Value) -> (u16, String) {
        let request = reqwest::Client::new().post(self.url("/v1/timelines")).json(body);
        let response = within("an answer", request.send()).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(crate) async fn create(&self, id: TenantTimelineId, dialect: Dialect) {
        let (status, text) = self.post(&timeline_body(id, dialect)).await;
        assert_eq!(status, 201, "{text}");
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = within("an answer", reqwest::get(self.url(path))).await.unwrap();
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
            user: "anybody".into(),
            params: params.chain([("replication".into(), "true".into())]).collect(),
            password: password.map(Into::into),
            tls: None,
        };
        Client::connect(&options, PATIENCE).await
    }

    /// Opens START_REPLICATION with these words behind it.
    pub(crate) async fn read(&self, id: TenantTimelineId, request: &str) -> WalStream {
        let client = self.connect(id).await;
        let command = format!("START_REPLICATION {request}");
        let copy = client.copy_both(&command);
        WalStream(within("the beginning of a copy", copy).await.unwrap())
    }
}

/// A scripted proposer on one connection.
pub(crate) struct Proposer {
    pub(crate) copy: ClientCopyBoth,
    pub(crate) version: ProtocolVersion,
    id: TenantTimelineId,
    pub(crate) proposer_id: ProposerId,
}

impl Proposer {
    /// Connected, with nothing said.
    pub(crate) async fn connect(at: Address, id: TenantTimelineId, version: ProtocolVersion) -> Self {
        let name = codec::version_name(version);
        let command = format!("START_WAL_PUSH (proto_version '{name}', allow_timeline_creation 'false')");
        let copy = within("the beginning of a push", at.connect(id).await.copy_both(&command)).await.unwrap();
        Self { copy, version, id, proposer_id: ProposerId([7; 16]) }
    }

    /// Connected and greeted.
    pub(crate) async fn greeted(at: Address, id: TenantTimelineId, version: ProtocolVersion) -> Self {
        let mut proposer = Self::connect(at, id, version).await;
        proposer.send(&proposer.greeting()).await;
        let AcceptorMessage::Greeting(greeting) = proposer.receive().await else { panic!("no greeting") };
        assert_eq!(greeting.node_id, NodeId(NODE));
        proposer
    }

    /// Elected in `term`, on a log that ends at `start`.
    pub(crate) async fn elected(
        at: Address,
        id: TenantTimelineId,
        version: ProtocolVersion,
        history: &[(u64, Lsn)],
    ) -> Self {
        let mut proposer = Self::greeted(at, id, version).await;
        let (term, start) = *history.last().unwrap();
        let vote = proposer.vote(term).await;
        assert!(vote.vote_given, "{vote:?}");
        proposer.send_elected(start, history, &[]).await;
        proposer
    }

    pub(crate) fn greeting(&self) -> ProposerMessage {
        ProposerMessage::Greeting(ProposerGreeting {
            version: self.version,
            id: self.id,
            pg_version: PG_VERSION,
            system_id: SYSTEM,
            segment_bytes: SEGMENT_BYTES,
            tli: Tli::FIRST,
            proposer_id: self.proposer_id,
            configuration: Configuration::default(),
        })
    }

    pub(crate) async fn vote(&mut self, term: u64) -> VoteResponse {
        let (term, proposer_id) = (Term(term), self.proposer_id);
        self.send(&ProposerMessage::Vote(VoteRequest { generation: Generation(0), term, proposer_id })).await;
        match self.receive().await {
            AcceptorMessage::Vote(vote) => vote,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn send_elected(&mut self, at: Lsn, history: &[(u64, Lsn)], switches: &[TliSwitch]) {
        let tli_at = |lsn: Lsn| {
            switches.iter().rev().find(|switch| switch.at <= lsn).map_or(Tli::FIRST, |switch| switch.tli)
        };
        let entries =
            history.iter().map(|&(term, start)| TermStart { term: Term(term), start, tli: tli_at(start) });
        self.send(&ProposerMessage::Elected(ProposerElected {
            generation: Generation(0),
            term: Term(history.last().unwrap().0),
            start_streaming_at: at,
            history: TermHistory::new(entries.collect()).unwrap(),
            timeline_start_lsn: START,
            tli_switches: switches.to_vec(),
            configuration: Configuration::default(),
        }))
        .await;
    }

    pub(crate) fn append(&self, term: u64, begin: Lsn, wal: &[u8], commit: Lsn) -> ProposerMessage {
        ProposerMessage::Append(AppendRequest {
            generation: Generation(0),
            term: Term(term),
            epoch_start_lsn: START,
            begin_lsn: begin,
            commit_lsn: commit,
            truncate_lsn: START,
            proposer_id: self.proposer_id,
            wal: Bytes::copy_from_slice(wal),
        })
    }

    /// Sends `wal` in pieces that end anywhere, and waits until all of it is acknowledged.
    pub(crate) async fn push(&mut self, term: u64, begin: Lsn, wal: &[u8], commit: Lsn) -> AppendResponse {
        let mut at = begin;
        for piece in wal.chunks(20_011) {
            self.send(&self.append(term, at, piece, commit)).await;
            at = at.advance(piece.len() as u64);
        }
        if wal.is_empty() {
            self.send(&self.append(term, at, &[], commit)).await;
        }
        self.acknowledged(at).await
    }

    /// The first response with this flush position.
    pub(crate) async fn acknowledged(&mut self, flush: Lsn) -> AppendResponse {
        loop {
            let response = self.append_response().await;
            if response.flush_lsn >= flush {
                assert_eq!(response.flush_lsn, flush);
                return response;
            }
        }
    }

    pub(crate) async fn append_response(&mut self) -> AppendResponse {
        match self.receive().await {
            AcceptorMessage::Append(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, message: &ProposerMessage) {
        let mut payload = BytesMut::new();
        codec::encode_proposer(self.version, message, &mut payload).unwrap();
        within("room for a message", self.copy.writer.send(&payload)).await.unwrap();
    }

    pub(crate) async fn receive(&mut self) -> AcceptorMessage {
        match within("an answer", self.copy.reader.next(MESSAGE_BYTES_MAX)).await {
            Ok(ClientCopyMessage::Data(payload)) => codec::decode_acceptor(self.version, payload).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// What the server says when it closes this connection.
    pub(crate) async fn refusal(&mut self) -> ErrorResponse {
        loop {
            match within("a refusal", self.copy.reader.next(MESSAGE_BYTES_MAX)).await {
                Ok(ClientCopyMessage::Data(_)) => {}
                Err(ClientError::Server(response)) => return response,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The receiving end of START_REPLICATION.
pub(crate) struct WalStream(pub(crate) ClientCopyBoth);

impl WalStream {
    pub(crate) async fn next(&mut self) -> Result<Option<FromPrimary>, ClientError> {
        match within("WAL", self.0.reader.next(MESSAGE_BYTES_MAX)).await? {
            ClientCopyMessage::Data(payload) => Ok(Some(FromPrimary::decode(payload).unwrap())),
            ClientCopyMessage::Done => Ok(None),
        }
    }

    /// The bytes of `[from, to)`; nothing beyond may come.
    pub(crate) async fn bytes(&mut self, from: Lsn, to: Lsn) -> Vec<u8> {
        let mut wal = Vec::new();
        while from.advance(wal.len() as u64) < to {
            if let Some(FromPrimary::XLogData(data)) = self.next().await.unwrap() {
                assert_eq!(data.start, from.advance(wal.len() as u64), "a hole");
                assert!(data.data.len() <= 128 * 1024);
                let size = SegmentSize::new(SEGMENT_BYTES).unwrap();
                let last = Lsn(data.start.0 + data.data.len() as u64 - 1);
                assert_eq!(size.segment_of(data.start), size.segment_of(last), "over a segment's end");
                wal.extend_from_slice(&data.data);
            }
        }
        assert_eq!(from.advance(wal.len() as u64), to, "more than there should be");
        wal
    }

    /// The next keepalive; no WAL may come before it.
    pub(crate) async fn keepalive(&mut self) -> pq_proto::replication::PrimaryKeepalive {
        match self.next().await.unwrap() {
            Some(FromPrimary::Keepalive(keepalive)) => keepalive,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn error(&mut self) -> ErrorResponse {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Err(ClientError::Server(response)) => return response,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// WAL from `START` on: all bytes, and where its records end.
pub(crate) struct Wal {
    builder: WalBuilder,
    pub(crate) bytes: Vec<u8>,
}

impl Wal {
    pub(crate) fn new() -> Self {
        let ctx = ScanContext { segment_size: SegmentSize::new(SEGMENT_BYTES).unwrap(), system_id: SYSTEM };
        Self {
            builder: WalBuilder::new(ctx, PageMagic::POSTGRES_15, Tli::FIRST, START, Lsn(0)),
            bytes: Vec::new(),
        }
    }

    /// At least so many bytes more, in records of many lengths; the new bytes.
    pub(crate) fn grow(&mut self, bytes: usize) -> Vec<u8> {
        let before = self.bytes.len();
        let mut length = 30 + before % 1000;
        while self.bytes.len() < before + bytes {
            length = length * 7 % 9001 + 27;
            self.bytes.extend_from_slice(&self.builder.noop(length).bytes);
        }
        self.bytes[before..].to_vec()
    }

    /// Another history from here on.
    pub(crate) fn fork(&self, payload: &[u8]) -> Self {
        let mut fork = Self { builder: self.builder.clone(), bytes: self.bytes.clone() };
        fork.bytes.extend_from_slice(&fork.builder.record(0, 0x20, payload).bytes);
        fork
    }

    pub(crate) fn set_tli(&mut self, tli: Tli) {
        self.builder.set_tli(tli);
    }

    pub(crate) fn end(&self) -> Lsn {
        self.builder.position()
    }
}
