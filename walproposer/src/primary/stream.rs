//! [`WalStream`]: the connection to the primary while it streams. One task reads from the socket and answers.
//!
//! The leadership receives the messages when it has room for them. A position that it reports is sent to the primary at
//! once.

use std::time::{Duration, SystemTime};

use postgres_backend::Io;
use postgres_backend::client::{Client, ClientCopyBoth, ClientCopyMessage, ClientCopyReader, ClientError};
use postgres_backend::copy::CopyWriter;
use pq_proto::SqlState;
use pq_proto::replication::{FromPrimary, StandbyStatusUpdate, postgres_micros};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use wal_types::{Lsn, Tli};

use super::error::{PRIMARY_ANSWER_TIMEOUT, PrimaryError, no_answer};

/// Messages read from the socket before the leadership receives them; each has up to 128 KiB of WAL.
const PRIMARY_QUEUE_MESSAGES_MAX: usize = 64;
/// Longest message of a primary inside the stream.
const PRIMARY_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// The primary receives a status update at least this often, so that it never has to request one.
const STANDBY_STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// The primary is asked for a keepalive this often. While no WAL is written it sends nothing by itself: it contacts only
/// standbys that have been silent for long.
const PRIMARY_REPLY_REQUEST_INTERVAL: Duration = Duration::from_secs(10);
/// A primary that sends nothing for this long, although more than one keepalive was requested, is down.
const PRIMARY_SILENCE_MAX: Duration = Duration::from_secs(30);

/// The primary's messages, and the way back for acknowledged positions.
#[derive(Debug)]
pub(crate) struct WalStream {
    items: mpsc::Receiver<FromPrimary>,
    report: watch::Sender<Lsn>,
    /// Reads and writes the socket. Dropping the set aborts the task, which closes the connection.
    task: JoinSet<StreamEnd>,
}

/// Result of the task that reads and writes the socket.
#[derive(Debug)]
enum StreamEnd<S = TcpStream> {
    Failed(PrimaryError),
    /// The primary has sent all of the timeline, which is not its newest one, and waits for a command.
    EndOfTimeline(Box<Client<S>>),
}

impl WalStream {
    /// Begins to stream on a connection that waits for commands.
    pub(super) async fn start(client: Client, slot: &str, from: Lsn, tli: Tli) -> Result<Self, PrimaryError> {
        let command = format!("START_REPLICATION SLOT \"{slot}\" PHYSICAL {from} TIMELINE {tli}");
        let entering = timeout(PRIMARY_ANSWER_TIMEOUT, client.copy_both(&command));
        let copy = entering.await.map_err(|_| no_answer("START_REPLICATION"))?.map_err(stream_error)?;
        let (sender, items) = mpsc::channel(PRIMARY_QUEUE_MESSAGES_MAX);
        let report = watch::Sender::new(Lsn::INVALID);
        let mut task = JoinSet::new();
        task.spawn(run_stream(copy, sender, report.subscribe()));
        Ok(Self { items, report, task })
    }

    /// Waits until the primary has sent all of the timeline, and continues with timeline `tli` at `from`.
    pub(crate) async fn next_timeline(
        mut self,
        slot: &str,
        from: Lsn,
        tli: Tli,
    ) -> Result<Self, PrimaryError> {
        let ended = timeout(PRIMARY_ANSWER_TIMEOUT, async {
            while self.items.recv().await.is_some() {}
            self.task.join_next().await
        });
        match ended.await.map_err(|_| no_answer("the end of the timeline"))? {
            Some(Ok(StreamEnd::EndOfTimeline(client))) => Self::start(*client, slot, from, tli).await,
            Some(Ok(StreamEnd::Failed(error))) => Err(error),
            Some(Err(_)) | None => Err(connection_closed()),
        }
    }

    /// The next message; or, when `wanted` is false, only the end of the connection. While no message is received, the
    /// socket is not read further. Cancel-safe.
    pub(crate) async fn next_or_end(&mut self, wanted: bool) -> Result<FromPrimary, PrimaryError> {
        if wanted && let Some(item) = self.items.recv().await {
            return Ok(item);
        }
        match self.task.join_next().await {
            Some(Ok(StreamEnd::Failed(error))) => Err(error),
            Some(Ok(StreamEnd::EndOfTimeline(_))) => {
                Err(PrimaryError::Down("the primary ended the stream of its timeline".to_owned()))
            }
            Some(Err(_)) | None => Err(connection_closed()),
        }
    }

    /// The next message, if there is one already.
    pub(crate) fn try_next(&mut self) -> Option<FromPrimary> {
        self.items.try_recv().ok()
    }

    /// Acknowledges everything below `lsn` to the primary at once. A lower position than before is ignored.
    pub(crate) fn report(&self, lsn: Lsn) {
        self.report.send_if_modified(|reported| {
            let forward = lsn > *reported;
            if forward {
                *reported = lsn;
            }
            forward
        });
    }
}

/// Reads and writes the socket until the stream ends.
async fn run_stream<S: Io>(
    copy: ClientCopyBoth<S>,
    items: mpsc::Sender<FromPrimary>,
    reported: watch::Receiver<Lsn>,
) -> StreamEnd<S> {
    let ClientCopyBoth { mut reader, mut writer } = copy;
    let reply_requested = Notify::new();
    // Both sides run until the connection ends. When receiving ends, it is complete, and a message that the writer was
    // about to write stays buffered.
    let received = tokio::select! {
        received = receive_messages(&mut reader, &items, &reply_requested) => received,
        error = send_status_updates(&mut writer, reported, &reply_requested) => Err(error),
    };
    if let Err(error) = received {
        return StreamEnd::Failed(error);
    }

    let finishing = ClientCopyBoth { reader, writer }.finish(PRIMARY_MESSAGE_BYTES_MAX);
    match timeout(PRIMARY_ANSWER_TIMEOUT, finishing).await {
        Ok(Ok((client, _))) => StreamEnd::EndOfTimeline(Box::new(client)),
        Ok(Err(error)) => StreamEnd::Failed(error.into()),
        Err(_) => StreamEnd::Failed(no_answer("CopyDone")),
    }
}

/// Returns when the primary has sent all of the timeline.
async fn receive_messages<S: Io>(
    reader: &mut ClientCopyReader<S>,
    items: &mpsc::Sender<FromPrimary>,
    reply_requested: &Notify,
) -> Result<(), PrimaryError> {
    loop {
        let next = timeout(PRIMARY_SILENCE_MAX, reader.next(PRIMARY_MESSAGE_BYTES_MAX)).await;
        let payload = match next.map_err(|_| no_message())? {
            Ok(ClientCopyMessage::Data(payload)) => payload,
            Ok(ClientCopyMessage::Done) => return Ok(()),
            // A server that has shut down ends the command with CommandComplete, without CopyDone.
            Err(ClientError::UnexpectedMessage(b'C')) => {
                return Err(PrimaryError::Down("the server has shut down".to_owned()));
            }
            Err(error) => return Err(stream_error(error)),
        };

        let item = FromPrimary::decode(payload).map_err(ClientError::from)?;
        if matches!(&item, FromPrimary::Keepalive(keepalive) if keepalive.reply_requested) {
            reply_requested.notify_one();
        }
        items.send(item).await.map_err(|_| connection_closed())?;
    }
}

/// Sends a status update on every change of `reported`, on request, and each [`STANDBY_STATUS_INTERVAL`].
async fn send_status_updates<S: Io>(
    writer: &mut CopyWriter<S>,
    mut reported: watch::Receiver<Lsn>,
    reply_requested: &Notify,
) -> PrimaryError {
    let mut requested_at = Instant::now();
    loop {
        let request_reply = requested_at.elapsed() >= PRIMARY_REPLY_REQUEST_INTERVAL;
        if request_reply {
            requested_at = Instant::now();
        }

        let stored = *reported.borrow_and_update();
        // All three positions are the same: the session chooses which of them releases its commit (synchronous_commit),
        // and a byte that the quorum does not have must not count as written either.
        let status = StandbyStatusUpdate {
            write: stored,
            flush: stored,
            apply: stored,
            sent_at_micros: postgres_micros(SystemTime::now()),
            reply_requested: request_reply,
        };
        let sent = match writer.put_with(|out| status.encode(out)) {
            Ok(()) => writer.flush().await.map_err(ClientError::from),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = sent {
            return error.into();
        }

        // Every arm may be cancelled: a change and a request are remembered, and the next update restarts the interval.
        tokio::select! {
            changed = reported.changed() => if changed.is_err() {
                return connection_closed();
            },
            () = reply_requested.notified() => {}
            () = tokio::time::sleep(STANDBY_STATUS_INTERVAL) => {}
        }
    }
}

/// Recognizes the error for WAL that the primary has removed, or never had under this timeline.
fn stream_error(error: ClientError) -> PrimaryError {
    match error {
        ClientError::Server(response) if response.sqlstate == SqlState::UNDEFINED_FILE => {
            PrimaryError::WalRemoved(response.message)
        }
        other => other.into(),
    }
}

fn connection_closed() -> PrimaryError {
    PrimaryError::Down("the connection was closed".to_owned())
}

fn no_message() -> PrimaryError {
    PrimaryError::Down(format!("no message from the primary for {} s", PRIMARY_SILENCE_MAX.as_secs()))
}

#[cfg(test)]
mod tests;
