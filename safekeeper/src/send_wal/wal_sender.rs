//! [`WalSender`]: streams WAL to one reader, and records what the reader reports. One task reads and writes.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use consensus::{Dialect, TliSwitch};
use postgres_backend::error::is_disconnect;
use postgres_backend::{AfterCopy, CopyMessage, CopyReader, CopyWriter, Io, QueryError};
use pq_proto::ErrorResponse;
use pq_proto::replication::{PrimaryKeepalive, postgres_micros, put_xlog_data_header};
use tokio::time::{Instant, sleep_until};
use utils::Shutdown;
use wal_store::Snapshot;
use wal_types::Lsn;

use super::chunk::{ChunkReader, chunk_end};
use super::reader_message::{READER_MESSAGE_BYTES_MAX, ReaderMessage};
use super::request::{CheckedRequest, check_not_removed};
use crate::closing::{shard_ended, shutting_down};
use crate::feedback::RegisteredReader;
use crate::metrics::Metrics;
use crate::replies;
use crate::slots::SlotUse;
use crate::timeline::SnapshotWatch;

/// Interval of keepalives to a reader that has all the WAL there is.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Time after which a reader that sends nothing and receives nothing counts as gone (the default of
/// `wal_sender_timeout`).
pub(crate) const READER_SILENCE_MAX: Duration = Duration::from_secs(60);

/// Silence of a reader after which a keepalive asks for a reply.
pub(crate) const REPLY_REQUEST_AFTER: Duration = Duration::from_secs(10);

/// The sending side of one START_REPLICATION.
pub(super) struct WalSender<'m> {
    snapshots: SnapshotWatch,
    chunks: ChunkReader,
    reports: RegisteredReader,
    request: CheckedRequest,
    /// The next byte to send.
    position: Lsn,
    metrics: &'m Metrics,
}

/// Why the exchange with a reader ended.
enum StreamEnd {
    /// The reader ended the copy.
    ByReader,
    /// The reader disconnected, or counts as gone.
    Disconnected,
    /// All WAL of the requested PostgreSQL timeline is sent.
    TimelineEnded(TliSwitch),
    /// Receiving failed; the reader is told why.
    ReceiveFailed(QueryError),
    /// Sending failed, or nothing more may be sent.
    SendFailed(QueryError),
}

/// Results of the two directions: received, sent.
type StreamResults = (Result<(), QueryError>, Result<AfterCopy, QueryError>);

/// Result of [`WalSender::buffer_next_chunk`].
enum NextChunk {
    Buffered,
    AllSent,
    /// The log changed during the read: look at the newest snapshot.
    LogChanged,
    TimelineEnded(TliSwitch),
}

impl<'m> WalSender<'m> {
    pub(super) fn new(request: CheckedRequest, metrics: &'m Metrics) -> Self {
        Self {
            snapshots: request.timeline.watch(),
            chunks: ChunkReader::new(request.timeline.wal_reader(request.read_mode())),
            reports: request.timeline.readers.register(request.start),
            position: request.start,
            request,
            metrics,
        }
    }

    pub(super) async fn run<S: Io>(
        &mut self,
        reader: &mut CopyReader<S>,
        writer: &mut CopyWriter<S>,
        shutdown: &Shutdown,
    ) -> StreamResults {
        let results = match self.exchange(reader, writer, shutdown).await {
            StreamEnd::Disconnected => return (Ok(()), Ok(AfterCopy::Close)),
            StreamEnd::ReceiveFailed(error) => return (Err(error), Ok(AfterCopy::Close)),
            StreamEnd::SendFailed(error) => return (Ok(()), Err(error)),
            StreamEnd::ByReader => replies::streaming_ended(),
            StreamEnd::TimelineEnded(switch) => replies::next_timeline(&switch),
        };
        match finish_copy(reader, writer).await {
            Ok(true) => (Ok(()), Ok(AfterCopy::Ready(results))),
            Ok(false) => (Ok(()), Ok(AfterCopy::Close)),
            Err(error) => (Ok(()), Err(error)),
        }
    }

    async fn exchange<S: Io>(
        &mut self,
        reader: &mut CopyReader<S>,
        writer: &mut CopyWriter<S>,
        shutdown: &Shutdown,
    ) -> StreamEnd {
        let mut last_alive = Instant::now();
        let mut last_sent = Instant::now();
        let mut chunk_in_flight = false;
        let mut draining = std::pin::pin!(shutdown.draining());
        loop {
            let snapshot = self.snapshots.current();
            if writer.buffered_bytes() == 0 {
                match self.buffer_next_chunk(&snapshot, writer).await {
                    Ok(NextChunk::Buffered) => (last_sent, chunk_in_flight) = (Instant::now(), true),
                    Ok(NextChunk::AllSent) => {}
                    Ok(NextChunk::LogChanged) => continue,
                    Ok(NextChunk::TimelineEnded(switch)) => return StreamEnd::TimelineEnded(switch),
                    Err(error) => return StreamEnd::SendFailed(error),
                }
            }

            let sending = writer.buffered_bytes() > 0;
            tokio::select! {
                () = &mut draining => return StreamEnd::SendFailed(shutting_down().into()),
                // Cancel-safe: what was not written stays buffered.
                flushed = writer.flush(), if sending => match flushed {
                    // A reader that receives WAL is alive, even if it never reports; keepalives fit into any buffer.
                    Ok(()) if std::mem::take(&mut chunk_in_flight) => last_alive = Instant::now(),
                    Ok(()) => {}
                    Err(error) if is_disconnect(&error) => return StreamEnd::Disconnected,
                    Err(error) => return StreamEnd::SendFailed(error.into()),
                },
                // Cancel-safe: what has arrived of a message stays in the reader's buffer.
                message = reader.next(READER_MESSAGE_BYTES_MAX) => {
                    last_alive = Instant::now();
                    if let Some(slot) = &self.request.slot {
                        slot.record_heard();
                    }
                    match message {
                        Ok(CopyMessage::Data(payload)) => match self.decode_and_record(payload) {
                            Ok(keepalive_requested) => {
                                if keepalive_requested
                                    && let Err(error) = self.put_keepalive(&snapshot, false, writer)
                                {
                                    return StreamEnd::SendFailed(error);
                                }
                            }
                            Err(error) => return StreamEnd::ReceiveFailed(error.into()),
                        },
                        Ok(CopyMessage::Done) => return StreamEnd::ByReader,
                        Ok(CopyMessage::Terminate | CopyMessage::Fail(_)) => return StreamEnd::Disconnected,
                        Err(error) if is_disconnect(&error) => return StreamEnd::Disconnected,
                        Err(error) => return StreamEnd::ReceiveFailed(error.into()),
                    }
                }
                // Cancel-safe, and the loop looks at the newest snapshot anyway.
                changed = self.snapshots.changed(), if !sending => {
                    if let Err(error) = changed {
                        return StreamEnd::SendFailed(shard_ended(error));
                    }
                }
                () = sleep_until(last_sent + KEEPALIVE_INTERVAL), if !sending => {
                    last_sent = Instant::now();
                    let reply_requested = last_alive.elapsed() >= REPLY_REQUEST_AFTER;
                    if let Err(error) = self.put_keepalive(&snapshot, reply_requested, writer) {
                        return StreamEnd::SendFailed(error);
                    }
                }
                // Another reader wants the slot: this one has to answer, or it loses the slot.
                () = slot_asked(self.request.slot.as_ref()) => {
                    if let Err(error) = self.put_keepalive(&snapshot, true, writer) {
                        return StreamEnd::SendFailed(error);
                    }
                }
                () = slot_displaced(self.request.slot.as_ref()) => {
                    tracing::info!(position = %self.position, "reader lost its slot to another one, closing its connection");
                    return StreamEnd::Disconnected;
                }
                () = sleep_until(last_alive + READER_SILENCE_MAX) => {
                    let silence_seconds = READER_SILENCE_MAX.as_secs();
                    tracing::info!(position = %self.position, silence_seconds, "reader is silent, closing its connection");
                    return StreamEnd::Disconnected;
                }
            }
        }
    }

    /// Puts the next chunk of WAL into the writer, if there is one.
    async fn buffer_next_chunk<S: Io>(
        &mut self,
        snapshot: &Snapshot,
        writer: &mut CopyWriter<S>,
    ) -> Result<NextChunk, QueryError> {
        self.request.check_term(snapshot)?;
        // In the middle of a copy the refusal has to close the connection.
        check_not_removed(snapshot, self.position)
            .map_err(|refused| ErrorResponse::fatal(refused.sqlstate, refused.message))?;

        let (end, switch) = self.request.end(snapshot);
        if self.position >= end {
            return Ok(switch.map_or(NextChunk::AllSent, NextChunk::TimelineEnded));
        }

        let to = chunk_end(self.position, end, snapshot.lineage.segment_size.bytes().into());
        let (position, now) = (self.position, postgres_micros(SystemTime::now()));
        let Some(wal) = self.chunks.read(position, to).await? else { return Ok(NextChunk::LogChanged) };
        writer.put_with(|out| {
            put_xlog_data_header(out, position, end, now);
            out.extend_from_slice(wal);
        })?;

        let bytes = wal.len() as u64;
        self.metrics.wal_sent_bytes.inc_by(bytes);
        self.position = position.advance(bytes);
        self.reports.record_sent(self.position);
        Ok(NextChunk::Buffered)
    }

    /// Records a message of the reader. True when the reader asks for a keepalive.
    fn decode_and_record(&self, payload: Bytes) -> Result<bool, ErrorResponse> {
        match ReaderMessage::decode(payload)? {
            ReaderMessage::Status(update) => {
                self.reports.record_status(&update);
                if let Some(slot) = &self.request.slot {
                    slot.record_flushed(update.flush);
                }
                return Ok(update.reply_requested);
            }
            ReaderMessage::HotStandby(feedback) => self.reports.record_hot_standby(feedback),
            ReaderMessage::Pageserver(feedback) => self.reports.record_pageserver(feedback),
        }
        Ok(false)
    }

    fn put_keepalive<S: Io>(
        &self,
        snapshot: &Snapshot,
        reply_requested: bool,
        writer: &mut CopyWriter<S>,
    ) -> Result<(), QueryError> {
        // Page servers report only when they are asked, and the public safekeeper asks each time.
        let reply_requested = reply_requested || snapshot.lineage.dialect == Dialect::Neon;
        let keepalive = PrimaryKeepalive {
            server_end: self.request.end(snapshot).0,
            sent_at_micros: postgres_micros(SystemTime::now()),
            reply_requested,
        };
        Ok(writer.put_with(|out| keepalive.encode(out))?)
    }
}

/// Waits until another reader asks for the slot; for ever without a slot. Cancel-safe.
async fn slot_asked(slot: Option<&SlotUse>) {
    match slot {
        Some(slot) => slot.asked().await,
        None => std::future::pending().await,
    }
}

/// Waits until the slot is taken away; for ever without a slot. Cancel-safe.
async fn slot_displaced(slot: Option<&SlotUse>) {
    match slot {
        Some(slot) => slot.displaced().await,
        None => std::future::pending().await,
    }
}

/// Ends this side of the copy, and waits for the end of the other. False when the reader disconnected instead.
async fn finish_copy<S: Io>(
    reader: &mut CopyReader<S>,
    writer: &mut CopyWriter<S>,
) -> Result<bool, QueryError> {
    writer.put_done()?;
    let exchange = async {
        writer.flush().await?;
        loop {
            match reader.next(READER_MESSAGE_BYTES_MAX).await {
                Ok(CopyMessage::Done) => return Ok(true),
                // Feedback that was on its way.
                Ok(CopyMessage::Data(_)) => {}
                Ok(CopyMessage::Terminate | CopyMessage::Fail(_)) => return Ok(false),
                Err(error) if is_disconnect(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    };
    tokio::time::timeout(READER_SILENCE_MAX, exchange).await.unwrap_or(Ok(false))
}
