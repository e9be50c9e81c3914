//! Relay: passes bytes between a client and its compute until one of them ends.
//!
//! It decodes no message, but follows where the compute's messages begin and end. So it knows when a session is idle, and the
//! proxy's own error comes only between two messages. Called by the session, last.

mod direction;
mod drain_watch;
mod follower;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use postgres_backend::{Connection, Io, Stream};
use pq_proto::{ErrorResponse, SqlState};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, timeout};
use tracing::{Instrument, Span};

use self::direction::{Direction, End, READ_BYTES_MAX, TLS_READ_BYTES_MAX};
pub(crate) use self::drain_watch::DrainEnds;
use self::drain_watch::{DrainWatch, Ends};
use self::follower::Follower;
use crate::client_facing::Response;
use crate::closing::{CLOSING_TIMEOUT, into_stream, send_closing_message};
use crate::observe::activity::Activity;

/// How long an idle compute may keep its connection after the client closed its side.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(10);

/// The Terminate message, which ends a session in order.
const TERMINATE: [u8; 5] = *b"X\0\0\0\x04";

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RelayEnd {
    /// The client left, and the compute was told.
    ClientClosed,
    /// The client vanished without Terminate. Its query has no reader any more.
    ClientVanished {
        /// A query was not answered yet.
        busy: bool,
    },
    /// The compute closed the connection.
    ComputeClosed {
        /// The stream ended between two messages, so the client gets an error, the compute's or the proxy's.
        between_messages: bool,
    },
    /// The proxy drains, and the session was idle.
    Drained,
    /// The proxy drains, and the time for busy sessions is over.
    CutOff {
        /// A query was not answered yet.
        busy: bool,
    },
}

impl RelayEnd {
    /// A word for the metrics and the log.
    pub(crate) const fn label(self) -> &'static str {
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

/// Passes bytes until the session ends. To be polled outside of any span: `span` is entered for log lines only.
pub(crate) async fn run<C: Io, S: Io, B, I, A>(
    client: Connection<C>,
    compute: Connection<S>,
    activity: &Activity,
    span: &Span,
    drain_ends: DrainEnds<B, impl FnOnce() -> I, impl FnOnce() -> A>,
) -> RelayEnd
where
    B: Future + Unpin,
    I: Future<Output = ()>,
    A: Future<Output = ()>,
{
    let (client, from_client, _) = into_stream(client);
    let (compute, from_compute, _) = into_stream(compute);
    let mut knowledge = Knowledge::default();
    knowledge.client_sent(&from_client, activity);
    knowledge.compute_sent(&from_compute, activity);
    let is_plain = matches!((&client, &compute), (Stream::Plain(_), Stream::Plain(_)));
    let read_bytes = if is_plain { READ_BYTES_MAX } else { TLS_READ_BYTES_MAX };
    let up = Some(Direction::new(from_client, read_bytes));
    let down = Direction::new(from_compute, read_bytes);
    let mut relay = Relay { client, compute, knowledge, up, down, half_closed: None, draining: false };

    let mut drain = DrainWatch::new(drain_ends);
    let ended = poll_fn(|cx| {
        let ends = drain.poll(cx);
        relay.draining = ends >= Ends::WhenIdle;
        match relay.poll(cx, activity, span) {
            Poll::Pending if ends == Ends::InAnyCase => {
                Poll::Ready(RelayEnd::CutOff { busy: relay.knowledge.is_busy() })
            }
            poll => poll,
        }
    });
    let ended = ended.await;
    // An open session has no room for its end.
    Box::pin(relay.close(ended)).instrument(span.clone()).await;
    ended
}

/// What the relayed bytes tell about a session.
#[derive(Debug, Default)]
struct Knowledge {
    follower: Follower,
    /// The client's bytes since the last ReadyForQuery.
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

    /// Whether the client's last bytes are Terminate. Data of a client may end with the same bytes; then the client
    /// only misses the closing message.
    fn has_terminated(&self) -> bool {
        self.tail == TERMINATE
    }

    /// Whether a query waits for its answer.
    fn is_busy(&self) -> bool {
        !self.has_terminated() && (self.unanswered > 0 || self.follower.in_copy_both())
    }

    /// Whether the session can end here without losing work.
    fn is_idle(&self) -> bool {
        self.follower.at_boundary() && !self.is_busy() && matches!(self.follower.status(), 0 | b'I')
    }
}

struct Relay<C, S> {
    client: Stream<C>,
    compute: Stream<S>,
    knowledge: Knowledge,
    /// From the client to the compute; `None` when that direction ended.
    up: Option<Direction>,
    /// From the compute to the client; the session ends with it.
    down: Direction,
    /// Set when the client has closed its side.
    half_closed: Option<HalfClosed>,
    draining: bool,
}

struct HalfClosed {
    /// Whether the stream to the compute is closed for writing.
    is_shut_down: bool,
    timer: Pin<Box<Sleep>>,
}

impl<C: Io, S: Io> Relay<C, S> {
    fn poll(&mut self, cx: &mut Context<'_>, activity: &Activity, span: &Span) -> Poll<RelayEnd> {
        let Self { client, compute, knowledge, up, down, half_closed, draining } = self;
        if let Some(passing) = up
            && let Poll::Ready(end) =
                passing.poll(cx, client, compute, |bytes| knowledge.client_sent(bytes, activity))
        {
            *up = None;
            span.in_scope(|| tracing::debug!(%end, "client direction ended"));
            match end {
                End::Source(Some(_)) if !knowledge.has_terminated() => {
                    return Poll::Ready(RelayEnd::ClientVanished { busy: knowledge.is_busy() });
                }
                End::Source(_) => *half_closed = Some(HalfClosed::new()),
                // The compute reads no more, but its last messages may be on their way.
                End::Sink(_) => {}
            }
        }
        if let Some(half_closed) = half_closed
            && half_closed.poll(cx, compute, knowledge.is_busy()).is_ready()
        {
            return Poll::Ready(RelayEnd::ClientClosed);
        }
        let Poll::Ready(end) =
            down.poll(cx, compute, client, |bytes| knowledge.compute_sent(bytes, activity))
        else {
            let may_end = *draining && down.is_empty() && knowledge.is_idle();
            return if may_end { Poll::Ready(RelayEnd::Drained) } else { Poll::Pending };
        };
        span.in_scope(|| tracing::debug!(%end, "compute direction ended"));
        Poll::Ready(match end {
            _ if knowledge.has_terminated() => RelayEnd::ClientClosed,
            End::Sink(_) => RelayEnd::ClientVanished { busy: knowledge.is_busy() },
            End::Source(_) if half_closed.is_some() => RelayEnd::ClientClosed,
            End::Source(_) => RelayEnd::ComputeClosed { between_messages: knowledge.follower.at_boundary() },
        })
    }

    /// Sends the client the closing message, unless it has one already or its stream is inside a message, and closes.
    async fn close(mut self, ended: RelayEnd) {
        let mut unsent = BytesMut::new();
        let response = match ended {
            RelayEnd::ComputeClosed { between_messages: true }
                if !self.knowledge.follower.last_was_error() =>
            {
                Some(ErrorResponse::fatal(
                    SqlState::CONNECTION_FAILURE,
                    "the connection to the database server was lost",
                ))
            }
            RelayEnd::Drained => {
                let _ = timeout(CLOSING_TIMEOUT, self.compute.write_all(&TERMINATE)).await;
                Some(admin_shutdown())
            }
            RelayEnd::CutOff { .. } if self.knowledge.follower.at_boundary() => {
                unsent = self.down.into_kept();
                Some(admin_shutdown())
            }
            _ => None,
        };
        if !matches!(ended, RelayEnd::ClientVanished { .. }) {
            send_closing_message(&mut self.client, unsent, response.map(Response::Proxy).as_ref()).await;
        }
    }
}

/// The message that PostgreSQL itself sends when it shuts down.
fn admin_shutdown() -> ErrorResponse {
    let message = "terminating connection due to administrator command";
    ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, message)
}

impl HalfClosed {
    fn new() -> Self {
        Self { is_shut_down: false, timer: Box::pin(tokio::time::sleep(HALF_CLOSED_TIMEOUT)) }
    }

    /// Closes the stream to the compute for writing. Ready when an idle compute has not closed its side in time.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        compute: &mut (impl AsyncWrite + Unpin),
        is_busy: bool,
    ) -> Poll<()> {
        if !self.is_shut_down {
            self.is_shut_down = Pin::new(compute).poll_shutdown(cx).is_ready();
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if !is_busy {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(Instant::now() + HALF_CLOSED_TIMEOUT);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;

    use pq_proto::{Encode, Frame};
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::sync::Notify;

    use super::*;
    use crate::observe::activity::{Activities, SessionId, Traffic};

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

    /// No byte wakes the relay of an idle session, but the drain does.
    #[tokio::test]
    async fn relay_ends_idle_session_when_drained() {
        let (client, mut client_end) = connection(1000, b"");
        let (compute, mut compute_end) = connection(1000, b"Z\0\0\0\x05I");
        let (activity, span, drain) = (Activity::new(SessionId(1), None), Span::none(), Notify::new());
        let ends =
            DrainEnds { begun: Box::pin(drain.notified()), when_idle: || ready(()), in_any_case: pending };
        let draining = async {
            client_end.read_exact(&mut [0; 6]).await.unwrap();
            drain.notify_one();
            let (mut said, mut told) = (Vec::new(), Vec::new());
            client_end.read_to_end(&mut said).await.unwrap();
            drop(client_end);
            compute_end.read_to_end(&mut told).await.unwrap();
            (said, told)
        };
        let (ended, (said, told)) = tokio::join!(run(client, compute, &activity, &span, ends), draining);
        assert_eq!(ended, RelayEnd::Drained);
        assert!(said.windows(7).any(|window| window == b"C57P01\0"), "{}", said.escape_ascii());
        assert_eq!(told, TERMINATE);
    }

    #[tokio::test]
    async fn relay_passes_everything_through_narrow_pipes() {
        let (up, down) = (messages(b'd'), messages(b'D'));
        for (client_pipe, compute_pipe) in [(7, 1_000_000), (1_000_000, 7), (64, 64)] {
            let (client, client_end) = connection(client_pipe, &up[..100]);
            let (compute, compute_end) = connection(compute_pipe, &down[..3]);
            let activities = Arc::new(Activities::default());
            let listed = activities.list(Arc::new(Activity::new(SessionId(1), None)));
            let span = Span::none();
            let no_drain = DrainEnds { begun: pending::<()>(), when_idle: pending, in_any_case: pending };
            let (ended, at_client, at_compute) = tokio::join!(
                run(client, compute, &listed.activity, &span, no_drain),
                send_and_receive(client_end, up[100..].to_vec()),
                send_and_receive(compute_end, down[3..].to_vec()),
            );
            assert!(at_client == down && at_compute == up, "pipes of {client_pipe} and {compute_pipe} bytes");
            assert!(matches!(ended, RelayEnd::ClientClosed | RelayEnd::ComputeClosed { .. }), "{ended:?}");
            let traffic = Traffic { from_clients: up.len() as u64, to_clients: down.len() as u64 };
            assert_eq!(activities.traffic(), traffic);
        }
    }
}
