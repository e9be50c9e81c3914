//! Server: opens the timelines, accepts connections until shutdown, and ends when everything received is on disk.
//!
//! Listeners and the shutdown are arguments, so that tests take free ports and no signals. Called by `main`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use postgres_backend::{HandshakeConfig, TlsMode};
use socket2::{SockRef, TcpKeepalive};
use telemetry::{Admin, LogLevel};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tracing::{Instrument, field};
use utils::accept_loop::accept_loop;
use utils::shutdown::Drained;
use utils::{DescriptorBudget, Handshakes, Shutdown};

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::disk::{DiskLevel, DiskState, DiskWatch};
use crate::http::{self, HttpState};
use crate::metrics::Metrics;
use crate::session::{self, SessionContext};
use crate::shard::ShardPool;
use crate::socket::Socket;
use crate::timeline::Timelines;
use crate::timeline_metrics::TimelineCollector;

/// A peer that leaves bytes or keepalive probes unacknowledged for this long counts as gone. Without the limit a connection
/// could wait for ever to send its closing message.
pub(crate) const PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest time that connections may take to end.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The two ports, open.
#[derive(Debug)]
pub struct Listeners {
    /// The PostgreSQL port, for proposers and readers.
    pub pg: TcpListener,
    /// The admin HTTP port.
    pub http: TcpListener,
}

impl Listeners {
    /// Opens the ports of the configuration.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let bind = async |flag: &str, address: &str| {
            let listener = TcpListener::bind(address).await;
            listener.with_context(|| format!("{flag} {address}: cannot listen there"))
        };
        Ok(Self {
            pg: bind("--listen-pg", &config.listen_pg).await?,
            http: bind("--listen-http", &config.listen_http).await?,
        })
    }
}

/// Serves until `shutdown` drains, and returns when everything received is on disk; at once when `shutdown` is immediate.
pub async fn serve(
    config: &Config,
    data_dir: DataDir,
    listeners: Listeners,
    budget: DescriptorBudget,
    log_level: LogLevel,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut registry = telemetry::Metrics::new("safekeeper", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(registry.registry());
    let handshake = HandshakeConfig::new(config.tls.clone().map_or(TlsMode::Disabled, TlsMode::Required));
    let pool =
        ShardPool::start(&metrics, &data_dir.lock(), config.retention).context("cannot start the shards")?;

    let shard_ended = pool.ended_early();
    let path = data_dir.path().display().to_string();
    let opening = spawn_blocking(move || Timelines::open(data_dir, pool));
    let timelines = tokio::select! {
        opened = opening => opened?.with_context(|| format!("data directory {path}: cannot read it"))?,
        // A recovery that is interrupted begins anew at the next start.
        () = shutdown.immediate() => return Ok(()),
    };
    let disk = Arc::new(DiskState::default());
    registry.registry().register_collector(Box::new(TimelineCollector {
        timelines: Arc::clone(&timelines),
        disk: Arc::clone(&disk),
    }));

    let handshakes = Arc::new(Handshakes::new(&budget));
    let (end_http, http_ended) = oneshot::channel::<()>();
    let state = HttpState {
        node: config.id,
        pg_advertise: config.pg_advertise.clone(),
        timelines: Arc::clone(&timelines),
        handshakes: Arc::clone(&handshakes),
        budget,
        slot_keep_bytes_max: config.retention.slot_keep_bytes_max,
        disk: Arc::clone(&disk),
    };
    let ready = ready_check(&timelines, &disk, &shutdown);
    let admin = Admin { metrics: Arc::new(registry), log_level, ready };
    let router = http::require_token(admin.router().merge(http::router(state)), config.token.clone());
    let http = tokio::spawn(telemetry::serve(listeners.http, router, async {
        let _ = http_ended.await;
    }));

    let context = Arc::new(SessionContext {
        handshake,
        token: config.token.clone(),
        timelines: Arc::clone(&timelines),
        metrics,
        shutdown: shutdown.clone(),
        handshakes,
        connections_max: budget.connections,
        retention: config.retention,
    });

    let retrying = tokio::spawn({
        let (timelines, draining) = (Arc::clone(&timelines), shutdown.draining());
        async move { timelines.retry_opens(draining).await }
    });

    let watch = DiskWatch { state: disk, timelines: Arc::clone(&timelines), limits: config.disk_limits };
    let watching = tokio::spawn(watch.run(shutdown.draining()));

    tracing::info!(id = config.id.0, timelines = timelines.all().len(), "serving");
    tokio::select! {
        () = accept(listeners.pg, &context) => {}
        // Only a new start recovers the timelines of a shard or a worker that panicked. What is acknowledged is on disk.
        () = shard_ended => anyhow::bail!("a shard or one of its workers has panicked: the safekeeper ends, and a new start recovers the timelines"),
    }

    match shutdown.drained(DRAIN_TIMEOUT).await {
        Drained::Complete => {}
        Drained::Interrupted { .. } => return Ok(()),
        Drained::TimedOut { tasks_left } => {
            tracing::warn!(tasks_left, "connections did not end in time, shutting down without them")
        }
    }

    let stopping = async {
        retrying.await?;
        watching.await?;
        spawn_blocking(move || timelines.stop()).await
    };
    tokio::select! {
        stopped = stopping => stopped?,
        () = shutdown.immediate() => return Ok(()),
    }

    // Last, so that the operator can watch the shutdown.
    drop(end_http);
    tokio::select! {
        ended = http => ended?,
        () = shutdown.immediate() => {}
    }
    tracing::info!("everything received is on disk, safekeeper ended");
    Ok(())
}

fn ready_check(
    timelines: &Arc<Timelines>,
    disk: &Arc<DiskState>,
    shutdown: &Shutdown,
) -> telemetry::admin::ReadyCheck {
    let (timelines, disk, shutdown) = (Arc::clone(timelines), Arc::clone(disk), shutdown.clone());
    Arc::new(move || {
        if shutdown.is_draining() {
            return Err("safekeeper is shutting down".to_owned());
        }
        if !timelines.is_alive() {
            return Err("a shard has ended, restart the safekeeper".to_owned());
        }
        if disk.level() == DiskLevel::Stop {
            let (_, free) = disk.total_and_free();
            return Err(format!(
                "disk is full: {free} bytes are free, see \"A disk is full\" in docs/operations.md"
            ));
        }
        // Who restarts one safekeeper after the other waits for this.
        match timelines.left_to_open() {
            0 => Ok(()),
            left => {
                Err(format!("{left} timelines are not open yet; each is served when somebody asks for it"))
            }
        }
    })
}

/// Accepts connections until the drain begins.
async fn accept(listener: TcpListener, context: &Arc<SessionContext>) {
    let on_error = |error| {
        context.metrics.accept_errors.inc();
        tracing::warn!(%error, "cannot accept a connection");
    };
    accept_loop(
        &listener,
        context.shutdown.draining(),
        |stream, peer| admit(stream, peer, context),
        on_error,
    )
    .await;
}

/// Starts the session of a connection, or closes it when there are too many.
fn admit(stream: TcpStream, peer: SocketAddr, context: &Arc<SessionContext>) {
    if context.shutdown.tasks() >= context.connections_max {
        context.metrics.count_connection("too_many");
        return;
    }
    let handshake = match context.handshakes.begin(peer.ip()) {
        Ok(handshake) => handshake,
        Err(refused) => {
            context.metrics.count_connection(refused.label());
            return;
        }
    };
    if let Err(error) = set_socket_options(&stream) {
        tracing::debug!(%error, "socket options cannot be set, connection closed");
        return;
    }

    let context = Arc::clone(context);
    let shutdown = context.shutdown.clone();
    let span = tracing::info_span!("connection", %peer, timeline = field::Empty);
    let served = async move {
        let connections = context.metrics.connections.clone();
        connections.inc();
        tokio::select! {
            () = session::run(Socket::new(stream), handshake, Arc::clone(&context)) => {}
            // An immediate shutdown waits for nothing: what is acknowledged is on disk.
            () = context.shutdown.immediate() => {}
        }
        connections.dec();
    };
    shutdown.spawn(served.instrument(span));
}

fn set_socket_options(stream: &TcpStream) -> io::Result<()> {
    // Small messages wait for a reply: Nagle's algorithm would delay them.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(PEER_TIMEOUT))?;
    let probes = TcpKeepalive::new().with_time(PEER_TIMEOUT / 2).with_interval(PEER_TIMEOUT / 6);
    socket.set_tcp_keepalive(&probes)
}
