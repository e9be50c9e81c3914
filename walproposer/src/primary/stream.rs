//! [`WalStream`]: the connection to the primary while it streams. Its owner polls it, and nothing else reads or writes the
//! socket.
//!
//! A position that is reported goes out with the next poll. At most one status update waits for the socket: a primary that
//! does not read costs no memory.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use postgres_backend::Io;
use postgres_backend::client::{Client, ClientCopyBoth, ClientCopyMessage, ClientError};
use pq_proto::SqlState;
use pq_proto::replication::{FromPrimary, StandbyStatusUpdate, postgres_micros};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use utils::{FlaggedTask, WakeFlag};
use wal_types::{Lsn, Tli};

use super::error::{PRIMARY_ANSWER_TIMEOUT, PrimaryError, no_answer};

/// Longest message of a primary inside the stream.
const PRIMARY_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Interval at which the times below are checked.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// The primary receives a status update at least this often, so that it never has to request one.
const STANDBY_STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// The primary is asked for a keepalive this often. While no WAL is written it sends nothing by itself: it contacts only
/// standbys that have been silent for long.
const PRIMARY_REPLY_REQUEST_INTERVAL: Duration = Duration::from_secs(10);
/// A primary that sends nothing for this long, although more than one keepalive was requested, is down.
const PRIMARY_SILENCE_MAX: Duration = Duration::from_secs(30);

/// The primary's messages, and the way back for acknowledged positions. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct WalStream<S = TcpStream> {
    copy: ClientCopyBoth<S>,
    /// The socket and the tick are polled only when they have woken the task themselves.
    task: FlaggedTask,
    socket_flag: WakeFlag,
    tick_flag: WakeFlag,
    reported: Lsn,
    tick: Interval,
    /// A status update is to be written.
    status_due: bool,
    /// The next status update asks for a keepalive.
    request_due: bool,
    /// When a status update is due without a reason.
    next_status_at: Instant,
    next_request_at: Instant,
    /// Tick before which the primary was last heard.
    heard_at: Instant,
    /// A message has come since the last tick.
    heard: bool,
}

impl WalStream {
    /// Begins to stream on a connection that waits for commands.
    pub(super) async fn start(client: Client, slot: &str, from: Lsn, tli: Tli) -> Result<Self, PrimaryError> {
        let command = format!("START_REPLICATION SLOT \"{slot}\" PHYSICAL {from} TIMELINE {tli}");
        let entering = timeout(PRIMARY_ANSWER_TIMEOUT, client.copy_both(&command));
        let copy = entering.await.map_err(|_| no_answer("START_REPLICATION"))?.map_err(stream_error)?;
        Ok(Self::new(copy))
    }

    /// Waits until the primary has sent all of the timeline, and continues with timeline `tli` at `from`.
    pub(crate) async fn next_timeline(
        mut self,
        slot: &str,
        from: Lsn,
        tli: Tli,
    ) -> Result<Self, PrimaryError> {
        let ended = timeout(PRIMARY_ANSWER_TIMEOUT, async {
            while poll_fn(|cx| self.poll_rest(cx)).await?.is_some() {}
            Ok::<_, PrimaryError>(())
        });
        ended.await.map_err(|_| no_answer("the end of the timeline"))??;
        Self::start(self.finish().await?, slot, from, tli).await
    }

    /// Ends the stream. What the primary still sends is dropped.
    pub(super) async fn finish(self) -> Result<Client, PrimaryError> {
        let finishing = timeout(PRIMARY_ANSWER_TIMEOUT, self.copy.finish(PRIMARY_MESSAGE_BYTES_MAX));
        let (client, _) = finishing.await.map_err(|_| no_answer("CopyDone"))??;
        Ok(client)
    }
}

impl<S: Io> WalStream<S> {
    fn new(copy: ClientCopyBoth<S>) -> Self {
        let now = Instant::now();
        let task = FlaggedTask::new();
        let mut tick = interval(TICK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            copy,
            socket_flag: task.flag(),
            tick_flag: task.flag(),
            task,
            reported: Lsn::INVALID,
            tick,
            status_due: true,
            request_due: false,
            next_status_at: now + STANDBY_STATUS_INTERVAL,
            next_request_at: now + PRIMARY_REPLY_REQUEST_INTERVAL,
            heard_at: now,
            heard: false,
        }
    }

    /// The next message; or, when `wanted` is false, only an error that ends the connection: the socket is not read then.
    /// Cancel-safe.
    pub(crate) async fn next_or_end(&mut self, wanted: bool) -> Result<FromPrimary, PrimaryError> {
        poll_fn(|cx| self.poll_next_or_end(cx, wanted)).await
    }

    /// As [`WalStream::next_or_end`]. Writes the status update that is due, whatever `wanted` is.
    pub(crate) fn poll_next_or_end(
        &mut self,
        cx: &mut Context<'_>,
        wanted: bool,
    ) -> Poll<Result<FromPrimary, PrimaryError>> {
        self.task.set(cx);
        if self.tick_flag.take() {
            let waker = self.tick_flag.waker().clone();
            while self.tick.poll_tick(&mut Context::from_waker(&waker)).is_ready() {
                self.check_times(wanted)?;
            }
        }
        self.write_status()?;
        if !wanted || !self.socket_flag.take() {
            return Poll::Pending;
        }
        Poll::Ready(
            ready!(self.poll_message())?
                .ok_or_else(|| PrimaryError::Down("the primary ended the stream of its timeline".to_owned())),
        )
    }

    /// Acknowledges everything below `lsn` to the primary with the next poll. A lower position than before is ignored.
    pub(crate) fn report(&mut self, lsn: Lsn) {
        if lsn > self.reported {
            self.reported = lsn;
            self.status_due = true;
        }
    }

    /// As [`WalStream::poll_message`], for a caller that only reads.
    fn poll_rest(&mut self, cx: &Context<'_>) -> Poll<Result<Option<FromPrimary>, PrimaryError>> {
        self.task.set(cx);
        self.poll_message()
    }

    /// The next message; `None` when the primary has sent all of the timeline.
    fn poll_message(&mut self) -> Poll<Result<Option<FromPrimary>, PrimaryError>> {
        let cx = &mut Context::from_waker(self.socket_flag.waker());
        let polled = ready!(self.copy.reader.poll_next(cx, PRIMARY_MESSAGE_BYTES_MAX));
        // There may be more: the socket has not said that it has nothing.
        self.socket_flag.set();
        let payload = match polled {
            Ok(ClientCopyMessage::Data(payload)) => payload,
            Ok(ClientCopyMessage::Done) => return Poll::Ready(Ok(None)),
            // A server that has shut down ends the command with CommandComplete, without CopyDone.
            Err(ClientError::UnexpectedMessage(b'C')) => {
                return Poll::Ready(Err(PrimaryError::Down("the server has shut down".to_owned())));
            }
            Err(error) => return Poll::Ready(Err(stream_error(error))),
        };

        self.heard = true;
        let item = FromPrimary::decode(payload).map_err(ClientError::from)?;
        if matches!(&item, FromPrimary::Keepalive(keepalive) if keepalive.reply_requested) {
            self.status_due = true;
        }
        Poll::Ready(Ok(Some(item)))
    }

    /// Finds what is due at a tick. While the socket is not read, a silent primary cannot be told from one that is not
    /// listened to.
    fn check_times(&mut self, listening: bool) -> Result<(), PrimaryError> {
        let now = Instant::now();
        if std::mem::take(&mut self.heard) || !listening {
            self.heard_at = now;
        }
        if now >= self.heard_at + PRIMARY_SILENCE_MAX {
            return Err(no_message());
        }

        if now >= self.next_request_at {
            self.next_request_at = now + PRIMARY_REPLY_REQUEST_INTERVAL;
            self.request_due = true;
        }
        if now >= self.next_status_at {
            self.next_status_at = now + STANDBY_STATUS_INTERVAL;
            self.status_due = true;
        }
        Ok(())
    }

    /// Writes the status update that is due. While an earlier one still waits for the socket, a new one is not made.
    fn write_status(&mut self) -> Result<(), PrimaryError> {
        let cx = &mut Context::from_waker(self.socket_flag.waker());
        let writer = &mut self.copy.writer;
        loop {
            if writer.buffered_bytes() > 0 && writer.poll_flush(cx).map_err(ClientError::from)?.is_pending() {
                return Ok(());
            }
            if !std::mem::take(&mut self.status_due) {
                return Ok(());
            }
            // All three positions are the same: the session chooses which of them releases its commit
            // (synchronous_commit), and a byte that the quorum does not have must not count as written either.
            let status = StandbyStatusUpdate {
                write: self.reported,
                flush: self.reported,
                apply: self.reported,
                sent_at_micros: postgres_micros(SystemTime::now()),
                reply_requested: std::mem::take(&mut self.request_due),
            };
            writer.put_with(|out| status.encode(out)).map_err(ClientError::from)?;
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

fn no_message() -> PrimaryError {
    PrimaryError::Down(format!("no message from the primary for {} s", PRIMARY_SILENCE_MAX.as_secs()))
}

#[cfg(test)]
mod tests;
