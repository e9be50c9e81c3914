//! The proxy as a whole: assembles the services, runs the listeners and the background tasks, gives each admitted connection
//! a session of its own, and ends in order. Listeners and shutdown are arguments. Called by `main`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use postgres_backend::client::ClientTls;
use rand::RngExt;
use telemetry::{LogLevel, Metrics as Registry};
use tokio::sync::watch;
use tracing::field;
use utils::Shutdown;
use utils::shutdown::Drained;

use crate::accept::{Admission, Admitted};
use crate::auth::Authenticator;
use crate::cancel::Cancels;
use crate::compute::TcpDial;
use crate::compute::role_query::RoleQuery;
use crate::config::{ComputeTls, Config, ControlPlaneSource};
use crate::control_plane::{CachingControlPlane, ControlPlane, NoControlPlane};
use crate::lifecycle::drain::{Drain, Times};
use crate::lifecycle::handover::{Handover, Succession};
use crate::lifecycle::reload::{ReloadError, Source, Sources};
use crate::lifecycle::supervise::{Supervised, supervise, supervise_on};
use crate::limits::connections::Connections;
use crate::limits::limits_file::{Limited, Limits, LimitsFile};
use crate::link::{Links, mgmt};
use crate::listeners::{Listener, Listeners, watched};
use crate::observe::activity::{Activities, Activity, SessionId};
use crate::observe::metrics::Metrics;
use crate::observe::phases::Phase;
use crate::observe::session_record::SessionRecord;
use crate::observe::traffic_metrics::TrafficMetrics;
use crate::peer_server::{self, Host};
use crate::peers::Peers;
use crate::providers::{AuthQueryControlPlane, FileControlPlane, HttpControlPlane, TokenFile};
use crate::session::{self, Services, Session};
use crate::thread_random::ThreadRandom;
use crate::threads::Threads;
use crate::tls::TlsStore;
use crate::{admin, auth};

/// Time limit for sessions to end after the drain deadline.
const CUT_OFF_TIMEOUT: Duration = Duration::from_secs(3);

/// A server that is assembled and checked, but not yet running.
#[derive(Debug)]
pub struct Server {
    services: Arc<Services<TcpDial>>,
    admission: Arc<Admission>,
    activities: Arc<Activities>,
    threads: Threads,
    sources: Arc<Sources>,
    registry: Arc<Registry>,
}

impl Server {
    /// Loads the files that the configuration names. An error names the flag or the file.
    pub fn new(config: &Config, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let mut registry = Registry::new("proxy", env!("CARGO_PKG_VERSION"));
        let metrics = Metrics::new(registry.registry());
        let activities = Arc::<Activities>::default();
        registry.registry().register_collector(Box::new(TrafficMetrics(Arc::clone(&activities))));
        let threads = Threads::start(config.threads).context("--threads")?;
        registry.registry().register_collector(Box::new(threads.metrics()));
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
        let mut token = None;
        let provider: Box<dyn ControlPlane> = match &config.control_plane {
            ControlPlaneSource::File(path) => {
                Box::new(FileControlPlane::load(path).context("--control-plane")?)
            }
            ControlPlaneSource::Http(path) => {
                let plane = HttpControlPlane::load(path).context("--control-plane")?;
                token = plane.token();
                Box::new(plane)
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
        let control_plane = Arc::new(CachingControlPlane::new(provider, &config.caches, metrics.clone()));
        let Config { drain_grace: grace, drain_idle: idle, drain_timeout: timeout, .. } = *config;
        let drain = Arc::new(Drain::new(shutdown.clone(), Times { grace, idle, timeout }));
        let services = Services {
            tls: Arc::new(tls),
            login_timeout: config.login_timeout,
            auth: Authenticator::new(
                Arc::clone(&control_plane),
                auth::mock_secret::find(config)?,
                config.client_auth,
                metrics.clone(),
            )
            .with_iterations(config.scram_iterations)
            .with_limit(config.login_limits.per_endpoint),
            control_plane,
            links,
            dial: TcpDial { tls: compute_tls },
            cancels: Arc::new(Cancels::new(metrics.clone())),
            connect_timeout: config.connect_timeout,
            drain: Arc::clone(&drain),
            metrics,
        };
        let flags = Limits::of_flags(config);
        let connections =
            Arc::new(Connections::new(flags.connections).with_arrivals(config.login_limits.per_network));
        let limited = Limited {
            connections: Arc::clone(&connections),
            logins: services.auth.logins(),
            wakes: services.control_plane.wakes(),
        };
        let limits = config.limits_file.clone().map(|path| LimitsFile::new(path, flags, limited));
        let sources = sources(&services, token, limits)?;
        let admission = Admission::new(connections, config.proxy_protocol, drain, services.metrics.clone());
        Ok(Self {
            services: Arc::new(services),
            admission: Arc::new(admission),
            activities,
            threads,
            sources: Arc::new(sources),
            registry: Arc::new(registry),
        })
    }

    /// Starts to accept connections, and then tells the process that it replaces to close its listeners.
    pub async fn start(
        self,
        listeners: Listeners,
        succession: Succession,
        log_level: LogLevel,
    ) -> anyhow::Result<Running> {
        let Succession { handover, predecessor } = succession;
        let drain = Arc::clone(&self.services.drain);
        if let Some(handover) = &handover {
            self.set_peers_of_services(&handover.peers());
        }
        let (http_end, http_ends) = watch::channel(());
        let http = self.serve_admin(&listeners, handover.as_ref(), log_level, http_ends)?;
        let background = self.background_tasks(&listeners);
        let peers = self.serve_peers(&listeners, handover.as_ref());
        let accepting = self.accept(listeners.pg);
        drop((listeners.http, listeners.mgmt));
        if let Some(predecessor) = predecessor {
            self.services.control_plane.learn_uses_of_peers().await;
            predecessor.replace().await;
        }
        if let Some(handover) = &handover {
            handover.point_link_here().context("--handover-socket")?;
        }
        Ok(Running {
            drain,
            listeners: accepting,
            background,
            http,
            http_end,
            threads: self.threads,
            _peers: peers,
            _handover: handover,
        })
    }

    /// Lets the services ask peers for what this process does not know.
    fn set_peers_of_services(&self, peers: &Peers) {
        self.services.cancels.set_peers(peers.clone());
        self.services.control_plane.set_peers(peers.clone());
        if let Some(links) = &self.services.links {
            links.set_peers(peers.clone());
        }
    }

    /// Serves the admin port. `/readyz` shows the drain, so it ends with the drain, or when another process serves
    /// the port.
    fn serve_admin(
        &self,
        listeners: &Listeners,
        handover: Option<&Handover>,
        log_level: LogLevel,
        end: watch::Receiver<()>,
    ) -> anyhow::Result<Supervised> {
        let (registry, peers) = (Arc::clone(&self.registry), handover.map(Handover::peers));
        let router = admin::router(&self.services, &self.activities, registry, log_level, peers);
        let (socket, drain) = (Arc::clone(&listeners.http.socket), Arc::clone(&self.services.drain));
        Ok(supervise("http", &self.services.metrics, move || {
            let (router, drain, mut end) = (router.clone(), Arc::clone(&drain), end.clone());
            let socket = watched(&socket);
            async move {
                let end = async move {
                    tokio::select! {
                        // The sender is dropped at the end of the drain.
                        _ = end.changed() => {}
                        () = drain.handed_over() => {}
                    }
                };
                match socket {
                    Ok(socket) => telemetry::serve(socket, router, end).await,
                    Err(error) => {
                        tracing::error!(%error, "cannot duplicate the socket of the admin HTTP server")
                    }
                }
            }
        }))
    }

    /// Starts the background tasks. No session waits for them.
    fn background_tasks(&self, listeners: &Listeners) -> Vec<Supervised> {
        let Services { metrics, drain, control_plane, links, .. } = &*self.services;
        let shutdown = &drain.shutdown;
        let mut tasks = Vec::new();
        let (own, reloads, counted) = (Arc::clone(&self.sources), shutdown.clone(), metrics.clone());
        tasks.push(supervise("reload", metrics, move || {
            Arc::clone(&own).keep_current(reloads.clone(), counted.clone())
        }));
        let own = Arc::clone(control_plane);
        tasks.push(supervise("sweep", metrics, move || Arc::clone(&own).keep_swept()));
        let (own, end) = (Arc::clone(control_plane), shutdown.clone());
        tasks.push(supervise("suspend", metrics, move || Arc::clone(&own).suspend_idle(end.clone())));
        if let (Some(listener), Some(links)) = (&listeners.mgmt, links) {
            let (socket, links) = (Arc::clone(&listener.socket), Arc::clone(links));
            let drain = Arc::clone(drain);
            tasks.push(supervise("mgmt", metrics, move || {
                let (socket, links, drain) = (watched(&socket), Arc::clone(&links), Arc::clone(&drain));
                async move {
                    let Ok(socket) = socket else {
                        return tracing::error!("cannot duplicate the socket of the management server");
                    };
                    tokio::select! {
                        () = mgmt::listen(socket, links, drain.shutdown.clone()) => {}
                        () = drain.handed_over() => {}
                    }
                }
            }));
        }
        tasks
    }

    fn serve_peers(&self, listeners: &Listeners, handover: Option<&Handover>) -> Option<Supervised> {
        let handover = handover?;
        let (services, activities) = (Arc::clone(&self.services), Arc::clone(&self.activities));
        let (socket, host) = (handover.listener(), Arc::new(Host::new(listeners, services, activities)));
        Some(supervise("handover", &self.services.metrics, move || {
            peer_server::answer(Arc::clone(&socket), Arc::clone(&host))
        }))
    }

    /// Accepts the connections of each listener on one of the threads.
    fn accept(&self, listeners: Vec<Listener>) -> Vec<Supervised> {
        let accepting = listeners.into_iter().enumerate().map(|(number, listener)| {
            let (admission, socket) = (Arc::clone(&self.admission), listener.socket);
            let (services, activities) = (Arc::clone(&self.services), Arc::clone(&self.activities));
            let thread = self.threads.for_listener(number);
            supervise_on(thread.runtime(), "accept", &self.services.metrics, move || {
                let (services, activities) = (Arc::clone(&services), Arc::clone(&activities));
                let serve = move |admitted| {
                    serve_connection(admitted, Arc::clone(&services), Arc::clone(&activities))
                };
                Arc::clone(&admission).accept(Arc::clone(&socket), thread.clone(), serve)
            })
        });
        accepting.collect()
    }
}

/// Collects all sources of a reload, and reads them for the first time.
fn sources(
    services: &Services<TcpDial>,
    token: Option<Arc<TokenFile>>,
    limits: Option<LimitsFile>,
) -> Result<Sources, ReloadError> {
    let mut sources: Vec<Arc<dyn Source>> =
        vec![Arc::clone(&services.tls) as _, Arc::clone(&services.control_plane) as _];
    sources.extend(token.map(|token| token as _));
    sources.extend(limits.map(|limits| Arc::new(limits) as _));
    Sources::load(sources, &services.metrics)
}

/// A server that accepts connections.
#[derive(Debug)]
pub struct Running {
    drain: Arc<Drain>,
    listeners: Vec<Supervised>,
    background: Vec<Supervised>,
    http: Supervised,
    http_end: watch::Sender<()>,
    threads: Threads,
    _peers: Option<Supervised>,
    _handover: Option<Handover>,
}

impl Running {
    /// Serves until the end of a drain, or until an immediate end is asked for.
    pub async fn ended(self) -> Drained {
        for listener in self.listeners {
            listener.ended().await;
        }
        drop(self.background);
        let drained = wait_for_sessions(&self.drain).await;
        drop(self.http_end);
        if drained == Drained::Complete {
            tokio::select! {
                () = self.http.ended() => {}
                () = self.drain.shutdown.immediate() => {}
            }
        }
        self.threads.end().await;
        drained
    }
}

/// Waits for the last session. At the drain deadline all sessions end by themselves, within [`CUT_OFF_TIMEOUT`].
async fn wait_for_sessions(drain: &Drain) -> Drained {
    let at_deadline = async {
        drain.deadline().await;
        drain.shutdown.drained(CUT_OFF_TIMEOUT).await
    };
    tokio::select! {
        biased;
        drained = drain.shutdown.drained(Duration::MAX) => drained,
        drained = at_deadline => drained,
    }
}

/// Opens the record of a connection, and returns its session, which does not keep what only the beginning needs.
fn serve_connection(
    admitted: Admitted,
    services: Arc<Services<TcpDial>>,
    activities: Arc<Activities>,
) -> impl Future<Output = ()> + Send {
    let peer = admitted.peer;
    let id = SessionId(ThreadRandom.random());
    let activity = Activity::new(id, Some(peer));
    activity.phases.add(Phase::Accept, admitted.since.elapsed());
    let listed = activities.list(Arc::new(activity));
    let span = tracing::info_span!(
        "session",
        %id, %peer,
        otel.kind = "server",
        endpoint = field::Empty, role = field::Empty, outcome = field::Empty
    );
    let record = SessionRecord::open(Arc::clone(&listed.activity), services.metrics.clone(), span.clone());

    let Admitted { stream, too_many, place, .. } = admitted;
    async move {
        let _place = place;
        let (activity, random) = (&*listed.activity, &mut ThreadRandom);
        let session = Session { services: &*services, activity, span: &span, random };
        let result = session.run(stream, too_many).await;
        record.finish(&session::closed(&result));
    }
}

#[cfg(test)]
mod tests;
