//! The proxy as a whole: gives each connection that comes through the door to a session of its own, and sees to a clean
//! end. Listeners and shutdown come in. Called by `main`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use postgres_backend::client::ClientTls;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use telemetry::{LogLevel, Metrics as Registry};
use tokio::net::TcpListener;
use tracing::Instrument;
use utils::Shutdown;
use utils::shutdown::Drained;

use crate::accept::{Arrived, Door};
use crate::activity::{Activities, Activity, SessionId};
use crate::auth::Authenticator;
use crate::cancel::Cancels;
use crate::compute::TcpDial;
use crate::compute::role_query::RoleQuery;
use crate::config::{ComputeTls, Config, ControlPlaneSource};
use crate::control_plane::{
    AuthQueryControlPlane, Cached, ControlPlane, FileControlPlane, HttpControlPlane, NoControlPlane,
};
use crate::link::{Links, mgmt};
use crate::metrics::{How, Metrics};
use crate::rate_limit::Connections;
use crate::session::{self, Ended, Services, SessionError};
use crate::tls::store::TlsStore;
use crate::{http, mock_secret};

/// Ports that are open.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub pg: Vec<TcpListener>,
    /// For operators.
    pub http: TcpListener,
    /// For the service behind logins with a browser, where there are such.
    pub mgmt: Option<TcpListener>,
}

/// What a server is made of, checked but not yet running.
#[derive(Debug)]
pub struct Server {
    services: Arc<Services<TcpDial>>,
    door: Arc<Door>,
    activities: Arc<Activities>,
    registry: Arc<Registry>,
    drain_timeout: Duration,
}

impl Server {
    /// Reads certificates and control plane. An error is a mistake in what the configuration names.
    pub fn new(config: &Config, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let mut registry = Registry::new("proxy", env!("CARGO_PKG_VERSION"));
        let metrics = Metrics::new(registry.registry().sub_registry_with_prefix("holdfast"));
        let tls = TlsStore::load(config.tls.clone()).context("certificates")?;
        if tls.current().certificates.is_none() {
            tracing::warn!("no --tls-cert: sessions are not encrypted");
        }
        let compute_tls = match &config.compute_tls {
            ComputeTls::Disable => None,
            ComputeTls::Require => Some(ClientTls::require()?),
            ComputeTls::VerifyFull { authorities } => {
                Some(ClientTls::verify_full(authorities, None).context("--compute-tls-ca")?)
            }
        };
        let provider: Box<dyn ControlPlane> = match &config.control_plane {
            ControlPlaneSource::File(path) => {
                Box::new(FileControlPlane::load(path).context("--control-plane")?)
            }
            ControlPlaneSource::Http(path) => {
                Box::new(HttpControlPlane::load(path).context("--control-plane")?)
            }
            ControlPlaneSource::AuthQuery(path) => {
                let database = Box::new(RoleQuery(TcpDial { tls: compute_tls.clone() }));
                Box::new(AuthQueryControlPlane::load(path, database).context("--control-plane")?)
            }
            ControlPlaneSource::Link(_) => Box::new(NoControlPlane),
        };
        let links = match &config.control_plane {
            ControlPlaneSource::Link(path) => Some(Arc::new(Links::load(path).context("--control-plane")?)),
            _ => None,
        };
        let control_plane = Arc::new(Cached::new(provider, metrics.clone()));
        let services = Services {
            tls: Arc::new(tls),
            login_timeout: config.login_timeout,
            auth: Authenticator::new(
                Arc::clone(&control_plane),
                mock_secret::find(config)?,
                config.client_auth,
                metrics.clone(),
            )
            .with_iterations(config.scram_iterations),
            control_plane,
            links,
            dial: TcpDial { tls: compute_tls },
            cancels: Arc::new(Cancels::new(metrics.clone())),
            connect_timeout: config.connect_timeout,
            drain_idle: config.drain_idle,
            shutdown: shutdown.clone(),
            metrics,
        };
        let connections = Connections::new(config.connections_max, config.connections_per_source_max);
        let door = Door::new(connections, config.proxy_protocol, shutdown.clone(), services.metrics.clone());
        Ok(Self {
            services: Arc::new(services),
            door: Arc::new(door),
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
        let tls = Arc::clone(&self.services.tls);
        let tls = tokio::spawn(tls.keep_current(shutdown.clone(), self.services.metrics.clone()));
        let control_plane = Arc::clone(&self.services.control_plane);
        let suspending = tokio::spawn(Arc::clone(&control_plane).suspend_idle(shutdown.clone()));
        let control_plane = tokio::spawn(control_plane.keep_current(shutdown.clone()));
        if let (Some(listener), Some(links)) = (listeners.mgmt, &self.services.links) {
            tokio::spawn(mgmt::listen(listener, Arc::clone(links), shutdown.clone()));
        }
        let (services, activities) = (self.services, self.activities);
        let serve = move |arrived| serve_connection(arrived, Arc::clone(&services), Arc::clone(&activities));
        let doors = listeners.pg.into_iter().map(|listener| {
            let watching = Arc::clone(&self.door).watch(listener, serve.clone());
            tokio::spawn(watching)
        });
        for door in doors.collect::<Vec<_>>() {
            // Only a panic ends one early, and the others go on.
            let _ = door.await;
        }
        tls.abort();
        control_plane.abort();
        suspending.abort();
        let drained = shutdown.drained(self.drain_timeout).await;
        drop(http_end);
        if drained == Drained::Complete {
            let _ = http.await;
        }
        drained
    }
}

async fn serve_connection(arrived: Arrived, services: Arc<Services<TcpDial>>, activities: Arc<Activities>) {
    let peer = arrived.peer;
    let mut random = StdRng::from_rng(&mut rand::rng());
    let id = SessionId(random.random());
    let activity = Activity::new(id, Some(peer), services.metrics.clone());
    let listed = activities.list(Arc::new(activity));
    let span = tracing::info_span!("session", %id, %peer);
    let session = async {
        let metrics = &services.metrics;
        let _open = Open::new(metrics);
        let ended = Box::pin(session::run(
            arrived.stream,
            arrived.too_many,
            &services,
            &listed.activity,
            &mut random,
        ))
        .await;
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
        if std::thread::panicking() {
            self.0.ended.get_or_create(&How { how: "panicked" }).inc();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_that_panics_is_counted_and_no_longer_open() {
        let metrics = Metrics::new(&mut Default::default());
        let counted = metrics.clone();
        let panicked = tokio::spawn(async move {
            let _open = Open::new(&counted);
            panic!("this is what the test is about");
        });
        assert!(panicked.await.unwrap_err().is_panic());
        assert_eq!(metrics.open_connections.get(), 0);
        assert_eq!(metrics.ended.get_or_create(&How { how: "panicked" }).get(), 1);
    }
}
