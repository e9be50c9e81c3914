//! [`Tap`]: a relay between the walproposer and one safekeeper that records each message before it passes it on.
//!
//! Bytes pass unchanged, in whole messages. The replies of a killed safekeeper that are still in the socket are read
//! and count. A tap can be closed to new connections, so that an inspected safekeeper receives no WAL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use consensus::{AcceptorMessage, ProposerMessage, ProtocolVersion, codec};
use parking_lot::{Mutex, MutexGuard};
use pq_proto::{Frame, FramedReader, FramedWriter};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use wal_types::{Lsn, ProposerId, Term};

use super::{PositionReply, WireRecord};
use crate::wait;

/// Length limit of a message.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Buffered bytes of one direction at which they are passed on.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// Time limit for one end to close a connection that the other end closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Tag of CopyData (PostgreSQL documentation, "Message Formats").
const COPY_DATA: u8 = b'd';
/// Tag of Query.
const QUERY: u8 = b'Q';

/// A running tap; it ends when this value is dropped.
#[derive(Debug)]
pub struct Tap {
    /// Address for the walproposer.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    door: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// State of a tap that its connections share.
#[derive(Debug)]
struct Shared {
    record: Mutex<WireRecord>,
    connections: AtomicUsize,
    /// First error of the tap: from then on the record is incomplete.
    failure: Mutex<Option<String>>,
}

impl Tap {
    /// Listens on a free port and relays each connection to `target`.
    pub async fn start(target: SocketAddr, record: WireRecord) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (door, is_open) = watch::channel(true);
        let shared = Arc::new(Shared {
            record: Mutex::new(record),
            connections: AtomicUsize::new(0),
            failure: Mutex::new(None),
        });
        let task = tokio::spawn(accept(listener, target, shared.clone(), is_open));
        Ok(Self { address, shared, door, task })
    }

    /// Locks the record. No message passes while it is locked.
    pub fn record(&self) -> MutexGuard<'_, WireRecord> {
        self.shared.record.lock()
    }

    /// Opens the tap to new connections or closes it. Existing connections stay.
    pub fn set_open(&self, is_open: bool) {
        self.door.send_replace(is_open);
    }

    /// Waits until all connections of a killed safekeeper have ended: then all its replies are recorded.
    pub async fn wait_all_read(&self) -> Result<()> {
        wait::until("the last replies of a safekeeper", CLOSE_TIMEOUT, async || {
            Ok((self.shared.connections.load(Ordering::SeqCst) == 0).then_some(()))
        })
        .await
    }

    /// Fails when a message could not be decoded or recorded.
    pub fn check(&self) -> Result<()> {
        match &*self.shared.failure.lock() {
            Some(failure) => bail!("the tap failed: {failure}"),
            None => Ok(()),
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    shared: Arc<Shared>,
    is_open: watch::Receiver<bool>,
) {
    while let Ok((client, _)) = listener.accept().await {
        if !*is_open.borrow() {
            continue;
        }
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let counted = ConnectionGuard(shared.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            if let Err(error) = connection(client, server, &counted.0).await {
                counted.0.failure.lock().get_or_insert(format!("{error:#}"));
            }
        });
    }
}

/// Guard that counts one connection until it is dropped.
struct ConnectionGuard(Arc<Shared>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Relays one connection. A message that cannot be recorded is an error; a network failure is none.
async fn connection(client: TcpStream, server: TcpStream, shared: &Shared) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let state = Mutex::new(ConnectionState::default());
    let answers = answers(server_in, client_out, shared, &state);
    tokio::pin!(answers);
    tokio::select! {
        // The safekeeper is gone: no request can be answered any more. Dropping `requests` loses none that counts.
        ended = &mut answers => ended,
        ended = requests(client_in, server_out, shared, &state) => {
            ended?;
            // The safekeeper sees the end of the connection; replies that it sent before are still read.
            tokio::time::timeout(CLOSE_TIMEOUT, answers).await.unwrap_or(Ok(()))
        }
    }
}

/// State of one connection.
#[derive(Debug, Default)]
struct ConnectionState {
    /// Whether it carries a proposer's messages.
    is_push: bool,
    /// Term and campaign of the last vote request without a reply.
    asked: Option<(Term, ProposerId)>,
    /// The term of the last append.
    appended: Option<Term>,
}

async fn requests(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    shared: &Shared,
    state: &Mutex<ConnectionState>,
) -> Result<()> {
    let (mut reader, mut writer) = (FramedReader::new(from), FramedWriter::new(to));
    let Ok(Some(packet)) = reader.read_startup_packet().await else { return Ok(()) };
    writer.put(&packet)?;
    while let (true, Ok(Some(frame))) =
        (pass_on(&mut writer, reader.buffered()).await, reader.read_frame(MESSAGE_BYTES_MAX).await)
    {
        match frame.tag {
            QUERY => state.lock().is_push = is_push(&frame)?,
            COPY_DATA if state.lock().is_push => record_request(&frame.body, shared, state)?,
            _ => {}
        }
        writer.put(&frame)?;
    }
    let _ = writer.shutdown().await;
    Ok(())
}

async fn answers(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    shared: &Shared,
    state: &Mutex<ConnectionState>,
) -> Result<()> {
    let (mut reader, mut writer) = (FramedReader::new(from), FramedWriter::new(to));
    let mut has_peer = true;
    while let Ok(Some(frame)) = reader.read_frame(MESSAGE_BYTES_MAX).await {
        if frame.tag == COPY_DATA && state.lock().is_push {
            record_reply(&frame.body, shared, state)?;
        }
        // Replies are recorded even when the walproposer is gone.
        if has_peer {
            writer.put(&frame)?;
            has_peer = pass_on(&mut writer, reader.buffered()).await;
        }
    }
    Ok(())
}

/// Flushes buffered messages, unless a further whole message is there already. False when the peer is gone.
async fn pass_on(writer: &mut FramedWriter<OwnedWriteHalf>, more: &[u8]) -> bool {
    let may_wait = !more.is_empty() && writer.buffered_bytes() < WAITING_BYTES_MAX;
    // `more` may hold only a part of a message. Completing it takes a read, before which everything must be passed on.
    let whole = more.len() >= 5 && {
        let length = u32::from_be_bytes([more[1], more[2], more[3], more[4]]);
        more.len() > length as usize
    };
    (may_wait && whole) || writer.flush().await.is_ok()
}

fn is_push(query: &Frame) -> Result<bool> {
    let text = String::from_utf8_lossy(&query.body).to_ascii_lowercase();
    let is_push = text.starts_with("start_wal_push");
    let version = codec::version_name(ProtocolVersion::Holdfast2);
    ensure!(!is_push || text.contains(version), "a push that is not of version {version}: {text}");
    Ok(is_push)
}

fn record_request(payload: &Bytes, shared: &Shared, state: &Mutex<ConnectionState>) -> Result<()> {
    let message = codec::decode_proposer(ProtocolVersion::Holdfast2, payload.clone());
    match message.context("a message to the safekeeper")? {
        ProposerMessage::Vote(vote) => state.lock().asked = Some((vote.term, vote.proposer_id)),
        ProposerMessage::Elected(elected) => {
            let mut record = shared.record.lock();
            record.change(|ledger| ledger.record_truncation(elected.term, elected.start_streaming_at))?;
        }
        ProposerMessage::Append(append) => {
            state.lock().appended = Some(append.term);
            shared.record.lock().append(append.term, append.begin_lsn, &append.wal)?;
        }
        _ => {}
    }
    Ok(())
}

fn record_reply(payload: &Bytes, shared: &Shared, state: &Mutex<ConnectionState>) -> Result<()> {
    let message = codec::decode_acceptor(ProtocolVersion::Holdfast2, payload.clone());
    let answer = match message.context("a message of the safekeeper")? {
        AcceptorMessage::PreVote(vote) => position_reply(vote.term, vote.flush_lsn),
        AcceptorMessage::Vote(vote) => {
            if let (Some((term, campaign)), true) = (state.lock().asked.take(), vote.vote_given) {
                shared.record.lock().change(|ledger| ledger.record_vote(term, campaign))?;
            }
            position_reply(vote.term, vote.flush_lsn)
        }
        AcceptorMessage::Append(append) => PositionReply {
            commit: append.commit_lsn,
            is_append_reply: append.flush_lsn != Lsn::INVALID && state.lock().appended == Some(append.term),
            ..position_reply(append.term, append.flush_lsn)
        },
        _ => return Ok(()),
    };

    shared.record.lock().change(|ledger| ledger.record_reply(answer))
}

fn position_reply(term: Term, flush: Lsn) -> PositionReply {
    PositionReply { term, flush, commit: Lsn::INVALID, is_append_reply: false }
}
