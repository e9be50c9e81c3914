//! Link to one safekeeper: keeps a connection open, encodes and decodes the messages. Makes no decisions.
//!
//! Each connection has its own queue, created when it opens and handed to the campaign with [`LinkEvent::Connected`].
//! Messages in the queue are lost with the connection, and the campaign closes a connection by dropping the queue. Every
//! connection has a number of its own, its *incarnation*. Every event carries it, so that the campaign can tell an answer
//! on a connection that was replaced from one on the present connection.

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
/// Encoded bytes after which the link writes before it encodes more.
const LINK_WRITE_BYTES_HIGH: usize = 256 * 1024;
/// Longest answer: a vote with the longest history.
const ANSWER_BYTES_MAX: usize = 128 * 1024;
/// Time for the answer to START_WAL_PUSH.
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one write. A safekeeper that vanished without closing its connection accepts no bytes, and the link notices
/// only between two writes that its queue was closed.
const LINK_WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const LINK_RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const LINK_RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// An event, the safekeeper that it is about, and the connection.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) node: NodeId,
    /// Number of the connection.
    pub(crate) incarnation: u64,
    pub(crate) event: LinkEvent,
}

/// Event of a link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A connection is being opened.
    Connecting,
    /// The connection is open; this is its queue.
    Connected(mpsc::Sender<ProposerMessage>),
    /// An answer of the safekeeper.
    Message(AcceptorMessage),
    /// The connection ended or could not be opened; without a reason when the campaign closed it.
    Disconnected(Option<String>),
}

/// The campaign as its links see it.
#[derive(Clone, Debug)]
pub(crate) struct CampaignHandle {
    pub(crate) events: mpsc::Sender<Envelope>,
    /// Notified when there may be room in a queue again.
    pub(crate) wake: Arc<Notify>,
    /// Number of the next connection. All links share the counter, so that no number is used twice.
    pub(crate) incarnations: Arc<AtomicU64>,
}

/// Reason for which a connection ended.
#[derive(Debug, Error)]
enum LinkError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot decode the answer of the safekeeper: {0}")]
    Codec(#[from] CodecError),
    #[error("the safekeeper ended the stream")]
    Ended,
    #[error("no answer to START_WAL_PUSH")]
    PushTimeout,
    #[error("the safekeeper accepted no bytes for {} s", LINK_WRITE_TIMEOUT.as_secs())]
    WriteTimeout,
    /// The campaign dropped the queue.
    #[error("closed by the walproposer")]
    Closed,
}

/// Connects again and again, until the campaign aborts the task.
pub(crate) async fn run(cluster: Arc<Cluster>, address: SafekeeperAddress, campaign: CampaignHandle) {
    let mut backoff = Backoff::new(LINK_RETRY_DELAY_MIN, LINK_RETRY_DELAY_MAX);
    loop {
        let incarnation = campaign.incarnations.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let link = Link { node: address.id, incarnation, campaign: campaign.clone() };
        link.send_event(LinkEvent::Connecting).await;

        let error = match link.connection(&cluster, &address).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        tracing::debug!(safekeeper = %address.id, %error, "connection to a safekeeper ended");
        let reason = (!matches!(error, LinkError::Closed)).then(|| error.to_string());
        link.send_event(LinkEvent::Disconnected(reason)).await;

        // A safekeeper that accepts connections and then refuses START_WAL_PUSH must not be dialled in a tight loop.
        if started.elapsed() > LINK_RETRY_DELAY_MAX {
            backoff.reset();
        }
        backoff.wait().await;
    }
}

/// One connection attempt of a link.
struct Link {
    node: NodeId,
    incarnation: u64,
    campaign: CampaignHandle,
}

impl Link {
    async fn send_event(&self, event: LinkEvent) {
        let envelope = Envelope { node: self.node, incarnation: self.incarnation, event };
        // Fails when the campaign is gone; this task is about to be aborted.
        let _ = self.campaign.events.send(envelope).await;
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
        self.send_event(LinkEvent::Connected(sender)).await;
        // Both halves run until one fails. That ends the connection, so the other half may be cancelled at any point.
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
                    self.send_event(LinkEvent::Message(message)).await;
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
            self.campaign.wake.notify_one();
            let written = timeout(LINK_WRITE_TIMEOUT, writer.flush()).await;
            written.map_err(|_| LinkError::WriteTimeout)?.map_err(ClientError::from)?;
        }
    }
}

/// Encodes a message into the buffer of the writer.
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

    /// As many messages as are longer than the pipe, once encoded.
    const MESSAGES: usize = 1000;

    /// A safekeeper that accepts no bytes does not keep a link alive whose queue was closed.
    #[tokio::test(start_paused = true)]
    async fn link_write_times_out_after_queue_is_closed() {
        let (copy, _server) = scripted_server::copy_both().await;
        let (events, _campaign) = mpsc::channel(1);
        let campaign = CampaignHandle { events, wake: Arc::new(Notify::new()), incarnations: Arc::default() };
        let link = Link { node: NodeId(1), incarnation: 1, campaign };
        let (sender, queue) = mpsc::channel(MESSAGES);
        for _ in 0..MESSAGES {
            let message = ProposerMessage::PreVote(PreVoteRequest { generation: Generation(0) });
            sender.try_send(message).unwrap();
        }
        let started = Instant::now();
        let sending = timeout(2 * LINK_WRITE_TIMEOUT, link.send(copy.writer, queue));
        let (ended, ()) = tokio::join!(sending, async { drop(sender) });
        assert!(matches!(ended.expect("the link hangs"), Err(LinkError::WriteTimeout)));
        assert_eq!(started.elapsed(), LINK_WRITE_TIMEOUT);
    }
}
