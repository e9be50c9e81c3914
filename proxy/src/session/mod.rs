//! The life of one connection, on one page. Each stage is a value made from the one before, so that nothing is woken for
//! a client that has not proven who it is. Generic over streams; randomness comes in, time is tokio's: conversations are
//! replayed byte for byte in `transcripts`. Called by `server` for every connection.

#[cfg(test)]
mod transcripts;

use std::sync::Arc;
use std::time::Duration;

use postgres_backend::handshake::{self, HandshakeConfig};
use postgres_backend::tls::TlsInfo;
use postgres_backend::{Connection, HandshakeError, Io};
use pq_proto::{
    Authentication, BackendMessage, ErrorResponse, FramedError, ProtocolVersion, SqlState, StartupParams,
};
use prometheus_client::metrics::gauge::Gauge;
use rand::Rng;
use scram::Credentials;
use tokio::time::{Instant, timeout, timeout_at};

use crate::auth::{AuthError, Authenticated, Authenticator, Peer};
use crate::cancel::{Cancels, Registered, Target};
use crate::client_facing::Response;
use crate::closing::{into_stream, last_word};
use crate::compute::handshake::{LoggedIn, Login};
use crate::compute::{self, ConnectError, Dial};
use crate::control_plane::{CachingControlPlane, Compute, InUse};
use crate::lifecycle::drain::Drain;
use crate::limits::connections::TooMany;
use crate::link::{LinkError, Linked, Links};
use crate::observe::activity::{Activity, Destination, Stage};
use crate::observe::metrics::Metrics;
use crate::observe::phases::{Phase, timed};
use crate::relay::{self, Limits};
use crate::route::{Route, RouteError, Way};
use crate::tls::TlsStore;
use crate::tls::{Certificate, Certificates};

/// For the client to take the greeting.
const GREET_TIMEOUT: Duration = Duration::from_secs(10);

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Services<D> {
    pub(crate) tls: Arc<TlsStore>,
    /// From the first byte to authenticated.
    pub(crate) login_timeout: Duration,
    pub(crate) control_plane: Arc<CachingControlPlane>,
    pub(crate) dial: D,
    pub(crate) cancels: Arc<Cancels>,
    pub(crate) auth: Authenticator,
    /// Instead of routes and passwords, when people log in with a browser.
    pub(crate) links: Option<Arc<Links>>,
    /// From authenticated to connected, a wake included.
    pub(crate) connect_timeout: Duration,
    pub(crate) drain: Arc<Drain>,
    pub(crate) metrics: Metrics,
}

/// How a connection ended in which nothing went wrong on the way to its compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The client closed the connection before it said what it wants: a port check.
    NothingAsked,
    /// It was a cancel request.
    CancelRequest,
    /// It was a session.
    Session(relay::Ended),
}

/// Runs a connection from its first byte to its last. One that is `too_many` may do no more than cancel.
pub(crate) async fn run<S: Io, D: Dial>(
    stream: S,
    too_many: Option<TooMany>,
    services: &Services<D>,
    activity: &Activity,
    random: &mut (impl Rng + Send),
) -> Result<Ended, SessionError> {
    let begin = Instant::now();
    let tls = services.tls.current();
    let config = HandshakeConfig { tls: tls.policy.clone(), timeout: services.login_timeout };
    // Whether it will be TLS is seen at its end only.
    let accepting = timed(Phase::Tls, handshake::accept(stream, &config));
    let session = match Box::pin(accepting).await? {
        handshake::Accepted::Session(session) => *session,
        handshake::Accepted::Closed => return Ok(Ended::NothingAsked),
        handshake::Accepted::Cancel { pid, key } => {
            services.cancels.pass_on(&services.dial, activity.peer(), pid, &key).await;
            return Ok(Ended::CancelRequest);
        }
    };
    if session.tls.is_none() {
        activity.phases.rename(Phase::Tls, Phase::Startup);
    }
    let mut client = session.connection;
    if let Some(too_many) = too_many {
        let (mut client, _, unsent) = into_stream(client);
        last_word(&mut client, unsent, Some(&Response::Own(too_many.response()))).await;
        return Err(too_many.into());
    }
    let (version, certificates) = (session.version, tls.certificates.as_deref());
    let accepted =
        Accepted { params: session.params, tls: session.tls, certificates, deadline: session.deadline };
    let connected = tokio::select! {
        connected = Box::pin(log_in(accepted, &mut client, services, activity, random)) => connected,
        () = services.drain.deadline() => Err(SessionError::Draining),
    };
    let mut connected = match connected {
        Ok(connected) => connected,
        Err(error) => {
            let (mut client, _, unsent) = into_stream(client);
            last_word(&mut client, unsent, error.response().as_ref()).await;
            return Err(error);
        }
    };
    let _in_use = connected.in_use.take();
    let greeting = timed(Phase::Connect, connected.greet(&mut client, version, services, random));
    let (compute, registered) = greeting.await?;
    services.metrics.login_seconds.observe(begin.elapsed().as_secs_f64());
    Ok(Ended::Session(pass_bytes(client, compute, registered, services, activity).await))
}

async fn log_in<S: Io, D: Dial>(
    accepted: Accepted<'_>,
    client: &mut Connection<S>,
    services: &Services<D>,
    activity: &Activity,
    random: &mut (impl Rng + Send),
) -> Result<Connected<D::Stream>, SessionError> {
    if services.drain.refuses_sessions() {
        return Err(SessionError::Draining);
    }
    if let Some(links) = &services.links {
        return accepted.link(links, client, services, activity, random).await;
    }
    let routed = accepted.route()?;
    if let Way::Known(route) = &routed.way {
        activity.goes_to(Destination::of(route));
    }
    activity.reached(Stage::Authenticating);
    let authenticating =
        Box::pin(timed(Phase::Auth, routed.authenticate(client, services, activity, random)));
    let authenticated = authenticating.await?;
    activity.goes_to(Destination::of(&authenticated.route));
    activity.reached(Stage::Connecting);
    tokio::select! {
        connected = timed(Phase::Connect, authenticated.connect(services, random)) => connected,
        // Nobody starts anything for a client that has left. What others wait for too goes on.
        error = gone(client) => Err(SessionError::Client(error)),
    }
}

impl Destination {
    fn of(route: &Route) -> Self {
        Self { endpoint: route.endpoint.to_string(), role: route.role.to_str_lossy().into_owned() }
    }
}

/// Returns when the client has left. One that sends ahead is not watched further: its bytes come before its end.
async fn gone<S: Io>(client: &mut Connection<S>) -> FramedError {
    match client.reader.peek_byte().await {
        Ok(Some(_)) => std::future::pending().await,
        Ok(None) => FramedError::Io(std::io::ErrorKind::UnexpectedEof.into()),
        Err(error) => error,
    }
}

/// A client with a startup packet.
struct Accepted<'c> {
    params: StartupParams,
    tls: Option<TlsInfo>,
    /// Those of the handshake, whatever has become of them since.
    certificates: Option<&'c Certificates>,
    /// Until then the client must be authenticated.
    deadline: Instant,
}

impl<'c> Accepted<'c> {
    fn route(self) -> Result<Routed<'c>, SessionError> {
        let server_name = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let certificate = self.certificates.filter(|_| self.tls.is_some()).map(|all| all.choose(server_name));
        let domains = certificate.map(Certificate::domains).unwrap_or_default();
        let way = Route::find(server_name, domains, self.params)?;
        let end_point_hash = certificate.and_then(Certificate::end_point_hash);
        Ok(Routed { way, encrypted: self.tls.is_some(), end_point_hash, deadline: self.deadline })
    }

    /// The way of somebody who logs in with a browser. The client's deadline is the person's.
    async fn link<S: Io, D: Dial>(
        self,
        links: &Links,
        client: &mut Connection<S>,
        services: &Services<D>,
        activity: &Activity,
        random: &mut (impl Rng + Send),
    ) -> Result<Connected<D::Stream>, SessionError> {
        activity.reached(Stage::Authenticating);
        let linking = Box::pin(timed(Phase::Auth, links.log_in(client, self.params, random)));
        let Linked { compute, login, role } = linking.await?;
        activity.goes_to(Destination { endpoint: compute.address.to_string(), role });
        activity.reached(Stage::Connecting);
        let connecting =
            compute::connect_once(&services.dial, &compute, &login, services.connect_timeout, random);
        Ok(Connected {
            logged_in: timed(Phase::Connect, connecting).await?,
            compute,
            told: Told::AuthenticationOk,
            in_use: None,
        })
    }
}

/// A client of an endpoint, as far as its startup packet says.
struct Routed<'c> {
    way: Way,
    encrypted: bool,
    /// What SCRAM may bind to.
    end_point_hash: Option<&'c [u8]>,
    deadline: Instant,
}

impl Routed<'_> {
    async fn authenticate<S: Io, D: Dial>(
        self,
        client: &mut Connection<S>,
        services: &Services<D>,
        activity: &Activity,
        random: &mut (impl Rng + Send),
    ) -> Result<Authenticated, SessionError> {
        let peer = Peer {
            session: activity.id,
            address: activity.address(),
            encrypted: self.encrypted,
            end_point_hash: self.end_point_hash,
        };
        let authentication = Box::pin(services.auth.authenticate(client, self.way, &peer, random));
        Ok(timeout_at(self.deadline, authentication).await.map_err(|_| SessionError::Timeout)??)
    }
}

impl Authenticated {
    async fn connect<D: Dial>(
        self,
        services: &Services<D>,
        random: &mut (impl Rng + Send),
    ) -> Result<Connected<D::Stream>, SessionError> {
        let begin = Instant::now();
        let in_use = services.control_plane.in_use(&self.context.endpoint);
        let in_use =
            timeout(services.connect_timeout, in_use).await.map_err(|_| ConnectError::StillWaking)?;
        let login = Login { params: self.route.params, credentials: Credentials::Keys(self.proven.keys) };
        let connecting = compute::connect(
            &services.dial,
            &services.control_plane,
            &self.context,
            &login,
            services.connect_timeout,
            random,
        );
        let (logged_in, compute) = connecting.await?;
        services.metrics.connect_seconds.observe(begin.elapsed().as_secs_f64());
        let told = Told::Nothing { server_final: self.proven.server_final };
        Ok(Connected { logged_in, compute, told, in_use: Some(in_use) })
    }
}

/// A client whose compute has let it in.
struct Connected<C> {
    logged_in: LoggedIn<C>,
    compute: Arc<Compute>,
    told: Told,
    /// Keeps the compute from being stopped.
    in_use: Option<InUse>,
}

/// What a client has heard of its login so far.
enum Told {
    /// Nothing; it may have to hear of SCRAM's end first.
    Nothing { server_final: Option<String> },
    /// That it is let in.
    AuthenticationOk,
}

impl<C: Io> Connected<C> {
    /// Tells the client everything up to ReadyForQuery in one write.
    async fn greet<S: Io, D: Dial>(
        self,
        client: &mut Connection<S>,
        version: ProtocolVersion,
        services: &Services<D>,
        random: &mut (impl Rng + Send),
    ) -> Result<(Connection<C>, Option<Cancellable>), SessionError> {
        let LoggedIn { connection, greeting, key, ready } = self.logged_in;
        let cancellable = key.map(|(pid, key)| {
            let target = Arc::new(Target { compute: self.compute, pid, key });
            let registered = services.cancels.register(Arc::clone(&target), version, random);
            Cancellable { target, registered }
        });
        let writer = &mut client.writer;
        if let Told::Nothing { server_final } = self.told {
            let server_final = server_final.map(|text| Authentication::SaslFinal(text.into()));
            for request in server_final.into_iter().chain([Authentication::Ok]) {
                writer.put(&BackendMessage::Authentication(request)).map_err(FramedError::from)?;
            }
        }
        writer.put_raw(&greeting);
        if let Some(Cancellable { registered, .. }) = &cancellable {
            let own = BackendMessage::BackendKeyData { pid: registered.pid, key: registered.key.clone() };
            writer.put(&own).map_err(FramedError::from)?;
        }
        writer.put(&ready).map_err(FramedError::from)?;
        timeout(GREET_TIMEOUT, writer.flush())
            .await
            .map_err(|_| SessionError::Timeout)?
            .map_err(FramedError::from)?;
        Ok((connection, cancellable))
    }
}

/// A backend that can be asked to stop, and the key that lets its client ask.
struct Cancellable {
    target: Arc<Target>,
    registered: Registered,
}

async fn pass_bytes<S: Io, D: Dial>(
    client: Connection<S>,
    compute: Connection<D::Stream>,
    cancellable: Option<Cancellable>,
    services: &Services<D>,
    activity: &Activity,
) -> relay::Ended {
    activity.reached(Stage::Passing);
    let counted = Counted::new(&services.metrics.sessions);
    let drain = &services.drain;
    let limits = Limits { when_idle: drain.idle_sessions_end(), at_all: drain.deadline() };
    let ended = Box::pin(relay::run(client, compute, activity, limits)).await;
    drop(counted);
    if let Some(Cancellable { target, registered }) = cancellable {
        drop(registered);
        // Nobody waits for the answer any more, but the database would still work on it.
        use relay::Ended::{ClientVanished, CutOff};
        if matches!(ended, ClientVanished { busy: true } | CutOff { busy: true })
            && let Err(error) = target.cancel(&services.dial).await
        {
            tracing::warn!(%error, "the query of a client that vanished was not cancelled");
        }
    }
    ended
}

/// Counts a session for as long as it lives, however it ends.
struct Counted<'m>(&'m Gauge);

impl<'m> Counted<'m> {
    fn new(gauge: &'m Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Why a connection did not become a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The client has heard of it already.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The client has heard of it already.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error("the proxy is shutting down")]
    Draining,
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("canceling authentication due to timeout")]
    Timeout,
    /// The client's connection broke.
    #[error(transparent)]
    Client(#[from] FramedError),
}

impl SessionError {
    /// A word for the metrics and the log.
    pub(crate) fn how(&self) -> &'static str {
        match self {
            Self::Handshake(HandshakeError::TlsRequired) => "plaintext",
            Self::Handshake(HandshakeError::Tls(_)) => "tls_failed",
            Self::Handshake(HandshakeError::Timeout) | Self::Timeout => "client_timeout",
            Self::Handshake(error) if error.response().is_some() => "bad_startup",
            Self::Handshake(_) | Self::Client(_) => "client_left",
            Self::TooMany(too_many) => too_many.how(),
            Self::Draining => "draining",
            Self::Route(_) => "no_route",
            Self::Auth(error) => error.how(),
            Self::Link(error) => error.how(),
            Self::Connect(error) => error.how(),
        }
    }

    /// Somebody has to look at it, and it is not the client.
    pub(crate) const fn is_ours(&self) -> bool {
        match self {
            Self::Connect(error) => !error.is_the_computes(),
            _ => false,
        }
    }

    fn response(&self) -> Option<Response> {
        match self {
            Self::Draining => Some(Response::Own(
                ErrorResponse::fatal(SqlState::CANNOT_CONNECT_NOW, self.to_string())
                    .with_hint("Connect again: another one takes over."),
            )),
            Self::Route(error) => Some(Response::Own(error.response())),
            Self::Auth(error) => error.response().map(Response::Own),
            Self::Link(error) => error.response().map(Response::Own),
            Self::Connect(error) => Some(error.response()),
            Self::Timeout => {
                Some(Response::Own(ErrorResponse::fatal(SqlState::QUERY_CANCELED, self.to_string())))
            }
            Self::Handshake(_) | Self::TooMany(_) | Self::Client(_) => None,
        }
    }
}
