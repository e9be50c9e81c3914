//! [`WalStream`]: the connection to the primary while it streams. One task reads and answers; the driver takes what was
//! read when it has room for it, and what it reports is told to the primary at once.

use std::time::{Duration, SystemTime};

use postgres_backend::client::{ClientCopyBoth, ClientCopyMessage, ClientCopyReader, ClientError};
use postgres_backend::copy::CopyWriter;
use pq_proto::replication::{FromPrimary, StandbyStatusUpdate, postgres_micros};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use wal_types::Lsn;

use super::PrimaryError;

/// Messages read from the socket before the driver takes them; each has up to 128 KiB of WAL.
const PRIMARY_QUEUE_MESSAGES_MAX: usize = 64;
/// Longest message of a primary inside the stream.
const PRIMARY_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// The primary hears from us at least this often, so that it never has to ask whether we live.
const STANDBY_STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// WAL as it comes, and the way back.
#[derive(Debug)]
pub(crate) struct WalStream {
    items: mpsc::Receiver<FromPrimary>,
    report: watch::Sender<Lsn>,
    /// Reads and writes the socket; aborted when this is dropped, which closes the connection.
    task: JoinSet<PrimaryError>,
}

impl WalStream {
    pub(super) fn start(copy: ClientCopyBoth) -> Self {
        let (sender, items) = mpsc::channel(PRIMARY_QUEUE_MESSAGES_MAX);
        let report = watch::Sender::new(Lsn::INVALID);
        let mut task = JoinSet::new();
        task.spawn(converse(copy.reader, copy.writer, sender, report.subscribe()));
        Self { items, report, task }
    }

    /// The next message, or, where none is wanted, only the end of the connection. While none is taken, the socket is
    /// not read further. Cancel-safe.
    pub(crate) async fn next_or_end(&mut self, wanted: bool) -> Result<FromPrimary, PrimaryError> {
        if wanted && let Some(item) = self.items.recv().await {
            return Ok(item);
        }
        match self.task.join_next().await {
            Some(Ok(error)) => Err(error),
            Some(Err(_)) | None => Err(PrimaryError::Down("the connection was closed".to_owned())),
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

async fn converse(
    mut reader: ClientCopyReader<TcpStream>,
    mut writer: CopyWriter<TcpStream>,
    items: mpsc::Sender<FromPrimary>,
    reported: watch::Receiver<Lsn>,
) -> PrimaryError {
    let asked = Notify::new();
    // Both run until the connection ends, and nothing of the other is needed then.
    let (error, done) = tokio::select! {
        (error, done) = receive(&mut reader, &items, &asked) => (error, done),
        error = answer(&mut writer, reported, &asked) => (error, false),
    };
    if done && writer.put_done().is_ok() {
        let _ = writer.flush().await;
    }
    error
}

/// Returns why the stream ended, and whether a CopyDone wants to be answered.
async fn receive(
    reader: &mut ClientCopyReader<TcpStream>,
    items: &mpsc::Sender<FromPrimary>,
    asked: &Notify,
) -> (PrimaryError, bool) {
    loop {
        let payload = match reader.next(PRIMARY_MESSAGE_BYTES_MAX).await {
            Ok(ClientCopyMessage::Data(payload)) => payload,
            Ok(ClientCopyMessage::Done) => {
                return (PrimaryError::Down("it ended the stream of its timeline".to_owned()), true);
            }
            // A server that has shut down says so with the end of the command, without CopyDone.
            Err(ClientError::UnexpectedMessage(b'C')) => {
                return (PrimaryError::Down("it has shut down".to_owned()), false);
            }
            Err(error) => return (error.into(), false),
        };
        let item = match FromPrimary::decode(payload) {
            Ok(item) => item,
            Err(error) => return (ClientError::from(error).into(), false),
        };
        if matches!(&item, FromPrimary::Keepalive(keepalive) if keepalive.reply_requested) {
            asked.notify_one();
        }
        if items.send(item).await.is_err() {
            return (PrimaryError::Down("the connection was closed".to_owned()), false);
        }
    }
}

async fn answer(
    writer: &mut CopyWriter<TcpStream>,
    mut reported: watch::Receiver<Lsn>,
    asked: &Notify,
) -> PrimaryError {
    loop {
        let stored = *reported.borrow_and_update();
        // All three the same: which of them releases a commit is the session's choice (synchronous_commit), and a
        // byte that the quorum does not have must not count as written either.
        let status = StandbyStatusUpdate {
            write: stored,
            flush: stored,
            apply: stored,
            sent_at_micros: postgres_micros(SystemTime::now()),
            reply_requested: false,
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
                return PrimaryError::Down("the connection was closed".to_owned());
            },
            () = asked.notified() => {}
            () = tokio::time::sleep(STANDBY_STATUS_INTERVAL) => {}
        }
    }
}
