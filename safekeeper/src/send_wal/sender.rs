//! [`Sender`]: streams WAL to one reader, and takes what it reports. One task both reads and writes.

use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use consensus::{Dialect, TliSwitch, codec};
use postgres_backend::error::is_disconnect;
use postgres_backend::{AfterCopy, CopyMessage, CopyReader, CopyWriter, Io, QueryError};
use pq_proto::replication::{FromStandby, PrimaryKeepalive, postgres_micros, put_xlog_data_header};
use pq_proto::{ErrorResponse, ProtocolError, SqlState};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use utils::Shutdown;
use wal_store::{ReadError, ReadOutcome, RealDisk, Snapshot, WalReader};
use wal_types::Lsn;

use super::{check_term, lines, removed};
use crate::command::StartReplication;
use crate::feedback::{self, Reader};
use crate::metrics::Metrics;
use crate::receive_wal::{shutting_down, thread_ended};
use crate::replies;
use crate::timeline::{Timeline, Watch};
use crate::tli_lines::TliRequest;

/// Most WAL in one message, as real servers send it: 16 pages.
pub(crate) const SEND_WAL_BYTES_MAX: u64 = 128 * 1024;

/// A message of WAL that does not end where the WAL ends is cut at a page.
const PAGE_BYTES: u64 = wal_format::PAGE_BYTES as u64;

/// A reader that has all there is hears something this often.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// A reader that says nothing, and takes nothing, for this long is gone (the default of `wal_sender_timeout`).
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A reader that was silent for this long is asked to answer a keepalive.
pub(crate) const ASK_AFTER: Duration = Duration::from_secs(10);

/// Longest message of a reader, in bytes. Status and feedback have 34 and 25; a page server's has a list of keys.
const MESSAGE_BYTES_MAX: usize = 4096;

/// A page server's own feedback: a tag, a length that says nothing new, then keys and values.
const PAGESERVER_FEEDBACK_TAG: u8 = b'z';
const PAGESERVER_FEEDBACK_HEADER_BYTES: usize = 9;

pub(super) struct Sender<'m> {
    watch: Watch,
    /// With the buffer that it reads into; away while a blocking thread reads.
    wal: Option<(WalReader<RealDisk>, Vec<u8>)>,
    report: Reader,
    request: StartReplication,
    /// The next byte to send.
    position: Lsn,
    metrics: &'m Metrics,
}

/// Why the loop ended.
enum End {
    /// The reader has enough.
    ByReader,
    /// The reader is gone.
    Gone,
    /// All of the PostgreSQL timeline is sent.
    TimelineEnded(TliSwitch),
    Received(QueryError),
    Sent(QueryError),
}

type Outcome = (Result<(), QueryError>, Result<AfterCopy, QueryError>);

impl<'m> Sender<'m> {
    pub(super) fn new(
        timeline: &Timeline,
        request: StartReplication,
        wal: WalReader<RealDisk>,
        metrics: &'m Metrics,
    ) -> Self {
        Self {
            watch: timeline.watch(),
            wal: Some((wal, Vec::new())),
            report: timeline.readers.join(request.start),
            position: request.start,
            request,
            metrics,
        }
    }

    /// What became of each direction.
    pub(super) async fn run<S: Io>(
        &mut self,
        reader: &mut CopyReader<S>,
        writer: &mut CopyWriter<S>,
        shutdown: &Shutdown,
    ) -> Outcome {
        let results = match self.exchange(reader, writer, shutdown).await {
            End::Gone => return (Ok(()), Ok(AfterCopy::Close)),
            End::Received(error) => return (Err(error), Ok(AfterCopy::Close)),
            End::Sent(error) => return (Ok(()), Err(error)),
            End::ByReader => replies::streaming_ended(),
            End::TimelineEnded(switch) => replies::next_timeline(&switch),
        };
        match say_done(reader, writer).await {
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
    ) -> End {
        let mut heard_at = Instant::now();
        let mut said_at = Instant::now();
        let mut wal_under_way = false;
        let mut draining = std::pin::pin!(shutdown.draining());
        loop {
            let snapshot = self.watch.current();
            if writer.buffered_bytes() == 0 {
                match self.fill(&snapshot, writer).await {
                    Ok(Filled::Wal) => (said_at, wal_under_way) = (Instant::now(), true),
                    Ok(Filled::AllSent) => {}
                    Ok(Filled::Changed) => continue,
                    Ok(Filled::TimelineEnded(switch)) => return End::TimelineEnded(switch),
                    Err(error) => return End::Sent(error),
                }
            }
            let sending = writer.buffered_bytes() > 0;
            tokio::select! {
                () = &mut draining => return End::Sent(shutting_down().into()),
                // Cancel-safe: what was not written stays buffered.
                flushed = writer.flush(), if sending => match flushed {
                    // Who takes WAL is alive, even if it never says so; keepalives fit into any buffer.
                    Ok(()) if std::mem::take(&mut wal_under_way) => heard_at = Instant::now(),
                    Ok(()) => {}
                    Err(error) if is_disconnect(&error) => return End::Gone,
                    Err(error) => return End::Sent(error.into()),
                },
                // Cancel-safe: what has arrived of a message stays in the reader's buffer.
                message = reader.next(MESSAGE_BYTES_MAX) => {
                    heard_at = Instant::now();
                    match message {
                        Ok(CopyMessage::Data(payload)) => match self.take(payload) {
                            Ok(Wants::Nothing) => {}
                            Ok(Wants::Keepalive) => match self.put_keepalive(&snapshot, false, writer) {
                                Ok(()) => {}
                                Err(error) => return End::Sent(error),
                            },
                            Err(error) => return End::Received(error.into()),
                        },
                        Ok(CopyMessage::Done) => return End::ByReader,
                        Ok(CopyMessage::Terminate | CopyMessage::Fail(_)) => return End::Gone,
                        Err(error) if is_disconnect(&error) => return End::Gone,
                        Err(error) => return End::Received(error.into()),
                    }
                }
                // Cancel-safe, and the loop looks at the newest snapshot anyway.
                changed = self.watch.changed(), if !sending => {
                    if let Err(error) = changed {
                        return End::Sent(thread_ended(error));
                    }
                }
                () = sleep_until(said_at + KEEPALIVE_INTERVAL), if !sending => {
                    said_at = Instant::now();
                    let ask = heard_at.elapsed() >= ASK_AFTER;
                    if let Err(error) = self.put_keepalive(&snapshot, ask, writer) {
                        return End::Sent(error);
                    }
                }
                () = sleep_until(heard_at + SILENCE_MAX) => {
                    tracing::info!(position = %self.position, "terminating replication due to timeout");
                    return End::Gone;
                }
            }
        }
    }

    /// Buffers the next piece of WAL, if there is one.
    async fn fill<S: Io>(
        &mut self,
        snapshot: &Snapshot,
        writer: &mut CopyWriter<S>,
    ) -> Result<Filled, QueryError> {
        check_term(snapshot, self.request.term)?;
        if self.position < snapshot.oldest_lsn {
            let gone = removed(snapshot, self.position);
            return Err(ErrorResponse::fatal(gone.sqlstate, gone.message).into());
        }
        let (end, switch) = self.end(snapshot);
        if self.position >= end {
            return Ok(switch.map_or(Filled::AllSent, Filled::TimelineEnded));
        }
        let to = piece_end(self.position, end, snapshot.lineage.segment_size.bytes().into());
        let (position, now) = (self.position, postgres_micros(SystemTime::now()));
        let Some(wal) = self.read(to).await? else { return Ok(Filled::Changed) };
        writer.put_with(|out| {
            put_xlog_data_header(out, position, end, now);
            out.extend_from_slice(wal);
        })?;
        let bytes = wal.len() as u64;
        self.metrics.wal_sent_bytes.inc_by(bytes);
        self.position = position.advance(bytes);
        self.report.sent(self.position);
        Ok(Filled::Wal)
    }

    /// Up to where there is something to send, and what ends there when it is the end of a PostgreSQL timeline.
    fn end(&self, snapshot: &Snapshot) -> (Lsn, Option<TliSwitch>) {
        let available = if self.request.term.is_some() { snapshot.flush_lsn } else { snapshot.commit_lsn };
        match self.request.tli.map(|tli| lines(snapshot, self.request.term).request(tli)) {
            Some(TliRequest::Ended(switch)) => (switch.at, Some(switch)),
            _ => (available, None),
        }
    }

    /// The bytes from the position up to `to`; `None` when the log changed meanwhile, and is to be looked at again.
    async fn read(&mut self, to: Lsn) -> Result<Option<&[u8]>, QueryError> {
        let from = self.position;
        let Some((mut wal, mut buffer)) = self.wal.take() else { return Ok(None) };
        // Off the runtime's threads: a read may wait for the disk.
        let reading = spawn_blocking(move || {
            buffer.resize(to.bytes_since(from) as usize, 0);
            let result = wal.read(from, &mut buffer);
            (wal, buffer, result)
        });
        let (wal, buffer, result) = reading.await.map_err(|_| shutting_down())?;
        let (_, buffer) = self.wal.insert((wal, buffer));
        match result {
            Ok(ReadOutcome::Bytes(count)) => Ok(buffer.get(..count)),
            // What was removed meanwhile is told when the newest snapshot is looked at.
            Ok(ReadOutcome::Nothing | ReadOutcome::Changed) | Err(ReadError::TooOld { .. }) => Ok(None),
            Err(error) => Err(read_failed(&error).into()),
        }
    }

    fn take(&self, payload: Bytes) -> Result<Wants, ErrorResponse> {
        if payload.first() == Some(&PAGESERVER_FEEDBACK_TAG) {
            return self.take_pageserver_feedback(payload);
        }
        match FromStandby::decode(payload).map_err(|error| malformed(&error))? {
            FromStandby::StatusUpdate(update) => {
                self.report.status(&update);
                Ok(if update.reply_requested { Wants::Keepalive } else { Wants::Nothing })
            }
            FromStandby::HotStandbyFeedback(message) => {
                self.report.hot_standby(feedback::hot_standby(&message));
                Ok(Wants::Nothing)
            }
        }
    }

    fn take_pageserver_feedback(&self, mut payload: Bytes) -> Result<Wants, ErrorResponse> {
        if payload.len() < PAGESERVER_FEEDBACK_HEADER_BYTES {
            return Err(malformed(&ProtocolError::Truncated));
        }
        payload.advance(PAGESERVER_FEEDBACK_HEADER_BYTES);
        let feedback = codec::decode_feedback(payload)
            .map_err(|error| ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()))?;
        self.report.pageserver(feedback);
        Ok(Wants::Nothing)
    }

    fn put_keepalive<S: Io>(
        &self,
        snapshot: &Snapshot,
        reply_requested: bool,
        writer: &mut CopyWriter<S>,
    ) -> Result<(), QueryError> {
        // Page servers answer only when they are asked, and are asked each time by the public program.
        let reply_requested = reply_requested || snapshot.lineage.dialect == Dialect::Neon;
        let keepalive = PrimaryKeepalive {
            server_end: self.end(snapshot).0,
            sent_at_micros: postgres_micros(SystemTime::now()),
            reply_requested,
        };
        Ok(writer.put_with(|out| keepalive.encode(out))?)
    }
}

/// What [`Sender::fill`] did.
enum Filled {
    Wal,
    AllSent,
    Changed,
    TimelineEnded(TliSwitch),
}

/// What a reader's message asks for.
enum Wants {
    Nothing,
    Keepalive,
}

/// Ends this side of the copy, and waits for the end of the other. False when the reader left instead.
async fn say_done<S: Io>(reader: &mut CopyReader<S>, writer: &mut CopyWriter<S>) -> Result<bool, QueryError> {
    writer.put_done()?;
    let exchange = async {
        writer.flush().await?;
        loop {
            match reader.next(MESSAGE_BYTES_MAX).await {
                Ok(CopyMessage::Done) => return Ok(true),
                // Feedback that was on its way.
                Ok(CopyMessage::Data(_)) => {}
                Ok(CopyMessage::Terminate | CopyMessage::Fail(_)) => return Ok(false),
                Err(error) if is_disconnect(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    };
    tokio::time::timeout(SILENCE_MAX, exchange).await.unwrap_or(Ok(false))
}

/// Where a message of WAL that begins at `from` ends.
fn piece_end(from: Lsn, available: Lsn, segment_bytes: u64) -> Lsn {
    let segment_end = from.advance(1).align_up(segment_bytes);
    let most = from.advance(SEND_WAL_BYTES_MAX).min(segment_end);
    if available <= most {
        return available;
    }
    // A piece is longer than a page, so this is above `from`; the end of a segment is the end of a page.
    most.align_down(PAGE_BYTES)
}

fn malformed(error: &ProtocolError) -> ErrorResponse {
    ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
}

/// In the middle of a copy there is no way to go on: the connection ends.
fn read_failed(error: &ReadError) -> ErrorResponse {
    let sqlstate = match error {
        ReadError::TooOld { .. } => SqlState::UNDEFINED_FILE,
        ReadError::OtherTerm { .. } => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        ReadError::Corrupt => SqlState::DATA_CORRUPTED,
        ReadError::Store(_) => SqlState::IO_ERROR,
    };
    ErrorResponse::fatal(sqlstate, format!("cannot read WAL: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_ends_at_a_page_unless_the_wal_ends_first() {
        const SEGMENT: u64 = 0x100_0000;
        for (from, available, end) in [
            (0x100_0000, 0x100_0028, 0x100_0028),
            (0x100_0000, 0x102_0000, 0x102_0000),
            (0x100_0000, 0x102_0001, 0x102_0000),
            (0x100_0030, 0x150_0000, 0x102_0000),
            (0x100_0030, 0x102_0030, 0x102_0030),
            (0x100_0030, 0x102_0031, 0x102_0000),
            (0x1ff_f000, 0x300_0000, 0x200_0000),
            (0x1ff_f000, 0x1ff_f008, 0x1ff_f008),
            (0x200_0000, 0x300_0000, 0x202_0000),
        ] {
            assert_eq!(piece_end(Lsn(from), Lsn(available), SEGMENT), Lsn(end), "{from:x} {available:x}");
        }
    }
}
