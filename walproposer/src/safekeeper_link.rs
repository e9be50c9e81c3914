//! [`SafekeeperLink`]: an open connection to one safekeeper. Encodes, decodes, and moves what the socket takes and gives.
//!
//! A link makes no decision and never waits: the campaign polls it in each of its turns. Bytes that the socket does not
//! take at once stay in the link's buffer, and the link takes no more messages from [`LINK_WRITE_BYTES_HIGH`] on. So a
//! safekeeper that does not read costs that much memory and nobody's time. `safekeeper_dialer` opens links.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use consensus::codec::{self, CodecError};
use consensus::{AcceptorMessage, ProposerMessage, ProtocolVersion};
use postgres_backend::Io;
use postgres_backend::client::{ClientCopyBoth, ClientCopyMessage, ClientCopyReader, ClientError};
use postgres_backend::copy::CopyWriter;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The protocol spoken on a link.
pub(crate) const LINK_PROTOCOL: ProtocolVersion = ProtocolVersion::Holdfast2;
/// Encoded bytes from which on a link takes no more messages. One message is an append of up to 128 KiB.
const LINK_WRITE_BYTES_HIGH: usize = 256 * 1024;
/// Longest answer: a vote with the longest history.
const ANSWER_BYTES_MAX: usize = 128 * 1024;
/// A safekeeper that takes no byte for this long, although some wait for it, has vanished.
const LINK_WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// An open connection to a safekeeper. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct SafekeeperLink<S = TcpStream> {
    reader: ClientCopyReader<S>,
    writer: CopyWriter<S>,
    /// When the socket last took a byte, while others wait for it.
    stalled_since: Option<Instant>,
}

/// Reason for which a connection ended.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot decode the answer of the safekeeper: {0}")]
    Codec(#[from] CodecError),
    #[error("the safekeeper ended the stream")]
    Ended,
    #[error("the safekeeper accepted no bytes for {} s", LINK_WRITE_TIMEOUT.as_secs())]
    WriteTimeout,
}

impl<S: Io> SafekeeperLink<S> {
    /// A link on a connection that has entered START_WAL_PUSH.
    pub(crate) fn new(copy: ClientCopyBoth<S>) -> Self {
        Self { reader: copy.reader, writer: copy.writer, stalled_since: None }
    }

    /// The next answer of the safekeeper, when it has arrived.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<AcceptorMessage, LinkError>> {
        Poll::Ready(match ready!(self.reader.poll_next(cx, ANSWER_BYTES_MAX))? {
            ClientCopyMessage::Data(payload) => Ok(codec::decode_acceptor(LINK_PROTOCOL, payload)?),
            ClientCopyMessage::Done => Err(LinkError::Ended),
        })
    }

    /// True while the link takes messages.
    pub(crate) fn has_room(&self) -> bool {
        self.writer.buffered_bytes() < LINK_WRITE_BYTES_HIGH
    }

    /// True while bytes wait for the socket.
    pub(crate) fn has_unsent(&self) -> bool {
        self.writer.buffered_bytes() > 0
    }

    /// Encodes a message into the buffer.
    pub(crate) fn encode(&mut self, message: &ProposerMessage) -> Result<(), LinkError> {
        let mut encoded = Ok(());
        let framed =
            self.writer.put_with(|out| encoded = codec::encode_proposer(LINK_PROTOCOL, message, out));
        encoded?;
        Ok(framed.map_err(ClientError::from)?)
    }

    /// Writes as much of the buffer as the socket takes. The task is woken when it takes the rest.
    pub(crate) fn write(&mut self, cx: &mut Context<'_>) -> Result<(), LinkError> {
        let waiting = self.writer.buffered_bytes();
        match self.writer.poll_flush(cx) {
            Poll::Ready(written) => {
                written.map_err(ClientError::from)?;
                self.stalled_since = None;
            }
            Poll::Pending if self.writer.buffered_bytes() < waiting => {
                self.stalled_since = Some(Instant::now());
            }
            Poll::Pending => {
                self.stalled_since.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// Fails when bytes have waited for the socket for too long.
    pub(crate) fn check_write_timeout(&self, now: Instant) -> Result<(), LinkError> {
        let stalled = self.stalled_since.is_some_and(|since| now >= since + LINK_WRITE_TIMEOUT);
        if stalled { Err(LinkError::WriteTimeout) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::scripted_server;
    use consensus::PreVoteRequest;
    use wal_types::Generation;

    /// A safekeeper that accepts no bytes costs a bounded buffer, and is given up.
    #[tokio::test(start_paused = true)]
    async fn link_gives_up_safekeeper_that_does_not_read() {
        let (copy, _server) = scripted_server::copy_both().await;
        let mut link = SafekeeperLink::new(copy);
        let message = ProposerMessage::PreVote(PreVoteRequest { generation: Generation(0) });
        while link.has_room() {
            link.encode(&message).unwrap();
        }
        assert!(link.writer.buffered_bytes() < LINK_WRITE_BYTES_HIGH + 100);
        for _ in 0..3 {
            link.write(&mut Context::from_waker(Waker::noop())).unwrap();
            assert!(link.has_unsent());
        }
        tokio::time::advance(LINK_WRITE_TIMEOUT - Duration::from_millis(1)).await;
        link.check_write_timeout(Instant::now()).unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(matches!(link.check_write_timeout(Instant::now()), Err(LinkError::WriteTimeout)));
    }

    /// Each byte that the safekeeper takes starts the time limit over, and what waited arrives.
    #[tokio::test(start_paused = true)]
    async fn link_waits_for_safekeeper_that_reads_slowly() {
        let (copy, mut server) = scripted_server::copy_both().await;
        let mut link = SafekeeperLink::new(copy);
        let message = ProposerMessage::PreVote(PreVoteRequest { generation: Generation(0) });
        while link.has_room() {
            link.encode(&message).unwrap();
        }
        let mut cx = Context::from_waker(Waker::noop());
        link.write(&mut cx).unwrap();
        while link.has_unsent() {
            tokio::time::advance(LINK_WRITE_TIMEOUT / 2).await;
            scripted_server::receive(&mut server).await;
            link.write(&mut cx).unwrap();
            link.check_write_timeout(Instant::now()).unwrap();
        }
    }
}
