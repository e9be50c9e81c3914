//! [`ScriptedPrimary`]: answers what a walproposer asks of a primary, and streams WAL that the test writes.
//!
//! It remembers what it is told as status updates, and can be told to lie, to stop and to come back on the same port.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::BytesMut;
use postgres_backend::authentication::Greeting;
use postgres_backend::{
    Accepted, AfterCopy, Answer, Connection, CopyBoth, CopyEnd, CopyMessage, CopyReader, CopyWriter, Handler,
    HandshakeConfig, QueryError, ResultSet, TlsPolicy, handshake, serve,
};
use pq_proto::replication::{
    FromStandby, PrimaryKeepalive, StandbyStatusUpdate, postgres_micros, put_xlog_data_header,
};
use pq_proto::{ErrorResponse, FieldDescription, SqlState};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use wal_format::{PageMagic, ScanContext, WalBuilder};
use wal_types::{Lsn, SegmentSize, SystemId, Tli};
use walproposer::ConnInfo;

pub(crate) const SYSTEM_ID: SystemId = SystemId(7_710_999_284_697_415_315);
pub(crate) const SEGMENT_BYTES: u32 = 1024 * 1024;
pub(crate) const PG_VERSION: u32 = 150_018;
const CHUNK_BYTES_MAX: usize = 128 * 1024;
const MESSAGE_BYTES_MAX: usize = 1024;

/// A primary that does what the test says. Clones are the same one.
#[derive(Clone)]
pub(crate) struct ScriptedPrimary {
    shared: Arc<Shared>,
}

struct Shared {
    port: u16,
    server: Mutex<watch::Sender<Server>>,
    running: Mutex<Option<JoinSet<()>>>,
}

/// All that the server knows.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) tli: Tli,
    pub(crate) start: Lsn,
    pub(crate) wal: Arc<Vec<u8>>,
    pub(crate) slot: bool,
    pub(crate) slot_restart_lsn: Lsn,
    /// Segments that it has no file of: timeline and first byte.
    pub(crate) missing: Vec<(Tli, Lsn)>,
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    pub(crate) history: Option<String>,
    /// The last status update, and how many there were.
    pub(crate) status: Option<StandbyStatusUpdate>,
    pub(crate) statuses: Vec<StandbyStatusUpdate>,
    /// Replication starts asked for.
    pub(crate) streams: Vec<String>,
}

impl Server {
    pub(crate) fn flush_lsn(&self) -> Lsn {
        self.start.advance(self.wal.len() as u64)
    }

    /// Where `tli` was left, if this is no longer the server's timeline. Its history is one line.
    fn fork(&self, tli: Tli) -> Option<Lsn> {
        let history = self.history.as_ref().filter(|_| tli < self.tli)?;
        Some(history.split_whitespace().nth(1).unwrap().parse().unwrap())
    }

    /// The WAL from `at` on, as long as a message may be, of one file, below `end`; or what is said when there is none.
    fn piece(&self, tli: Tli, at: Lsn, end: Lsn) -> Result<Vec<u8>, ErrorResponse> {
        let segment_bytes = u64::from(SEGMENT_BYTES);
        let segment = at.0 / segment_bytes;
        if self.missing.contains(&(tli, Lsn(segment * segment_bytes))) {
            let message =
                format!("requested WAL segment {segment} of timeline {tli} has already been removed");
            return Err(ErrorResponse::error(SqlState::UNDEFINED_FILE, message));
        }
        let end = end.min(at.advance(CHUNK_BYTES_MAX as u64)).min(Lsn((segment + 1) * segment_bytes));
        let index = |lsn: Lsn| usize::try_from(lsn.bytes_since(self.start)).unwrap();
        Ok(self.wal[index(at)..index(end)].to_vec())
    }
}

/// Something that writes WAL of the scripted cluster from `at` on.
pub(crate) fn builder(at: Lsn) -> WalBuilder {
    builder_on(Tli::FIRST, at, Lsn::INVALID)
}

/// The same on another timeline, behind a record that begins at `prev`.
pub(crate) fn builder_on(tli: Tli, at: Lsn, prev: Lsn) -> WalBuilder {
    let segment_size = SegmentSize::new(SEGMENT_BYTES).unwrap();
    let context = ScanContext { segment_size, system_id: SYSTEM_ID };
    WalBuilder::new(context, PageMagic::POSTGRES_15, tli, at, prev)
}

impl ScriptedPrimary {
    /// Starts on a free port with no WAL from `start` on.
    pub(crate) async fn start(start: Lsn) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            tli: Tli::FIRST,
            start,
            wal: Arc::default(),
            slot: true,
            slot_restart_lsn: Lsn(1),
            missing: Vec::new(),
            settings: Vec::new(),
            history: None,
            status: None,
            statuses: Vec::new(),
            streams: Vec::new(),
        };
        let shared = Shared {
            port: listener.local_addr().unwrap().port(),
            server: Mutex::new(watch::Sender::new(server)),
            running: Mutex::new(None),
        };
        let primary = Self { shared: Arc::new(shared) };
        primary.listen(listener);
        primary
    }

    pub(crate) fn conninfo(&self) -> ConnInfo {
        format!("host=127.0.0.1 port={} user=wp", self.shared.port).parse().unwrap()
    }

    fn listen(&self, listener: TcpListener) {
        let mut running = JoinSet::new();
        let sender = self.sender();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve_one(stream, sender.clone()));
            }
        });
        *self.shared.running.lock().unwrap() = Some(running);
    }

    /// Closes the port and every connection, without a word.
    pub(crate) async fn kill(&self) {
        let running = self.shared.running.lock().unwrap().take();
        if let Some(mut running) = running {
            running.shutdown().await;
        }
    }

    /// Listens again where it did.
    pub(crate) async fn restart(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.shared.port)).await.unwrap();
        self.listen(listener);
    }

    fn sender(&self) -> watch::Sender<Server> {
        self.shared.server.lock().unwrap().clone()
    }

    /// Changes what the server knows.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Server)) {
        self.sender().send_modify(change);
    }

    /// What the server knows.
    pub(crate) fn read(&self) -> Server {
        self.sender().borrow().clone()
    }

    /// Flushes more WAL, and returns where it ends now.
    pub(crate) fn write(&self, wal: &[u8]) -> Lsn {
        self.change(|server| Arc::make_mut(&mut server.wal).extend_from_slice(wal));
        self.read().flush_lsn()
    }

    /// Waits until what it knows is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl FnMut(&Server) -> bool) -> Server {
        let mut receiver = self.sender().subscribe();
        let waited = tokio::time::timeout(crate::support::DEADLINE, receiver.wait_for(wanted)).await;
        match waited {
            Ok(server) => server.unwrap().clone(),
            Err(_) => panic!("waited in vain for {what}"),
        }
    }

    /// Waits until it was told that everything below `lsn` is stored.
    pub(crate) async fn acknowledged(&self, lsn: Lsn) {
        self.until(&format!("{lsn} to be acknowledged"), |server| {
            server.status.is_some_and(|status| status.flush >= lsn)
        })
        .await;
    }
}

async fn serve_one(stream: TcpStream, server: watch::Sender<Server>) {
    let config = HandshakeConfig::new(TlsPolicy::Disabled);
    let Ok(Accepted::Session(mut session)) = handshake::accept(stream, &config).await else { return };
    let parameters = [("server_version", "15.18"), ("integer_datetimes", "on"), ("client_encoding", "UTF8")];
    session.greet(&Greeting { parameters: &parameters, key: None }).await.unwrap();
    let mut handler = PrimaryHandler { server };
    let _ = serve(session.connection, &mut handler, std::future::pending()).await;
}

struct PrimaryHandler {
    server: watch::Sender<Server>,
}

impl PrimaryHandler {
    fn answer(&self, query: &str) -> Result<Answer<(Lsn, Tli)>, ErrorResponse> {
        let server = self.server.borrow().clone();
        if let Some(name) = query.strip_prefix("SHOW ") {
            let usual = [
                ("in_hot_standby", "off"),
                ("wal_level", "replica"),
                ("fsync", "on"),
                ("full_page_writes", "on"),
                ("wal_segment_size", "1MB"),
                ("server_version_num", "150018"),
                ("synchronous_standby_names", "FIRST 1 (wp)"),
            ];
            let value = server.settings.iter().chain(&usual).find(|(known, _)| *known == name);
            let (_, value) = value.unwrap_or_else(|| panic!("SHOW {name}"));
            return Ok(Answer::row([FieldDescription::text(name)], [Some((*value).to_owned())], "SHOW"));
        }
        if query == "IDENTIFY_SYSTEM" {
            let columns = ["systemid", "timeline", "xlogpos", "dbname"].map(FieldDescription::text);
            let flush = server.flush_lsn().to_string();
            let values = [Some(SYSTEM_ID.to_string()), Some(server.tli.to_string()), Some(flush), None];
            return Ok(Answer::row(columns, values, "IDENTIFY_SYSTEM"));
        }
        if query == "READ_REPLICATION_SLOT \"wp\"" {
            let columns = ["slot_type", "restart_lsn", "restart_tli"].map(FieldDescription::text);
            let text = |text: &str| server.slot.then(|| text.to_owned());
            return Ok(Answer::row(
                columns,
                [text("physical"), text(&server.slot_restart_lsn.to_string()), text("1")],
                "READ_REPLICATION_SLOT",
            ));
        }
        if query.starts_with("TIMELINE_HISTORY ") {
            let columns = ["filename", "content"].map(FieldDescription::text);
            return Ok(Answer::row(columns, [Some("x".into()), server.history], "TIMELINE_HISTORY"));
        }
        if let Some(rest) = query.strip_prefix("START_REPLICATION SLOT \"wp\" PHYSICAL ") {
            self.server.send_modify(|server| server.streams.push(rest.to_owned()));
            let mut words = rest.split(' ');
            let from = words.next().unwrap().parse().unwrap();
            let tli = Tli(words.nth(1).unwrap().parse().unwrap());
            return Ok(Answer::CopyBoth((from, tli)));
        }
        Err(ErrorResponse::error(SqlState::SYNTAX_ERROR, format!("what is {query}?")))
    }
}

impl Handler<TcpStream> for PrimaryHandler {
    type Copy = (Lsn, Tli);

    async fn query(
        &mut self,
        _: &mut Connection<TcpStream>,
        query: &str,
    ) -> Result<Answer<Self::Copy>, QueryError> {
        Ok(self.answer(query)?)
    }

    async fn copy_both(
        &mut self,
        (from, tli): (Lsn, Tli),
        stream: CopyBoth<TcpStream>,
    ) -> CopyEnd<TcpStream> {
        let CopyBoth { mut reader, mut writer } = stream;
        let asked = Notify::new();
        asked.notify_one();
        let mut changes = self.server.subscribe();
        let fork = changes.borrow().fork(tli);
        let sent = tokio::select! {
            sent = send(&mut writer, &mut changes, &asked, from, tli) => sent,
            received = receive(&mut reader, &self.server, &asked) => received,
        };
        let after = match (sent, fork) {
            (Ok(()), Some(fork)) => end_of_timeline(&mut reader, &mut writer, &self.server, fork).await,
            (sent, _) => sent.map(|()| AfterCopy::Ready(vec![ResultSet::tag("COPY 0")])),
        };
        CopyEnd::new(CopyBoth { reader, writer }, after)
    }
}

/// Streams for ever, or up to the end of the timeline.
async fn send(
    writer: &mut CopyWriter<TcpStream>,
    changes: &mut watch::Receiver<Server>,
    asked: &Notify,
    from: Lsn,
    tli: Tli,
) -> Result<(), QueryError> {
    let mut at = from;
    loop {
        let server = changes.borrow_and_update().clone();
        let now = postgres_micros(SystemTime::now());
        let (server_end, fork) = (server.flush_lsn(), server.fork(tli));
        let end = fork.unwrap_or(server_end);
        while at < end {
            let wal = server.piece(tli, at, end)?;
            let mut payload = BytesMut::new();
            put_xlog_data_header(&mut payload, at, server_end, now);
            payload.extend_from_slice(&wal);
            writer.send(&payload).await?;
            at = at.advance(wal.len() as u64);
        }
        if fork.is_some() {
            return Ok(());
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return Ok(());
            },
            () = asked.notified() => {
                let keepalive = PrimaryKeepalive { server_end, sent_at_micros: now, reply_requested: true };
                let mut payload = BytesMut::new();
                keepalive.encode(&mut payload);
                writer.send(&payload).await?;
            }
        }
    }
}

/// Remembers what it is told, until the walproposer ends the stream.
async fn receive(
    reader: &mut CopyReader<TcpStream>,
    server: &watch::Sender<Server>,
    asked: &Notify,
) -> Result<(), QueryError> {
    loop {
        match reader.next(MESSAGE_BYTES_MAX).await? {
            CopyMessage::Data(payload) => {
                let FromStandby::StatusUpdate(status) = FromStandby::decode(payload).unwrap() else {
                    continue;
                };
                if status.reply_requested {
                    asked.notify_one();
                }
                server.send_modify(|server| {
                    server.status = Some(status);
                    server.statuses.push(status);
                });
            }
            CopyMessage::Done | CopyMessage::Fail(_) | CopyMessage::Terminate => return Ok(()),
        }
    }
}

/// Both sides are done, and the walproposer hears which timeline follows.
async fn end_of_timeline(
    reader: &mut CopyReader<TcpStream>,
    writer: &mut CopyWriter<TcpStream>,
    server: &watch::Sender<Server>,
    fork: Lsn,
) -> Result<AfterCopy, QueryError> {
    writer.put_done()?;
    writer.flush().await?;
    receive(reader, server, &Notify::new()).await?;
    let next = ResultSet {
        columns: ["next_tli", "next_tli_startpos"].map(FieldDescription::text).to_vec(),
        rows: vec![vec![Some(server.borrow().tli.to_string().into()), Some(fork.to_string().into())]],
        tag: "START_STREAMING".into(),
    };
    Ok(AfterCopy::Ready(vec![next, ResultSet::tag("START_REPLICATION")]))
}
