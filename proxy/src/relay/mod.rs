//! Passes bytes between a client and its compute until one of them ends. It reads no message, but it follows where those
//! of the compute begin and end: so it knows when a session is idle, and an error of our own comes only between two
//! messages. Called by the session, last.

mod direction;
mod follower;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use postgres_backend::{Connection, Io, Stream};
use pq_proto::{ErrorResponse, SqlState};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, timeout};

use self::direction::{Direction, End};
use self::follower::Follower;
use crate::client_facing::Response;
use crate::closing::{LAST_WORD_TIMEOUT, into_stream, last_word};
use crate::observe::activity::Activity;

/// How long a compute may go on that has nothing to do and whose client has said goodbye.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(10);

/// What ends a session in order: Terminate, whole.
const TERMINATE: [u8; 5] = *b"X\0\0\0\x04";

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The client left, and the compute has heard of it.
    ClientClosed,
    /// The client is gone without a word. What it asked for is of no use to anybody.
    ClientVanished {
        /// It had asked for something that is not answered yet.
        busy: bool,
    },
    /// The compute went away.
    ComputeClosed {
        /// Between two messages: the client has an error to read, the compute's or ours.
        between_messages: bool,
    },
    /// The proxy is shutting down, and the session had nothing to do.
    Drained,
    /// The proxy is shutting down, and the time for sessions that still have something to do is over.
    CutOff {
        /// It had asked for something that is not answered yet.
        busy: bool,
    },
}

impl Ended {
    /// A word for the metrics and the log.
    pub(crate) const fn how(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ClientVanished { busy: false } => "client_vanished",
            Self::ClientVanished { busy: true } => "client_vanished_busy",
            Self::ComputeClosed { .. } => "compute_closed",
            Self::Drained => "drained",
            Self::CutOff { .. } => "drain_timeout",
        }
    }
}

/// When a session ends though neither side wants it to. A time that is over stays over.
pub(crate) struct Limits<I, A> {
    /// From then on it ends as soon as it is idle.
    pub(crate) when_idle: I,
    /// Then it ends.
    pub(crate) at_all: A,
}

/// Passes bytes until the session ends.
pub(crate) async fn run<C: Io, S: Io>(
    client: Connection<C>,
    compute: Connection<S>,
    activity: &Activity,
    limits: Limits<impl Future<Output = ()>, impl Future<Output = ()>>,
) -> Ended {
    let (client, from_client, _) = into_stream(client);
    let (compute, from_compute, _) = into_stream(compute);
    let mut knowledge = Knowledge::default();
    knowledge.client_sent(&from_client, activity);
    knowledge.compute_sent(&from_compute, activity);
    let (up, down) = (Some(Direction::new(from_client)), Direction::new(from_compute));
    let mut relay = Relay { client, compute, knowledge, up, down, farewell: None, draining: false };

    let (mut when_idle, mut at_all) = (std::pin::pin!(limits.when_idle), std::pin::pin!(limits.at_all));
    let ended = poll_fn(|cx| {
        if !relay.draining {
            relay.draining = when_idle.as_mut().poll(cx).is_ready();
        }
        match relay.poll(cx, activity) {
            Poll::Pending if at_all.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Ended::CutOff { busy: relay.knowledge.is_busy() })
            }
            poll => poll,
        }
    });
    let ended = ended.await;
    relay.say_goodbye(ended).await;
    ended
}

/// What is known of a session from the bytes that went by.
#[derive(Debug, Default)]
struct Knowledge {
    follower: Follower,
    /// Bytes of the client since the last ReadyForQuery.
    unanswered: u64,
    /// The client's last bytes.
    tail: [u8; TERMINATE.len()],
}

impl Knowledge {
    fn client_sent(&mut self, bytes: &[u8], activity: &Activity) {
        self.unanswered += bytes.len() as u64;
        let new = &bytes[bytes.len().saturating_sub(self.tail.len())..];
        self.tail.rotate_left(new.len());
        let old = self.tail.len() - new.len();
        self.tail[old..].copy_from_slice(new);
        activity.client_sent(bytes.len());
    }

    fn compute_sent(&mut self, bytes: &[u8], activity: &Activity) {
        if self.follower.feed(bytes) {
            self.unanswered = 0;
            activity.transaction(self.follower.status());
        }
        activity.compute_sent(bytes.len());
    }

    /// The client's last word. Data may end like this too; then only an error message is missing in the end.
    fn has_terminated(&self) -> bool {
        self.tail == TERMINATE
    }

    /// Something was asked for and is not answered.
    fn is_busy(&self) -> bool {
        !self.has_terminated() && (self.unanswered > 0 || self.follower.in_copy_both())
    }

    /// Nothing is lost when the session ends here.
    fn is_idle(&self) -> bool {
        self.follower.at_boundary() && !self.is_busy() && matches!(self.follower.status(), 0 | b'I')
    }
}

struct Relay<C, S> {
    client: Stream<C>,
    compute: Stream<S>,
    knowledge: Knowledge,
    /// From the client to the compute; `None` when it is over.
    up: Option<Direction>,
    /// From the compute to the client; the session ends with it.
    down: Direction,
    /// The client has closed its side.
    farewell: Option<Farewell>,
    draining: bool,
}

struct Farewell {
    /// The compute has been told.
    is_told: bool,
    patience: Pin<Box<Sleep>>,
}

impl<C: Io, S: Io> Relay<C, S> {
    fn poll(&mut self, cx: &mut Context<'_>, activity: &Activity) -> Poll<Ended> {
        let Self { client, compute, knowledge, up, down, farewell, draining } = self;
        if let Some(passing) = up
            && let Poll::Ready(end) =
                passing.poll(cx, client, compute, |bytes| knowledge.client_sent(bytes, activity))
        {
            *up = None;
            tracing::debug!(%end, "nothing more from the client");
            match end {
                End::Source(Some(_)) if !knowledge.has_terminated() => {
                    return Poll::Ready(Ended::ClientVanished { busy: knowledge.is_busy() });
                }
                End::Source(_) => *farewell = Some(Farewell::new()),
                // The compute takes no more questions, but its last words may be on their way.
                End::Sink(_) => {}
            }
        }
        if let Some(farewell) = farewell
            && farewell.poll(cx, compute, knowledge.is_busy()).is_ready()
        {
            return Poll::Ready(Ended::ClientClosed);
        }
        let Poll::Ready(end) =
            down.poll(cx, compute, client, |bytes| knowledge.compute_sent(bytes, activity))
        else {
            let may_end = *draining && down.is_empty() && knowledge.is_idle();
            return if may_end { Poll::Ready(Ended::Drained) } else { Poll::Pending };
        };
        tracing::debug!(%end, "nothing more from the compute");
        Poll::Ready(match end {
            _ if knowledge.has_terminated() => Ended::ClientClosed,
            End::Sink(_) => Ended::ClientVanished { busy: knowledge.is_busy() },
            End::Source(_) if farewell.is_some() => Ended::ClientClosed,
            End::Source(_) => Ended::ComputeClosed { between_messages: knowledge.follower.at_boundary() },
        })
    }

    /// Tells the client why, where it does not know yet and can be told, and closes.
    async fn say_goodbye(mut self, ended: Ended) {
        let mut unsent = BytesMut::new();
        let response = match ended {
            Ended::ComputeClosed { between_messages: true } if !self.knowledge.follower.last_was_error() => {
                Some(ErrorResponse::fatal(
                    SqlState::CONNECTION_FAILURE,
                    "the connection to the database server was lost",
                ))
            }
            Ended::Drained => {
                let _ = timeout(LAST_WORD_TIMEOUT, self.compute.write_all(&TERMINATE)).await;
                Some(administrators_command())
            }
            Ended::CutOff { .. } if self.knowledge.follower.at_boundary() => {
                unsent = self.down.into_kept();
                Some(administrators_command())
            }
            _ => None,
        };
        if !matches!(ended, Ended::ClientVanished { .. }) {
            last_word(&mut self.client, unsent, response.map(Response::Own).as_ref()).await;
        }
    }
}

/// What PostgreSQL says, too, when it ends.
fn administrators_command() -> ErrorResponse {
    let message = "terminating connection due to administrator command";
    ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, message)
}

impl Farewell {
    fn new() -> Self {
        Self { is_told: false, patience: Box::pin(tokio::time::sleep(HALF_CLOSED_TIMEOUT)) }
    }

    /// Tells the compute that the client has nothing more to say. Ready when the compute does not go, though it has
    /// nothing to do.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        compute: &mut (impl AsyncWrite + Unpin),
        is_busy: bool,
    ) -> Poll<()> {
        if !self.is_told {
            self.is_told = Pin::new(compute).poll_shutdown(cx).is_ready();
        }
        while self.patience.as_mut().poll(cx).is_ready() {
            if !is_busy {
                return Poll::Ready(());
            }
            self.patience.as_mut().reset(Instant::now() + HALF_CLOSED_TIMEOUT);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use pq_proto::{Encode, Frame};
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;
    use crate::observe::activity::SessionId;
    use crate::observe::metrics::Metrics;

    const MESSAGES: u32 = 3_000;

    fn connection(pipe_bytes: usize, read_before: &[u8]) -> (Connection<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(pipe_bytes);
        (Connection::new(Stream::Plain(ours), BytesMut::from(read_before)), theirs)
    }

    /// Messages of many sizes, one of them larger than any buffer.
    fn messages(tag: u8) -> Vec<u8> {
        let mut out = BytesMut::new();
        for number in 0..MESSAGES {
            let bytes = if number == 7 { 200_000 } else { number as usize % 97 };
            Frame { tag, body: vec![number as u8; bytes].into() }.encode(&mut out).unwrap();
        }
        out.to_vec()
    }

    async fn send_and_receive(stream: DuplexStream, send: Vec<u8>) -> Vec<u8> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let sending = async {
            writer.write_all(&send).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(sending, reader.read_to_end(&mut received));
        read.unwrap();
        received
    }

    #[tokio::test]
    async fn everything_arrives_in_both_directions_however_narrow_the_pipes_are() {
        let (up, down) = (messages(b'd'), messages(b'D'));
        for (client_pipe, compute_pipe) in [(7, 1_000_000), (1_000_000, 7), (64, 64)] {
            let (client, client_end) = connection(client_pipe, &up[..100]);
            let (compute, compute_end) = connection(compute_pipe, &down[..3]);
            let metrics = Metrics::new(&mut Default::default());
            let activity = Activity::new(SessionId(1), None, metrics.clone());
            let (ended, at_client, at_compute) = tokio::join!(
                run(client, compute, &activity, Limits { when_idle: pending(), at_all: pending() }),
                send_and_receive(client_end, up[100..].to_vec()),
                send_and_receive(compute_end, down[3..].to_vec()),
            );
            assert!(at_client == down && at_compute == up, "pipes of {client_pipe} and {compute_pipe} bytes");
            assert!(matches!(ended, Ended::ClientClosed | Ended::ComputeClosed { .. }), "{ended:?}");
            assert_eq!(metrics.bytes_from_clients.get(), up.len() as u64);
            assert_eq!(metrics.bytes_to_clients.get(), down.len() as u64);
        }
    }
}
