//! The door: takes connections from a listener, asks a balancer where they come from, counts them, and turns away what is
//! too much before anything expensive happens. Whatever fails here fails for one connection. Called by `server`, which
//! says what becomes of those that are let in.

mod proxy_protocol;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_backend::Stream;
use postgres_backend::stream::Prefixed;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use utils::accept_loop::accept_loop;

use self::proxy_protocol::ProxyProtocolError;
use crate::client_facing::{Response, violation};
use crate::closing::last_word;
use crate::config::ProxyProtocol;
use crate::lifecycle::drain::Drain;
use crate::limits::connections::{Admitted, Connections, TooMany};
use crate::observe::metrics::{ByReason, Metrics};
use crate::socket;

/// For the header of the balancer: it sends it at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients at the same time that are too many and still told so; the others just see the connection end.
const REFUSALS_MAX: usize = 64;

/// What stands between a listener and a session.
#[derive(Debug)]
pub(crate) struct Door {
    connections: Arc<Connections>,
    proxy_protocol: ProxyProtocol,
    refusals: Arc<Semaphore>,
    drain: Arc<Drain>,
    metrics: Metrics,
}

/// A connection, and what was found out about it.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) stream: Prefixed<TcpStream>,
    /// The client, as far as is known.
    pub(crate) peer: SocketAddr,
    /// When it came.
    pub(crate) since: Instant,
    /// One that is too many gets no session, but is heard: clients show nothing that was said before TLS, and a cancel
    /// request is welcome at such a time.
    pub(crate) too_many: Option<TooMany>,
    /// It counts for as long as this lives.
    _place: Place,
}

#[derive(Debug)]
enum Place {
    Session { _admitted: Admitted },
    Refusal { _permit: OwnedSemaphorePermit },
}

/// A connection that is not even heard.
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
            Self::TooMany(too_many) => too_many.how(),
            Self::Header(_) | Self::Late => "bad_proxy_header",
            Self::Socket(_) => "socket",
        }
    }
}

impl Door {
    pub(crate) fn new(
        connections: Arc<Connections>,
        proxy_protocol: ProxyProtocol,
        drain: Arc<Drain>,
        metrics: Metrics,
    ) -> Self {
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        Self { connections, proxy_protocol, refusals, drain, metrics }
    }

    /// Until a drain closes the doors. `serve` gets every connection that is heard, each in a task of its own.
    pub(crate) async fn watch<F>(
        self: Arc<Self>,
        listener: Arc<TcpListener>,
        serve: impl Fn(Arrived) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.drain.doors_close();
        let enter = |stream, peer| self.enter(stream, peer, serve.clone());
        accept_loop(&*listener, stop, enter, |error| {
            self.metrics.accept_errors.inc();
            tracing::warn!(%error, "cannot accept a connection");
        })
        .await;
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
        let since = Instant::now();
        let admission = self.connections.enter().map_err(|too_many| (too_many, self.refusal()));
        if let Err((too_many, None)) = &admission {
            return self.note(peer, &TurnedAway::TooMany(*too_many));
        }
        let door = Arc::clone(self);
        self.drain.shutdown.spawn(async move {
            match Box::pin(door.look_at(stream, peer, since, admission)).await {
                Ok(arrived) => serve(arrived).await,
                Err(turned_away) => door.note(peer, &turned_away),
            }
        });
    }

    fn refusal(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.refusals).try_acquire_owned().ok()
    }

    /// Finds out who it is.
    async fn look_at(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        since: Instant,
        admission: Result<Admitted, (TooMany, Option<OwnedSemaphorePermit>)>,
    ) -> Result<Arrived, TurnedAway> {
        socket::prepare(&stream)?;
        let header = timeout(HEADER_TIMEOUT, proxy_protocol::read(&mut stream, self.proxy_protocol)).await;
        let header = header.map_err(|_| TurnedAway::Late)?;
        if let Err(error @ ProxyProtocolError::Missing) = &header {
            let response =
                violation(error.to_string()).with_hint("Connect to the load balancer, not to this port.");
            last_word(&mut Stream::Plain(stream), BytesMut::new(), Some(&Response::Own(response))).await;
            return Err(ProxyProtocolError::Missing.into());
        }
        let (told, read_before) = header?;
        let peer = told.unwrap_or(peer);
        // An IPv4 client of an IPv6 listener is shown, and counted, as what it is.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let admission = admission.and_then(|mut admitted| match admitted.comes_from(peer.ip()) {
            Ok(()) => Ok(admitted),
            Err(too_many) => Err((too_many, self.refusal())),
        });
        let (too_many, place) = match admission {
            Ok(admitted) => (None, Place::Session { _admitted: admitted }),
            Err((too_many, Some(permit))) => (Some(too_many), Place::Refusal { _permit: permit }),
            Err((too_many, None)) => return Err(too_many.into()),
        };
        Ok(Arrived { stream: Prefixed::new(read_before, stream), peer, since, too_many, _place: place })
    }

    fn note(&self, peer: SocketAddr, turned_away: &TurnedAway) {
        let how = turned_away.how();
        self.metrics.refused.get_or_create(&ByReason { reason: how }).inc();
        tracing::info!(%peer, how, error = %turned_away, "turned away");
    }
}
