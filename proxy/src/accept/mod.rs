//! Admission: reads the PROXY header, applies the limits on connections, and hands admitted connections to the server. A
//! connection is refused before anything expensive happens; a failure concerns that connection alone. Called by `server`.

mod proxy_protocol;

use std::io;
use std::net::{self, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_backend::Stream;
use postgres_backend::stream::Prefixed;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use utils::accept_loop::accept_loop;

use self::proxy_protocol::ProxyProtocolError;
use crate::client_facing::{ClientFacing, Response, violation};
use crate::closing::send_closing_message;
use crate::config::ProxyProtocol;
use crate::lifecycle::drain::Drain;
use crate::limits::connections::{ConnectionSlot, Connections, TooMany};
use crate::listeners::watched;
use crate::observe::metrics::{ByReason, Metrics};
use crate::socket;
use crate::threads::{AcceptingThread, Seat};

/// Time limit for the PROXY header, which a load balancer sends at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients over a limit that are sent an error at the same time, at most. Connections of further ones are closed
/// without an error.
const REFUSALS_MAX: usize = 64;

/// Settings and limits that decide about each connection before its session. All listeners share one.
#[derive(Debug)]
pub(crate) struct Admission {
    connections: Arc<Connections>,
    proxy_protocol: ProxyProtocol,
    refusals: Arc<Semaphore>,
    drain: Arc<Drain>,
    metrics: Metrics,
}

/// A connection that gets a session or, over a limit, an error message of the PostgreSQL protocol.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) stream: Prefixed<TcpStream>,
    /// Address of the client: from the PROXY header, or else of the connection.
    pub(crate) peer: SocketAddr,
    /// When the connection was accepted.
    pub(crate) since: Instant,
    /// The limit that the client exceeds, if any. It then gets no session, but its startup packet is read: clients do
    /// not show an error that arrives before TLS, and a cancel request is passed on even then.
    pub(crate) too_many: Option<TooMany>,
    /// Counts the connection until this value is dropped.
    pub(crate) place: Place,
}

/// A connection on its way from the thread that accepted it to the thread that serves it.
enum Moving {
    /// The runtime of its thread watches it already.
    Watched(TcpStream),
    /// No runtime watches it.
    Unwatched(io::Result<net::TcpStream>),
}

impl Moving {
    fn to(seat: &Seat, stream: TcpStream) -> Self {
        if seat.is_here() { Self::Watched(stream) } else { Self::Unwatched(stream.into_std()) }
    }

    /// To be called on the thread that serves the connection.
    fn arrive(self) -> io::Result<TcpStream> {
        match self {
            Self::Watched(stream) => Ok(stream),
            Self::Unwatched(stream) => TcpStream::from_std(stream?),
        }
    }
}

/// What counts a connection until it is dropped.
#[derive(Debug)]
pub(crate) enum Place {
    Session { _slot: ConnectionSlot },
    Refusal { _permit: OwnedSemaphorePermit },
}

/// Why a connection is closed before its startup packet is read.
#[derive(Debug, thiserror::Error)]
enum NotAdmitted {
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error(transparent)]
    Header(#[from] ProxyProtocolError),
    #[error("PROXY protocol header did not arrive in time")]
    HeaderTimeout,
    #[error("{0}")]
    Socket(#[from] io::Error),
}

impl ClientFacing for NotAdmitted {
    fn label(&self) -> &'static str {
        match self {
            Self::TooMany(too_many) => too_many.label(),
            Self::Header(_) | Self::HeaderTimeout => "bad_proxy_header",
            Self::Socket(_) => "socket",
        }
    }

    /// Only a client that has bypassed the load balancer gets a message: in all other cases no client would read one.
    fn response(&self) -> Option<Response> {
        let Self::Header(error @ ProxyProtocolError::Missing) = self else { return None };
        let response =
            violation(error.to_string()).with_hint("Connect to the load balancer, not to this port.");
        Some(Response::Proxy(response))
    }
}

impl Admission {
    pub(crate) fn new(
        connections: Arc<Connections>,
        proxy_protocol: ProxyProtocol,
        drain: Arc<Drain>,
        metrics: Metrics,
    ) -> Self {
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        Self { connections, proxy_protocol, refusals, drain, metrics }
    }

    /// Accepts connections on the current thread until a drain closes the listeners. `serve` gets each admitted connection
    /// in a task of its own, on the thread with the fewest connections.
    pub(crate) async fn accept<F>(
        self: Arc<Self>,
        listener: Arc<TcpListener>,
        here: AcceptingThread,
        serve: impl Fn(Admitted) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.drain.listeners_close();
        let admit = |stream, peer| self.begin(stream, peer, &here, serve.clone());
        let failed = |error| {
            self.metrics.accept_errors.inc();
            tracing::warn!(%error, "cannot accept a connection");
        };
        match watched(&listener) {
            Ok(socket) => accept_loop(&socket, stop, admit, failed).await,
            Err(error) => tracing::error!(%error, "cannot duplicate a listening socket"),
        }
    }

    fn begin<F>(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        here: &AcceptingThread,
        serve: impl Fn(Admitted) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.metrics.connections.inc();
        let since = Instant::now();
        let slot = self.connections.enter().map_err(|too_many| (too_many, self.refusal()));
        if let Err((too_many, None)) = &slot {
            return self.record_refusal(peer, &NotAdmitted::TooMany(*too_many));
        }

        let (admission, seat) = (Arc::clone(self), here.seat());
        let runtime = seat.runtime().clone();
        let stream = Moving::to(&seat, stream);
        let connection = async move {
            let _seat = seat;
            let session = match Box::pin(admission.admit(stream, peer, since, slot)).await {
                Ok(admitted) => serve(admitted),
                Err(refused) => return admission.record_refusal(peer, &refused),
            };
            session.await;
        };
        self.drain.shutdown.spawn_on(connection, &runtime);
    }

    fn refusal(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.refusals).try_acquire_owned().ok()
    }

    /// Reads the PROXY header, and counts the connection for the client's address.
    async fn admit(
        &self,
        stream: Moving,
        peer: SocketAddr,
        since: Instant,
        slot: Result<ConnectionSlot, (TooMany, Option<OwnedSemaphorePermit>)>,
    ) -> Result<Admitted, NotAdmitted> {
        let mut stream = stream.arrive()?;
        socket::prepare(&stream)?;
        let (told, read_before) = match self.read_header(&mut stream).await {
            Ok(header) => header,
            Err(error) => {
                if let Some(response) = error.response() {
                    send_closing_message(&mut Stream::Plain(stream), BytesMut::new(), Some(&response)).await;
                }
                return Err(error);
            }
        };
        let peer = told.unwrap_or(peer);
        // An IPv4 client of an IPv6 listener is shown and counted as an IPv4 client.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());

        let slot = slot.and_then(|mut slot| match slot.set_source(peer.ip()) {
            Ok(()) => Ok(slot),
            Err(too_many) => Err((too_many, self.refusal())),
        });
        let (too_many, place) = match slot {
            Ok(slot) => (None, Place::Session { _slot: slot }),
            Err((too_many, Some(permit))) => (Some(too_many), Place::Refusal { _permit: permit }),
            Err((too_many, None)) => return Err(too_many.into()),
        };
        let stream = Prefixed::new(read_before, stream);
        Ok(Admitted { stream, peer, since, too_many, place })
    }

    async fn read_header(
        &self,
        stream: &mut TcpStream,
    ) -> Result<(Option<SocketAddr>, BytesMut), NotAdmitted> {
        let header = timeout(HEADER_TIMEOUT, proxy_protocol::read(stream, self.proxy_protocol)).await;
        Ok(header.map_err(|_| NotAdmitted::HeaderTimeout)??)
    }

    fn record_refusal(&self, peer: SocketAddr, refused: &NotAdmitted) {
        let reason = refused.label();
        self.metrics.refused.get_or_create(&ByReason { reason }).inc();
        tracing::info!(%peer, reason, error = %refused, "connection refused");
    }
}
