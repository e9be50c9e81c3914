//! [`WalStream`]: the connection to the primary while it streams. One task reads and answers; the driver takes what was
//! read when it has room for it, and what it reports is told to the primary at once.

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

use super::{PRIMARY_ANSWER_TIMEOUT, PrimaryError, no_answer};

/// Messages read from the socket before the driver takes them; each has up to 128 KiB of WAL.
const PRIMARY_QUEUE_MESSAGES_MAX: usize = 64;
/// Longest message of a primary inside the stream.
const PRIMARY_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// The primary hears from us at least this often, so that it never has to ask whether we live.
const STANDBY_STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// The primary is asked this often whether it lives. Of itself it sends nothing while nobody writes: it asks only those
/// that it has not heard of for long.
const PRIMARY_QUESTION_INTERVAL: Duration = Duration::from_secs(10);
/// A primary that sends nothing for this long, having been asked more than once, is down.
const PRIMARY_SILENCE_MAX: Duration = Duration::from_secs(30);

/// WAL as it comes, and the way back.
#[derive(Debug)]
pub(crate) struct WalStream {
    items: mpsc::Receiver<FromPrimary>,
    report: watch::Sender<Lsn>,
    /// Reads and writes the socket; aborted when this is dropped, which closes the connection.
    task: JoinSet<Ended>,
}

/// What became of the conversation.
#[derive(Debug)]
enum Ended<S = TcpStream> {
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
        task.spawn(converse(copy, sender, report.subscribe()));
        Ok(Self { items, report, task })
    }

    /// Waits until the primary has sent all of the timeline, and goes on with another one.
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
            Some(Ok(Ended::EndOfTimeline(client))) => Self::start(*client, slot, from, tli).await,
            Some(Ok(Ended::Failed(error))) => Err(error),
            Some(Err(_)) | None => Err(closed()),
        }
    }

    /// The next message, or, where none is wanted, only the end of the connection. While none is taken, the socket is
    /// not read further. Cancel-safe.
    pub(crate) async fn next_or_end(&mut self, wanted: bool) -> Result<FromPrimary, PrimaryError> {
        if wanted && let Some(item) = self.items.recv().await {
            return Ok(item);
        }
        match self.task.join_next().await {
            Some(Ok(Ended::Failed(error))) => Err(error),
            Some(Ok(Ended::EndOfTimeline(_))) => {
                Err(PrimaryError::Down("it ended the stream of its timeline".to_owned()))
            }
            Some(Err(_)) | None => Err(closed()),
        }
    }

    /// The next message if there is one already.
    pub(crate) fn try_next(&mut self) -> Option<FromPrimary> {
        self.items.try_recv().ok()
    }

    /// Tells the primary at once that everything below `lsn` is stored. What it was told never goes back.
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

async fn converse<S: Io>(
    copy: ClientCopyBoth<S>,
    items: mpsc::Sender<FromPrimary>,
    reported: watch::Receiver<Lsn>,
) -> Ended<S> {
    let ClientCopyBoth { mut reader, mut writer } = copy;
    let asked = Notify::new();
    // Both run until the connection ends. The receiving side is complete then, and what the other one was about to
    // write stays buffered.
    let received = tokio::select! {
        received = receive(&mut reader, &items, &asked) => received,
        error = answer(&mut writer, reported, &asked) => Err(error),
    };
    if let Err(error) = received {
        return Ended::Failed(error);
    }
    let finishing = ClientCopyBoth { reader, writer }.finish(PRIMARY_MESSAGE_BYTES_MAX);
    match timeout(PRIMARY_ANSWER_TIMEOUT, finishing).await {
        Ok(Ok((client, _))) => Ended::EndOfTimeline(Box::new(client)),
        Ok(Err(error)) => Ended::Failed(error.into()),
        Err(_) => Ended::Failed(no_answer("CopyDone")),
    }
}

/// Returns when the primary has sent all of the timeline.
async fn receive<S: Io>(
    reader: &mut ClientCopyReader<S>,
    items: &mpsc::Sender<FromPrimary>,
    asked: &Notify,
) -> Result<(), PrimaryError> {
    loop {
        let next = timeout(PRIMARY_SILENCE_MAX, reader.next(PRIMARY_MESSAGE_BYTES_MAX)).await;
        let payload = match next.map_err(|_| silent())? {
            Ok(ClientCopyMessage::Data(payload)) => payload,
            Ok(ClientCopyMessage::Done) => return Ok(()),
            // A server that has shut down says so with the end of the command, without CopyDone.
            Err(ClientError::UnexpectedMessage(b'C')) => {
                return Err(PrimaryError::Down("it has shut down".to_owned()));
            }
            Err(error) => return Err(stream_error(error)),
        };
        let item = FromPrimary::decode(payload).map_err(ClientError::from)?;
        if matches!(&item, FromPrimary::Keepalive(keepalive) if keepalive.reply_requested) {
            asked.notify_one();
        }
        items.send(item).await.map_err(|_| closed())?;
    }
}

async fn answer<S: Io>(
    writer: &mut CopyWriter<S>,
    mut reported: watch::Receiver<Lsn>,
    asked: &Notify,
) -> PrimaryError {
    let mut questioned_at = Instant::now();
    loop {
        let question = questioned_at.elapsed() >= PRIMARY_QUESTION_INTERVAL;
        if question {
            questioned_at = Instant::now();
        }
        let stored = *reported.borrow_and_update();
        // All three the same: which of them releases a commit is the session's choice (synchronous_commit), and a
        // byte that the quorum does not have must not count as written either.
        let status = StandbyStatusUpdate {
            write: stored,
            flush: stored,
            apply: stored,
            sent_at_micros: postgres_micros(SystemTime::now()),
            reply_requested: question,
        };
        let sent = match writer.put_with(|out| status.encode(out)) {
            Ok(()) => writer.flush().await.map_err(ClientError::from),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = sent {
            return error.into();
        }
        // All three may be dropped: a change and a question are remembered, and the clock starts over.
        tokio::select! {
            changed = reported.changed() => if changed.is_err() {
                return closed();
            },
            () = asked.notified() => {}
            () = tokio::time::sleep(STANDBY_STATUS_INTERVAL) => {}
        }
    }
}

/// What the primary says instead of WAL that it has removed or never had under this timeline.
fn stream_error(error: ClientError) -> PrimaryError {
    match error {
        ClientError::Server(response) if response.sqlstate == SqlState::UNDEFINED_FILE => {
            PrimaryError::WalRemoved(response.message)
        }
        other => other.into(),
    }
}

fn closed() -> PrimaryError {
    PrimaryError::Down("the connection was closed".to_owned())
}

fn silent() -> PrimaryError {
    PrimaryError::Down(format!("it said nothing for {} s", PRIMARY_SILENCE_MAX.as_secs()))
}

#[cfg(test)]
mod tests;
