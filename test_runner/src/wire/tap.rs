//! [`Tap`]: a relay between the walproposer and one safekeeper that writes down what is said before it passes it on.
//!
//! Bytes pass as they are, whole messages at a time. A safekeeper that is killed is heard out: what it had answered is
//! still in the socket, and counts. The door can be closed, so that nobody feeds a safekeeper that is to be looked at.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use consensus::{AcceptorMessage, ProposerMessage, ProtocolVersion, codec};
use pq_proto::{Frame, FramedReader, FramedWriter};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use wal_types::{Lsn, ProposerId, Term};

use super::{PositionReply, WireRecord};
use crate::wait;

/// Longest message that is passed on.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Bytes that may wait before they are passed on.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// How long both ends may take to close what the other closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const COPY_DATA: u8 = b'd';
const QUERY: u8 = b'Q';

/// A running tap; it ends with this value.
#[derive(Debug)]
pub struct Tap {
    /// Where the walproposer connects.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    door: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    record: Mutex<WireRecord>,
    connections: AtomicUsize,
    /// Why this tap can no longer be believed.
    failure: Mutex<Option<String>>,
}

impl Tap {
    /// Listens on a port of its own and passes each connection on to `target`.
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

    /// The record, locked: nothing is passed on meanwhile.
    pub fn record(&self) -> MutexGuard<'_, WireRecord> {
        lock(&self.shared.record)
    }

    /// Lets new connections in, or not. Those that are there stay.
    pub fn set_open(&self, is_open: bool) {
        self.door.send_replace(is_open);
    }

    /// Waits until every connection has ended, when the safekeeper was killed: then all that it said was heard.
    pub async fn wait_all_read(&self) -> Result<()> {
        wait::until("the last words of a safekeeper", CLOSE_TIMEOUT, async || {
            Ok((self.shared.connections.load(Ordering::SeqCst) == 0).then_some(()))
        })
        .await
    }

    /// An error when something passed that this could not read or write down.
    pub fn check(&self) -> Result<()> {
        match &*lock(&self.shared.failure) {
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let counted = Counted(shared.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            if let Err(error) = connection(client, server, &counted.0).await {
                lock(&counted.0.failure).get_or_insert(format!("{error:#}"));
            }
        });
    }
}

/// A connection that is counted until this is dropped.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An error says that this tap heard something that it could not write down; that the network failed is none.
async fn connection(client: TcpStream, server: TcpStream, shared: &Shared) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let state = Mutex::new(ConnectionState::default());
    let answers = answers(server_in, client_out, shared, &state);
    tokio::pin!(answers);
    tokio::select! {
        // Nothing that is still sent can be answered.
        ended = &mut answers => ended,
        ended = requests(client_in, server_out, shared, &state) => {
            ended?;
            // The safekeeper sees that its peer is gone; what it said before is heard.
            tokio::time::timeout(CLOSE_TIMEOUT, answers).await.unwrap_or(Ok(()))
        }
    }
}

/// What is known about one connection.
#[derive(Debug, Default)]
struct ConnectionState {
    /// It carries a proposer's messages.
    is_push: bool,
    /// The last vote that was asked for, not answered yet.
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
            QUERY => lock(state).is_push = is_push(&frame)?,
            COPY_DATA if lock(state).is_push => record_request(&frame.body, shared, state)?,
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
        if frame.tag == COPY_DATA && lock(state).is_push {
            record_reply(&frame.body, shared, state)?;
        }
        // Without a peer it is heard all the same.
        if has_peer {
            writer.put(&frame)?;
            has_peer = pass_on(&mut writer, reader.buffered()).await;
        }
    }
    Ok(())
}

/// Passes on what waits, unless more is there already. False when the peer is gone.
async fn pass_on(writer: &mut FramedWriter<OwnedWriteHalf>, more: &[u8]) -> bool {
    let may_wait = !more.is_empty() && writer.buffered_bytes() < WAITING_BYTES_MAX;
    // Part of a message may be all that is there: it ends with a read, before which everything is passed on.
    let whole = more.len() >= 5 && {
        let length = u32::from_be_bytes([more[1], more[2], more[3], more[4]]);
        more.len() > length as usize
    };
    (may_wait && whole) || writer.flush().await.is_ok()
}

fn is_push(query: &Frame) -> Result<bool> {
    let text = String::from_utf8_lossy(&query.body).to_ascii_lowercase();
    let is_push = text.starts_with("start_wal_push");
    let version = codec::version_name(ProtocolVersion::Holdfast1);
    ensure!(!is_push || text.contains(version), "a push that is not of version {version}: {text}");
    Ok(is_push)
}

fn record_request(payload: &Bytes, shared: &Shared, state: &Mutex<ConnectionState>) -> Result<()> {
    let message = codec::decode_proposer(ProtocolVersion::Holdfast1, payload.clone());
    match message.context("a message to the safekeeper")? {
        ProposerMessage::Vote(vote) => lock(state).asked = Some((vote.term, vote.proposer_id)),
        ProposerMessage::Elected(elected) => {
            let mut record = lock(&shared.record);
            record.change(|ledger| ledger.record_truncation(elected.term, elected.start_streaming_at))?;
        }
        ProposerMessage::Append(append) => {
            lock(state).appended = Some(append.term);
            lock(&shared.record).append(append.term, append.begin_lsn, &append.wal)?;
        }
        _ => {}
    }
    Ok(())
}

fn record_reply(payload: &Bytes, shared: &Shared, state: &Mutex<ConnectionState>) -> Result<()> {
    let message = codec::decode_acceptor(ProtocolVersion::Holdfast1, payload.clone());
    let answer = match message.context("a message of the safekeeper")? {
        AcceptorMessage::PreVote(vote) => position_reply(vote.term, vote.flush_lsn),
        AcceptorMessage::Vote(vote) => {
            if let (Some((term, campaign)), true) = (lock(state).asked.take(), vote.vote_given) {
                lock(&shared.record).change(|ledger| ledger.record_vote(term, campaign))?;
            }
            position_reply(vote.term, vote.flush_lsn)
        }
        AcceptorMessage::Append(append) => PositionReply {
            commit: append.commit_lsn,
            is_append_reply: append.flush_lsn != Lsn::INVALID && lock(state).appended == Some(append.term),
            ..position_reply(append.term, append.flush_lsn)
        },
        _ => return Ok(()),
    };
    lock(&shared.record).change(|ledger| ledger.record_reply(answer))
}

fn position_reply(term: Term, flush: Lsn) -> PositionReply {
    PositionReply { term, flush, commit: Lsn::INVALID, is_append_reply: false }
}
