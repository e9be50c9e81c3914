//! The proxy as a whole: accepts connections, gives each to a session of its own, and sees to a clean end. Listeners and
//! shutdown come in. Called by `main`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use postgres_backend::TlsPolicy;
use postgres_backend::handshake::HandshakeConfig;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use telemetry::{LogLevel, Metrics as Registry};
use tokio::net::{TcpListener, TcpStream};
use tracing::Instrument;
use utils::shutdown::Drained;
use utils::{Backoff, Shutdown};

use crate::activity::{Activities, Activity, SessionId};
use crate::cancel::Cancels;
use crate::compute::TcpDial;
use crate::config::{Config, ControlPlaneSource};
use crate::control_plane::{Cached, FileControlPlane};
use crate::metrics::{How, Metrics};
use crate::session::{self, Ended, Services, SessionError};
use crate::tls::Certificates;
use crate::{http, mock_secret, socket};

/// For a client from its first byte until it is authenticated.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Pauses after a failed accept: with no descriptor left it fails at once, again and again.
const ACCEPT_RETRY_DELAY_MIN: Duration = Duration::from_millis(10);
const ACCEPT_RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// Ports that are open.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub pg: TcpListener,
    /// For operators.
    pub http: TcpListener,
}

/// What a server is made of, checked but not yet running.
#[derive(Debug)]
pub struct Server {
    services: Arc<Services<TcpDial>>,
    activities: Arc<Activities>,
    registry: Arc<Registry>,
    drain_timeout: Duration,
}

impl Server {
    /// Reads certificates and control plane. An error is a mistake in what the configuration names.
    pub fn new(config: &Config, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let mut registry = Registry::new("proxy", env!("CARGO_PKG_VERSION"));
        let metrics = Metrics::new(registry.registry().sub_registry_with_prefix("holdfast"));
        let certificates = Certificates::load(&config.tls).context("--tls-cert")?.map(Arc::new);
        let policy = match &certificates {
            Some(certificates) => TlsPolicy::Required(certificates.server_tls()?),
            None => {
                tracing::warn!("no --tls-cert: sessions are not encrypted");
                TlsPolicy::Disabled
            }
        };
        let provider = match &config.control_plane {
            ControlPlaneSource::File(path) => FileControlPlane::load(path).context("--control-plane")?,
        };
        let services = Services {
            handshake: HandshakeConfig { tls: policy, timeout: LOGIN_TIMEOUT },
            certificates,
            control_plane: Arc::new(Cached::new(Box::new(provider), metrics.clone())),
            dial: TcpDial,
            cancels: Arc::new(Cancels::new(metrics.clone())),
            mock_secret: mock_secret::find(config)?,
            connect_timeout: config.connect_timeout,
            drain_idle: config.drain_idle,
            shutdown: shutdown.clone(),
            metrics,
        };
        Ok(Self {
            services: Arc::new(services),
            activities: Arc::default(),
            registry: Arc::new(registry),
            drain_timeout: config.drain_timeout,
        })
    }

    /// Serves until the end of a drain, or until an immediate end is asked for.
    pub async fn serve(self, listeners: Listeners, log_level: LogLevel) -> Drained {
        let shutdown = self.services.shutdown.clone();
        let router = http::router(&self.services, &self.activities, self.registry, log_level);
        let (http_end, wait_http_end) = tokio::sync::oneshot::channel::<()>();
        let http = tokio::spawn(telemetry::serve(listeners.http, router, async {
            let _ = wait_http_end.await;
        }));
        accept(listeners.pg, &self.services, &self.activities).await;
        let drained = shutdown.drained(self.drain_timeout).await;
        drop(http_end);
        if drained == Drained::Complete {
            let _ = http.await;
        }
        drained
    }
}

/// Until a drain begins. Whatever fails here fails for one connection.
async fn accept(listener: TcpListener, services: &Arc<Services<TcpDial>>, activities: &Arc<Activities>) {
    let mut backoff = Backoff::new(ACCEPT_RETRY_DELAY_MIN, ACCEPT_RETRY_DELAY_MAX);
    let mut draining = std::pin::pin!(services.shutdown.draining());
    loop {
        let accepted = tokio::select! {
            () = &mut draining => return,
            // Cancel safe: an accept that did not return has taken no connection.
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff.reset();
                let session = serve_connection(stream, peer, Arc::clone(services), Arc::clone(activities));
                services.shutdown.spawn(session);
            }
            Err(error) => {
                services.metrics.accept_errors.inc();
                tracing::warn!(%error, "cannot accept a connection");
                backoff.wait().await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    services: Arc<Services<TcpDial>>,
    activities: Arc<Activities>,
) {
    // An IPv4 client of an IPv6 listener is shown as what it is.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut random = StdRng::from_rng(&mut rand::rng());
    let id = SessionId(random.random());
    let activity = Activity::new(id, Some(peer), services.metrics.clone());
    let listed = activities.list(Arc::new(activity));
    let span = tracing::info_span!("session", %id, %peer);
    let session = async {
        let metrics = &services.metrics;
        metrics.connections.inc();
        let _open = Open::new(metrics);
        let ended = match socket::prepare(&stream) {
            Ok(()) => Box::pin(session::run(stream, &services, &listed.activity, &mut random)).await,
            Err(error) => Err(SessionError::Client(error.into())),
        };
        let how = log_end(&listed.activity, ended);
        metrics.ended.get_or_create(&How { how }).inc();
    };
    session.instrument(span).await;
}

/// Counts a connection for as long as it lives, however it ends.
struct Open<'m>(&'m Metrics);

impl<'m> Open<'m> {
    fn new(metrics: &'m Metrics) -> Self {
        metrics.open_connections.inc();
        Self(metrics)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open_connections.dec();
    }
}

/// One line for each connection. One that asked for nothing, as port checks do, is not worth a line.
fn log_end(activity: &Activity, ended: Result<Ended, SessionError>) -> &'static str {
    let (endpoint, role) = match activity.destination() {
        Some(destination) => (destination.endpoint.as_str(), destination.role.as_str()),
        None => ("", ""),
    };
    let view = activity.view();
    match ended {
        Ok(Ended::NothingAsked) => "nothing_asked",
        Ok(Ended::CancelRequest) => "cancel_request",
        Ok(Ended::Session(ended)) => {
            let how = ended.how();
            let (received, sent) = (view.bytes_from_client, view.bytes_to_client);
            tracing::info!(endpoint, role, how, received, sent, "session ended");
            how
        }
        Err(error) if error.is_ours() => {
            let how = error.how();
            tracing::warn!(endpoint, role, how, %error, "no session");
            how
        }
        Err(error) => {
            let how = error.how();
            tracing::info!(endpoint, role, how, %error, "no session");
            how
        }
    }
}
