//! The door: takes connections from a listener, asks a balancer where they come from, counts them, and turns away what is
//! too much before anything expensive happens. Whatever fails here fails for one connection. Called by `server`, which
//! says what becomes of those that are let in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_backend::Stream;
use postgres_backend::stream::Prefixed;
use pq_proto::{ErrorResponse, SqlState};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use utils::{Backoff, Shutdown};

use crate::error::{Response, violation};
use crate::metrics::{How, Metrics};
use crate::passthrough::last_word;
use crate::proxy_protocol::{self, ProxyProtocol, ProxyProtocolError};
use crate::rate_limit::{Admitted, Connections, TooMany};
use crate::socket;

/// For the header of the balancer: it sends it at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses after a failed accept: with no descriptor left it fails at once, again and again.
const ACCEPT_RETRY_DELAY_MIN: Duration = Duration::from_millis(10);
const ACCEPT_RETRY_DELAY_MAX: Duration = Duration::from_secs(1);
/// Clients at the same time that are told why they are turned away; the others just see the connection end.
const REFUSALS_MAX: usize = 64;

/// What stands between a listener and a session.
#[derive(Debug)]
pub(crate) struct Door {
    connections: Arc<Connections>,
    proxy_protocol: ProxyProtocol,
    refusals: Arc<Semaphore>,
    shutdown: Shutdown,
    metrics: Metrics,
}

/// A connection that was let in. It counts for as long as `_admitted` lives.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) stream: Prefixed<TcpStream>,
    /// The client, as far as is known.
    pub(crate) peer: SocketAddr,
    _admitted: Admitted,
}

/// A connection that was not.
#[derive(Debug, thiserror::Error)]
enum TurnedAway {
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error(transparent)]
    Header(#[from] ProxyProtocolError),
    #[error("no PROXY protocol header came in time")]
    Late,
    #[error("{0}")]
    Socket(#[from] std::io::Error),
}

impl TurnedAway {
    fn how(&self) -> &'static str {
        match self {
            Self::TooMany(TooMany::Total) => "too_many",
            Self::TooMany(TooMany::FromSource) => "too_many_from_address",
            Self::Header(_) | Self::Late => "bad_proxy_header",
            Self::Socket(_) => "socket",
        }
    }

    fn response(&self) -> Option<ErrorResponse> {
        match self {
            Self::TooMany(_) => Some(
                ErrorResponse::fatal(SqlState::TOO_MANY_CONNECTIONS, self.to_string())
                    .with_hint("Close connections that are not needed, or try again later."),
            ),
            Self::Header(ProxyProtocolError::Missing) => {
                Some(violation(self.to_string()).with_hint("Connect to the load balancer, not to this port."))
            }
            Self::Header(_) | Self::Late | Self::Socket(_) => None,
        }
    }
}

impl Door {
    pub(crate) fn new(
        connections: Connections,
        proxy_protocol: ProxyProtocol,
        shutdown: Shutdown,
        metrics: Metrics,
    ) -> Self {
        let (connections, refusals) = (Arc::new(connections), Arc::new(Semaphore::new(REFUSALS_MAX)));
        Self { connections, proxy_protocol, refusals, shutdown, metrics }
    }

    /// Until a drain begins. `serve` gets every connection that is let in, each in a task of its own.
    pub(crate) async fn watch<F>(
        self: Arc<Self>,
        listener: TcpListener,
        serve: impl Fn(Arrived) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut backoff = Backoff::new(ACCEPT_RETRY_DELAY_MIN, ACCEPT_RETRY_DELAY_MAX);
        let mut draining = std::pin::pin!(self.shutdown.draining());
        loop {
            let accepted = tokio::select! {
                () = &mut draining => return,
                // Cancel safe: an accept that did not return has taken no connection.
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff.reset();
                    self.enter(stream, peer, serve.clone());
                }
                Err(error) => {
                    self.metrics.accept_errors.inc();
                    tracing::warn!(%error, "cannot accept a connection");
                    backoff.wait().await;
                }
            }
        }
    }

    fn enter<F>(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        serve: impl Fn(Arrived) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.metrics.connections.inc();
        let door = Arc::clone(self);
        match self.connections.enter() {
            Ok(admitted) => {
                self.shutdown.spawn(async move {
                    match Box::pin(door.look_at(stream, peer, admitted)).await {
                        Ok(arrived) => serve(arrived).await,
                        Err((turned_away, stream)) => door.turn_away(stream, peer, &turned_away).await,
                    }
                });
            }
            Err(too_many) => {
                self.shutdown.spawn(async move { door.turn_away(stream, peer, &too_many.into()).await });
            }
        }
    }

    /// Finds out who it is.
    async fn look_at(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        mut admitted: Admitted,
    ) -> Result<Arrived, (TurnedAway, TcpStream)> {
        let looking = async {
            socket::prepare(&stream)?;
            let header =
                timeout(HEADER_TIMEOUT, proxy_protocol::read(&mut stream, self.proxy_protocol)).await;
            let (told, read_before) = header.map_err(|_| TurnedAway::Late)??;
            let peer = told.unwrap_or(peer);
            // An IPv4 client of an IPv6 listener is shown, and counted, as what it is.
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            admitted.comes_from(peer.ip())?;
            Ok((peer, read_before))
        };
        match looking.await {
            Ok((peer, read_before)) => {
                Ok(Arrived { stream: Prefixed::new(read_before, stream), peer, _admitted: admitted })
            }
            Err(turned_away) => Err((turned_away, stream)),
        }
    }

    async fn turn_away(&self, stream: TcpStream, peer: SocketAddr, turned_away: &TurnedAway) {
        let how = turned_away.how();
        self.metrics.refused.get_or_create(&How { how }).inc();
        tracing::info!(%peer, how, error = %turned_away, "turned away");
        if let Some(response) = turned_away.response()
            && let Ok(_permit) = self.refusals.try_acquire()
        {
            // Before TLS: a client that asks for it reads an error there as one of the server's (PostgreSQL
            // documentation, "SSL Session Encryption").
            last_word(&mut Stream::Plain(stream), BytesMut::new(), Some(&Response::Own(response))).await;
        }
    }
}
