//! [`ProposerConnection`]: one connection of a proposer on its shard: messages in, replies out.
//!
//! It decides nothing: messages go to its lane, and only replies are sent. It never waits: what has not arrived, and what
//! the peer does not take, is left to a later turn.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use consensus::{APPEND_WAL_BYTES_MAX, AcceptorMessage, Dialect, ProposerMessage, ProtocolVersion, codec};
use postgres_backend::error::is_disconnect;
use postgres_backend::{CopyMessage, QueryError};
use pq_proto::{ErrorResponse, SqlState};

use super::command::TimelineKey;
use super::lane_queues::Lane;
use super::lent_copy::{LentCopy, PushEnd};
use super::ready_list::ReadyEntry;
use super::reply_queue::ReplyQueue;
use crate::feedback::Readers;

/// Longest message of a proposer, in bytes: an append with its header, or the longest history with all members.
const MESSAGE_BYTES_MAX: usize = APPEND_WAL_BYTES_MAX + 16 * 1024;

/// Encoded replies that wait for the peer, in bytes. Above this they stay in the queue, where newer ones replace older
/// ones.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// Silence after which a proposer counts as gone, whatever the network says. A live one sends something every second.
pub(super) const PROPOSER_SILENCE_MAX: Duration = Duration::from_secs(10 * 60);

/// One connection of a proposer.
pub(super) struct ProposerConnection {
    /// The timeline that it writes.
    pub(super) key: TimelineKey,
    pub(super) ready: ReadyEntry,
    waker: Waker,
    lent: LentCopy,
    version: ProtocolVersion,
    readers: Arc<Readers>,
    replies: ReplyQueue,
    encoded: BytesMut,
    /// The peer did not take everything yet.
    is_sending: bool,
    received_at: Instant,
}

/// Why [`ProposerConnection::receive`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// All that has arrived is in the lane.
    All,
    /// The lane has no room.
    UpToRoom,
}

impl ProposerConnection {
    /// A connection whose socket belongs to the shard's runtime.
    pub(super) fn new(
        key: TimelineKey,
        ready: ReadyEntry,
        lent: LentCopy,
        version: ProtocolVersion,
        readers: Arc<Readers>,
    ) -> Self {
        Self {
            key,
            waker: ready.waker(),
            ready,
            lent,
            version,
            readers,
            replies: ReplyQueue::default(),
            encoded: BytesMut::new(),
            is_sending: false,
            received_at: Instant::now(),
        }
    }

    /// Puts the messages that have arrived into the lane, as long as it has room.
    pub(super) fn receive(&mut self, lane: &mut Lane, now: Instant) -> Result<Received, PushEnd> {
        while lane.has_room() {
            // The future may be dropped: what has arrived of a message stays in the reader's buffer.
            let next = pin!(self.lent.copy().reader.next(MESSAGE_BYTES_MAX));
            match next.poll(&mut Context::from_waker(&self.waker)) {
                Poll::Pending => return Ok(Received::All),
                Poll::Ready(Ok(CopyMessage::Data(payload))) => {
                    self.received_at = now;
                    lane.push(decode(self.version, payload)?);
                }
                Poll::Ready(Ok(CopyMessage::Done | CopyMessage::Terminate | CopyMessage::Fail(_))) => {
                    return Err(PushEnd::ByProposer);
                }
                Poll::Ready(Err(error)) if is_disconnect(&error) => return Err(PushEnd::ByProposer),
                Poll::Ready(Err(error)) => return Err(PushEnd::ReceiveFailed(error.into())),
            }
        }
        Ok(Received::UpToRoom)
    }

    /// Sends a reply, now or when the peer takes it.
    pub(super) fn reply(&mut self, reply: AcceptorMessage) -> Result<(), PushEnd> {
        if !self.replies.push(reply) {
            let reason = "proposer sends requests and does not read the replies";
            return Err(send_failed(ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, reason)));
        }
        // Only the socket's own event helps a peer that takes nothing.
        if self.is_sending { Ok(()) } else { self.send() }
    }

    /// Goes on with sending when the socket has become writable.
    pub(super) fn send_rest(&mut self) -> Result<(), PushEnd> {
        if self.is_sending { self.send() } else { Ok(()) }
    }

    /// Gives the connection back to its session. All replies go before the session's closing message.
    pub(super) fn end(mut self, end: PushEnd) {
        while let Some(reply) = self.replies.pop() {
            if let Err(failed) = self.encode(reply) {
                return self.lent.give_back(failed);
            }
        }
        self.lent.give_back(end);
    }

    /// Why the connection ends when its proposer has been silent for too long.
    pub(super) fn check_silence(&self, now: Instant) -> Result<(), PushEnd> {
        if now.saturating_duration_since(self.received_at) < PROPOSER_SILENCE_MAX {
            return Ok(());
        }
        let reason = format!("no message from the proposer for {} s", PROPOSER_SILENCE_MAX.as_secs());
        Err(PushEnd::ReceiveFailed(ErrorResponse::fatal(SqlState::CONNECTION_FAILURE, reason).into()))
    }

    /// Writes the replies to the socket until it takes no more.
    fn send(&mut self) -> Result<(), PushEnd> {
        loop {
            while self.lent.copy().writer.buffered_bytes() < UNSENT_BYTES_MAX
                && let Some(reply) = self.replies.pop()
            {
                self.encode(reply)?;
            }
            // The future may be dropped: what was not written stays buffered.
            let flush = pin!(self.lent.copy().writer.flush());
            match flush.poll(&mut Context::from_waker(&self.waker)) {
                Poll::Pending => {
                    self.is_sending = true;
                    return Ok(());
                }
                Poll::Ready(Ok(())) if self.replies.is_empty() => {
                    self.is_sending = false;
                    return Ok(());
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) if is_disconnect(&error) => return Err(PushEnd::ByProposer),
                Poll::Ready(Err(error)) => return Err(PushEnd::SendFailed(error.into())),
            }
        }
    }

    /// Encodes a reply into the writer. An append response carries the feedback of the readers.
    fn encode(&mut self, mut reply: AcceptorMessage) -> Result<(), PushEnd> {
        if let AcceptorMessage::Append(response) = &mut reply {
            response.hot_standby = self.readers.hot_standby();
            if self.version.dialect() == Dialect::Neon {
                response.pageserver = self.readers.pageserver();
            }
        }

        self.encoded.clear();
        codec::encode_acceptor(self.version, &reply, &mut self.encoded).map_err(|error| {
            send_failed(ErrorResponse::fatal(SqlState::INTERNAL_ERROR, error.to_string()))
        })?;
        let put = self.lent.copy().writer.put(&self.encoded);
        put.map_err(|error| PushEnd::SendFailed(QueryError::from(error)))
    }
}

fn decode(version: ProtocolVersion, payload: Bytes) -> Result<ProposerMessage, PushEnd> {
    codec::decode_proposer(version, payload).map_err(|error| {
        let response = ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string());
        PushEnd::ReceiveFailed(response.into())
    })
}

/// The connection is closed with this response.
pub(super) fn send_failed(response: ErrorResponse) -> PushEnd {
    PushEnd::SendFailed(response.into())
}
