//! START_WAL_PUSH: one connection of a proposer, from CopyBothResponse to the end of the copy.
//!
//! One task reads and writes, with `select!`. It reads only when its lane has room. It decides nothing: messages go to the
//! timeline's disk thread, replies come back through the mailbox, and only replies are sent. Called by `session`.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use consensus::{APPEND_WAL_BYTES_MAX, AcceptorMessage, Dialect, ProtocolVersion, codec};
use postgres_backend::error::is_disconnect;
use postgres_backend::{AfterCopy, CopyBoth, CopyEnd, CopyMessage, CopyReader, CopyWriter, Io, QueryError};
use pq_proto::{ErrorResponse, SqlState};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use utils::Shutdown;

use crate::closing::{shutting_down, thread_ended};
use crate::timeline::{LANE_BYTES_MAX, LaneSender, Mail, Timeline};

/// Longest message of a proposer, in bytes: an append with its header, or the longest history with all members.
pub(crate) const MESSAGE_BYTES_MAX: usize = APPEND_WAL_BYTES_MAX + 16 * 1024;

/// Replies that wait in the writer, in bytes. Above this they stay in the mailbox, where newer ones replace older ones.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// Silence after which a proposer counts as gone, whatever the network says. A live one sends something every second.
pub(crate) const PROPOSER_SILENCE_MAX: Duration = Duration::from_secs(10 * 60);

/// Receives WAL of a proposer until the copy ends.
pub(crate) async fn run<S: Io>(
    stream: CopyBoth<S>,
    timeline: &Arc<Timeline>,
    version: ProtocolVersion,
    shutdown: &Shutdown,
) -> CopyEnd<S> {
    let CopyBoth { mut reader, mut writer } = stream;
    let (received, sent) = match timeline.open_lane() {
        Ok(lane) => {
            let mut receiver = WalReceiver { lane, version, timeline, encoded: BytesMut::new() };
            Box::pin(receiver.run(&mut reader, &mut writer, shutdown)).await
        }
        Err(error) => (Ok(()), Err(thread_ended(error))),
    };
    CopyEnd { stream: CopyBoth { reader, writer }, received, sent: sent.map(|()| AfterCopy::Close) }
}

struct WalReceiver<'t> {
    lane: LaneSender,
    version: ProtocolVersion,
    timeline: &'t Timeline,
    encoded: BytesMut,
}

/// Why the exchange with a proposer ended.
enum PushEnd {
    /// The proposer ended the copy or disconnected.
    ByProposer,
    /// The safekeeper is shutting down.
    Draining,
    /// Receiving failed; the proposer is told why.
    ReceiveFailed(QueryError),
    /// Sending failed, or the disk thread closed the connection.
    SendFailed(QueryError),
}

/// Results of the two directions: received, sent.
type PushResults = (Result<(), QueryError>, Result<(), QueryError>);

impl WalReceiver<'_> {
    async fn run<S: Io>(
        &mut self,
        reader: &mut CopyReader<S>,
        writer: &mut CopyWriter<S>,
        shutdown: &Shutdown,
    ) -> PushResults {
        match self.exchange(reader, writer, shutdown).await {
            PushEnd::ByProposer => (Ok(()), Ok(())),
            PushEnd::Draining => (Ok(()), self.drain(writer).await),
            PushEnd::ReceiveFailed(error) => (Err(error), Ok(())),
            PushEnd::SendFailed(error) => (Ok(()), Err(error)),
        }
    }

    async fn exchange<S: Io>(
        &mut self,
        reader: &mut CopyReader<S>,
        writer: &mut CopyWriter<S>,
        shutdown: &Shutdown,
    ) -> PushEnd {
        let mut room: Option<OwnedSemaphorePermit> = None;
        let mut last_received = Instant::now();
        let mut draining = std::pin::pin!(shutdown.draining());
        loop {
            tokio::select! {
                () = &mut draining => return PushEnd::Draining,
                // Cancel-safe: a cancelled wait leaves the semaphore's queue, in which this connection is alone.
                reserved = self.lane.reserve(MESSAGE_BYTES_MAX), if room.is_none() => room = Some(reserved),
                // Cancel-safe: what has arrived of a message stays in the reader's buffer.
                message = reader.next(MESSAGE_BYTES_MAX), if room.is_some() => {
                    last_received = Instant::now();
                    match message {
                        Ok(CopyMessage::Data(payload)) => {
                            if let Err(error) = self.decode_and_enqueue(payload, &mut room) {
                                return PushEnd::ReceiveFailed(error);
                            }
                        }
                        Ok(CopyMessage::Done | CopyMessage::Terminate | CopyMessage::Fail(_)) => {
                            return PushEnd::ByProposer;
                        }
                        Err(error) if is_disconnect(&error) => return PushEnd::ByProposer,
                        Err(error) => return PushEnd::ReceiveFailed(error.into()),
                    }
                }
                // Cancel-safe: mail that was not returned stays in the mailbox.
                mail = self.lane.mailbox().next(), if writer.buffered_bytes() < UNSENT_BYTES_MAX => match mail {
                    Mail::Reply(reply) => {
                        if let Err(error) = self.encode(reply, writer) {
                            return PushEnd::SendFailed(error);
                        }
                    }
                    Mail::Close(reason) => return PushEnd::SendFailed(reason.into()),
                },
                // Cancel-safe: what was not written stays buffered.
                flushed = writer.flush(), if writer.buffered_bytes() > 0 => match flushed {
                    Ok(()) => {}
                    Err(error) if is_disconnect(&error) => return PushEnd::ByProposer,
                    Err(error) => return PushEnd::SendFailed(error.into()),
                },
                () = sleep_until(last_received + PROPOSER_SILENCE_MAX) => {
                    let reason = format!("no message from the proposer for {} s", PROPOSER_SILENCE_MAX.as_secs());
                    return PushEnd::ReceiveFailed(ErrorResponse::fatal(SqlState::CONNECTION_FAILURE, reason).into());
                }
            }
        }
    }

    /// Decodes a message and puts it into the lane, in the room that was reserved for it.
    fn decode_and_enqueue(
        &mut self,
        payload: Bytes,
        room: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<(), QueryError> {
        let bytes = payload.len();
        let message = codec::decode_proposer(self.version, payload)
            .map_err(|error| ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()))?;
        match room.take() {
            Some(room) => self.lane.enqueue(message, bytes, room).map_err(thread_ended),
            // `exchange` reads only with room.
            None => Ok(()),
        }
    }

    /// Encodes a reply into the writer. An append response carries the feedback of the readers.
    fn encode<S: Io>(
        &mut self,
        mut reply: AcceptorMessage,
        writer: &mut CopyWriter<S>,
    ) -> Result<(), QueryError> {
        if let AcceptorMessage::Append(response) = &mut reply {
            response.hot_standby = self.timeline.readers.hot_standby();
            if self.version.dialect() == Dialect::Neon {
                response.pageserver = self.timeline.readers.pageserver();
            }
        }

        self.encoded.clear();
        codec::encode_acceptor(self.version, &reply, &mut self.encoded)
            .map_err(|error| ErrorResponse::fatal(SqlState::INTERNAL_ERROR, error.to_string()))?;
        Ok(writer.put(&self.encoded)?)
    }

    /// Waits until every received message is decided, sends the replies, then the closing message.
    async fn drain<S: Io>(&mut self, writer: &mut CopyWriter<S>) -> Result<(), QueryError> {
        let _whole_lane = self.lane.reserve(LANE_BYTES_MAX).await;
        while let Some(Mail::Reply(reply)) = self.lane.mailbox().try_next() {
            self.encode(reply, writer)?;
        }
        Err(shutting_down().into())
    }
}
