//! [`run`]: keeps one connection to one safekeeper open, turns messages into bytes and back. Decides nothing.
//!
//! Each connection has a queue of its own, made when it opens and handed to the driver with [`LinkEvent::Connected`]:
//! what was queued for a connection dies with it, and the driver closes one by dropping the queue. Every event carries
//! the incarnation of its connection, so that the driver can tell a late answer from a fresh one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use consensus::codec::{self, CodecError};
use consensus::{AcceptorMessage, ProposerMessage, ProtocolVersion};
use postgres_backend::Io;
use postgres_backend::client::{ClientCopyMessage, ClientCopyReader, ClientError};
use postgres_backend::copy::CopyWriter;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use utils::Backoff;
use wal_types::NodeId;

use crate::config::{Cluster, SafekeeperAddress};
use crate::safekeeper_client;

/// Messages that may wait for one connection; an append has up to 128 KiB.
const LINK_QUEUE_MESSAGES_MAX: usize = 32;
/// Bytes that are encoded before they are written out.
const LINK_WRITE_BYTES_HIGH: usize = 256 * 1024;
/// Longest answer: a vote with the longest history.
const ANSWER_BYTES_MAX: usize = 128 * 1024;
/// For the answer to START_WAL_PUSH.
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// For writing what is encoded. A peer that vanished without a word takes nothing, and the closing of the queue is seen
/// only between two writes.
const LINK_WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const LINK_RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const LINK_RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// An event, from whom, and of which connection to it.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) event: LinkEvent,
}

/// What happens on a link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A connection is being opened.
    Connecting,
    /// It is open; this is its queue.
    Connected(mpsc::Sender<ProposerMessage>),
    /// An answer.
    Message(AcceptorMessage),
    /// It is gone, or could not be opened; without a reason when the driver itself closed it.
    Disconnected(Option<String>),
}

/// How links reach the driver.
#[derive(Clone, Debug)]
pub(crate) struct DriverHandle {
    pub(crate) events: mpsc::Sender<Envelope>,
    /// There may be room in a queue again.
    pub(crate) wake: Arc<Notify>,
    /// The next connection's number: none is used twice, whichever link opens it.
    pub(crate) incarnations: Arc<AtomicU64>,
}

#[derive(Debug, Error)]
enum LinkError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("not an answer of a safekeeper: {0}")]
    Codec(#[from] CodecError),
    #[error("the safekeeper ended the stream")]
    Ended,
    #[error("no answer to START_WAL_PUSH")]
    PushTimeout,
    #[error("the safekeeper took no bytes for {} s", LINK_WRITE_TIMEOUT.as_secs())]
    WriteTimeout,
    /// The driver dropped the queue.
    #[error("closed by the walproposer")]
    Closed,
}

/// Runs for ever; aborted by the driver.
pub(crate) async fn run(cluster: Arc<Cluster>, address: SafekeeperAddress, driver: DriverHandle) {
    let mut backoff = Backoff::new(LINK_RETRY_DELAY_MIN, LINK_RETRY_DELAY_MAX);
    loop {
        let incarnation = driver.incarnations.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let link = Link { node: address.id, incarnation, driver: driver.clone() };
        link.tell(LinkEvent::Connecting).await;
        let error = match link.connection(&cluster, &address).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        tracing::debug!(safekeeper = %address.id, %error, "connection ended");
        let reason = (!matches!(error, LinkError::Closed)).then(|| error.to_string());
        link.tell(LinkEvent::Disconnected(reason)).await;
        // A safekeeper that accepts connections only to refuse what comes next must not be dialled in a loop.
        if started.elapsed() > LINK_RETRY_DELAY_MAX {
            backoff.reset();
        }
        backoff.wait().await;
    }
}

struct Link {
    node: NodeId,
    incarnation: u64,
    driver: DriverHandle,
}

impl Link {
    async fn tell(&self, event: LinkEvent) {
        let envelope = Envelope { node: self.node, incarnation: self.incarnation, event };
        // Without a driver there is nobody to tell; this task is about to be aborted.
        let _ = self.driver.events.send(envelope).await;
    }

    async fn connection(
        &self,
        cluster: &Cluster,
        address: &SafekeeperAddress,
    ) -> Result<std::convert::Infallible, LinkError> {
        let client = safekeeper_client::connect(cluster, address).await?;
        let command = format!(
            "START_WAL_PUSH (proto_version '{}', allow_timeline_creation 'false')",
            codec::version_name(ProtocolVersion::Holdfast1)
        );
        let entering = timeout(PUSH_TIMEOUT, client.copy_both(&command));
        let copy = entering.await.map_err(|_| LinkError::PushTimeout)??;
        let (sender, queue) = mpsc::channel(LINK_QUEUE_MESSAGES_MAX);
        self.tell(LinkEvent::Connected(sender)).await;
        // Both halves run for ever; the one that fails ends the connection, and nothing of the other is needed then.
        tokio::select! {
            ended = self.receive(copy.reader) => ended,
            ended = self.send(copy.writer, queue) => ended,
        }
    }

    async fn receive(
        &self,
        mut reader: ClientCopyReader<TcpStream>,
    ) -> Result<std::convert::Infallible, LinkError> {
        loop {
            match reader.next(ANSWER_BYTES_MAX).await? {
                ClientCopyMessage::Data(payload) => {
                    let message = codec::decode_acceptor(ProtocolVersion::Holdfast1, payload)?;
                    self.tell(LinkEvent::Message(message)).await;
                }
                ClientCopyMessage::Done => return Err(LinkError::Ended),
            }
        }
    }

    async fn send<S: Io>(
        &self,
        mut writer: CopyWriter<S>,
        mut queue: mpsc::Receiver<ProposerMessage>,
    ) -> Result<std::convert::Infallible, LinkError> {
        loop {
            let mut next = Some(queue.recv().await.ok_or(LinkError::Closed)?);
            while let Some(message) = next {
                put(&mut writer, &message)?;
                let full = writer.buffered_bytes() >= LINK_WRITE_BYTES_HIGH;
                next = if full { None } else { queue.try_recv().ok() };
            }
            self.driver.wake.notify_one();
            let written = timeout(LINK_WRITE_TIMEOUT, writer.flush()).await;
            written.map_err(|_| LinkError::WriteTimeout)?.map_err(ClientError::from)?;
        }
    }
}

fn put<S: Io>(writer: &mut CopyWriter<S>, message: &ProposerMessage) -> Result<(), LinkError> {
    let mut encoded = Ok(());
    let framed =
        writer.put_with(|out| encoded = codec::encode_proposer(ProtocolVersion::Holdfast1, message, out));
    encoded?;
    Ok(framed.map_err(ClientError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted_server;
    use consensus::PreVoteRequest;
    use tokio::time::Instant;
    use wal_types::Generation;

    /// Longer than the pipe, once encoded.
    const MESSAGES: usize = 1000;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_no_bytes_does_not_hold_a_closed_link_up() {
        let (copy, _server) = scripted_server::copy_both().await;
        let (events, _driver) = mpsc::channel(1);
        let driver = DriverHandle { events, wake: Arc::new(Notify::new()), incarnations: Arc::default() };
        let link = Link { node: NodeId(1), incarnation: 1, driver };
        let (sender, queue) = mpsc::channel(MESSAGES);
        for _ in 0..MESSAGES {
            let message = ProposerMessage::PreVote(PreVoteRequest { generation: Generation(0) });
            sender.try_send(message).unwrap();
        }
        let started = Instant::now();
        let sending = timeout(2 * LINK_WRITE_TIMEOUT, link.send(copy.writer, queue));
        let (ended, ()) = tokio::join!(sending, async { drop(sender) });
        assert!(matches!(ended.expect("it hangs"), Err(LinkError::WriteTimeout)));
        assert_eq!(started.elapsed(), LINK_WRITE_TIMEOUT);
    }
}
