//! START_WAL_PUSH: one connection of a proposer, from CopyBothResponse to the end of the copy.
//!
//! One task both reads and writes, with `select!`. It reads only when its lane has room, and decides nothing: messages
//! go to the timeline's disk thread, answers come back by the mailbox, and nothing is sent that is not an answer.
//! Called by `session`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use consensus::{APPEND_WAL_BYTES_MAX, AcceptorMessage, Dialect, ProtocolVersion, codec};
use postgres_backend::error::is_disconnect;
use postgres_backend::{AfterCopy, CopyBoth, CopyEnd, CopyMessage, CopyReader, CopyWriter, Io, QueryError};
use pq_proto::{ErrorResponse, SqlState};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use utils::Shutdown;

use crate::timeline::{Lane, Mail, ThreadEnded, Timeline};

/// Longest message of a proposer, in bytes: an append with its header, or a history of the greatest length with all
/// members.
pub(crate) const MESSAGE_BYTES_MAX: usize = APPEND_WAL_BYTES_MAX + 16 * 1024;

/// Answers that wait in the writer, in bytes; above this the mailbox keeps them, where newer ones replace older ones.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// A proposer sends something every second. One that is silent for this long is gone, whatever the network says.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(10 * 60);

/// Runs the copy.
pub(crate) async fn run<S: Io>(
    stream: CopyBoth<S>,
    timeline: &std::sync::Arc<Timeline>,
    version: ProtocolVersion,
    shutdown: &Shutdown,
) -> CopyEnd<S> {
    let CopyBoth { mut reader, mut writer } = stream;
    let (received, sent) = match timeline.attach() {
        Ok(lane) => {
            let mut receiver = Receiver { lane, version, timeline, encoded: BytesMut::new() };
            Box::pin(receiver.run(&mut reader, &mut writer, shutdown)).await
        }
        Err(error) => (Ok(()), Err(thread_ended(error))),
    };
    CopyEnd { stream: CopyBoth { reader, writer }, received, sent: sent.map(|()| AfterCopy::Close) }
}

struct Receiver<'t> {
    lane: Lane,
    version: ProtocolVersion,
    timeline: &'t Timeline,
    encoded: BytesMut,
}

/// Why the loop ended.
enum End {
    /// The proposer has nothing more to say.
    ByProposer,
    /// The server ends.
    Draining,
    Received(QueryError),
    Sent(QueryError),
}

type Outcome = (Result<(), QueryError>, Result<(), QueryError>);

impl Receiver<'_> {
    /// What became of each direction.
    async fn run<S: Io>(
        &mut self,
        reader: &mut CopyReader<S>,
        writer: &mut CopyWriter<S>,
        shutdown: &Shutdown,
    ) -> Outcome {
        match self.exchange(reader, writer, shutdown).await {
            End::ByProposer => (Ok(()), Ok(())),
            End::Draining => (Ok(()), self.drain(writer).await),
            End::Received(error) => (Err(error), Ok(())),
            End::Sent(error) => (Ok(()), Err(error)),
        }
    }

    async fn exchange<S: Io>(
        &mut self,
        reader: &mut CopyReader<S>,
        writer: &mut CopyWriter<S>,
        shutdown: &Shutdown,
    ) -> End {
        let mut room: Option<OwnedSemaphorePermit> = None;
        let mut heard_at = Instant::now();
        let mut draining = std::pin::pin!(shutdown.draining());
        loop {
            tokio::select! {
                () = &mut draining => return End::Draining,
                // Given up, it leaves the semaphore's queue, in which this connection is alone.
                got = self.lane.room(MESSAGE_BYTES_MAX), if room.is_none() => room = Some(got),
                // Cancel-safe: what has arrived of a message stays in the reader's buffer.
                message = reader.next(MESSAGE_BYTES_MAX), if room.is_some() => {
                    heard_at = Instant::now();
                    match message {
                        Ok(CopyMessage::Data(payload)) => {
                            if let Err(error) = self.take(payload, &mut room) {
                                return End::Received(error);
                            }
                        }
                        Ok(CopyMessage::Done | CopyMessage::Terminate | CopyMessage::Fail(_)) => return End::ByProposer,
                        Err(error) if is_disconnect(&error) => return End::ByProposer,
                        Err(error) => return End::Received(error.into()),
                    }
                }
                // Cancel-safe: mail that was not returned stays in the box.
                mail = self.lane.mailbox().take(), if writer.buffered_bytes() < UNSENT_BYTES_MAX => match mail {
                    Mail::Message(message) => {
                        if let Err(error) = self.put(message, writer) {
                            return End::Sent(error);
                        }
                    }
                    Mail::End(reason) => return End::Sent(reason.into()),
                },
                // Cancel-safe: what was not written stays buffered.
                flushed = writer.flush(), if writer.buffered_bytes() > 0 => match flushed {
                    Ok(()) => {}
                    Err(error) if is_disconnect(&error) => return End::ByProposer,
                    Err(error) => return End::Sent(error.into()),
                },
                () = sleep_until(heard_at + SILENCE_MAX) => {
                    let words = format!("nothing heard from the proposer for {} s", SILENCE_MAX.as_secs());
                    return End::Received(ErrorResponse::fatal(SqlState::CONNECTION_FAILURE, words).into());
                }
            }
        }
    }

    /// Decodes a message and queues it.
    fn take(&mut self, payload: Bytes, room: &mut Option<OwnedSemaphorePermit>) -> Result<(), QueryError> {
        let bytes = payload.len();
        let message = codec::decode_proposer(self.version, payload)
            .map_err(|error| ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()))?;
        match room.take() {
            Some(room) => self.lane.queue(message, bytes, room).map_err(thread_ended),
            // `exchange` reads only with room.
            None => Ok(()),
        }
    }

    /// Encodes an answer.
    fn put<S: Io>(
        &mut self,
        mut message: AcceptorMessage,
        writer: &mut CopyWriter<S>,
    ) -> Result<(), QueryError> {
        if let AcceptorMessage::Append(response) = &mut message {
            response.hot_standby = self.timeline.readers.hot_standby();
            if self.version.dialect() == Dialect::Neon {
                response.pageserver = self.timeline.readers.pageserver();
            }
        }
        self.encoded.clear();
        codec::encode_acceptor(self.version, &message, &mut self.encoded)
            .map_err(|error| ErrorResponse::fatal(SqlState::INTERNAL_ERROR, error.to_string()))?;
        Ok(writer.put(&self.encoded)?)
    }

    /// Waits until everything that was received is decided, tells the answers, then says why it ends.
    async fn drain<S: Io>(&mut self, writer: &mut CopyWriter<S>) -> Result<(), QueryError> {
        let _all = self.lane.room(crate::timeline::APPEND_LANE_BYTES_MAX).await;
        while let Some(Mail::Message(message)) = self.lane.mailbox().try_take() {
            self.put(message, writer)?;
        }
        Err(shutting_down().into())
    }
}

/// What a connection is told when the server ends.
pub(crate) fn shutting_down() -> ErrorResponse {
    ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

pub(crate) fn thread_ended(error: ThreadEnded) -> QueryError {
    ErrorResponse::fatal(SqlState::INTERNAL_ERROR, error.to_string()).into()
}
