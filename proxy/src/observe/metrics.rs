//! What an operator can count and time. Imports of this crate only what counts, too; everybody else imports this.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::observe::cache_metrics::CacheMetrics;
use crate::observe::phases::PhaseSeconds;

/// Counters and timers of a proxy; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Connections that were accepted.
    pub(crate) connections: Counter,
    /// Connections that were turned away before their first byte, by the limit that they met.
    pub(crate) refused: Family<How, Counter>,
    /// Times that certificates, endpoints, token and limits were read again, by result.
    pub(crate) reloads: Family<How, Counter>,
    /// When they were last read and all of them good, in seconds since 1970.
    pub(crate) last_reload_success: Gauge<f64, AtomicU64>,
    /// Accepts that failed.
    pub(crate) accept_errors: Counter,
    /// Connections that are open.
    pub(crate) open_connections: Gauge,
    /// Sessions that bytes are passed for.
    pub(crate) sessions: Gauge,
    /// Connections by how they ended.
    pub(crate) ended: Family<How, Counter>,
    /// From the first byte of a client to its first ReadyForQuery.
    pub(crate) login_seconds: Histogram,
    /// From authenticated to the compute's first ReadyForQuery, a wake included.
    pub(crate) connect_seconds: Histogram,
    /// Wakes by how they ended.
    pub(crate) wakes: Family<How, Counter>,
    /// Idle computes that were stopped, by how that ended.
    pub(crate) suspends: Family<How, Counter>,
    /// Time that a wake took.
    pub(crate) wake_seconds: Histogram,
    /// What is kept of the control plane's answers.
    pub(crate) caches: CacheMetrics,
    /// Questions to a control plane that is not in this process.
    pub(crate) control_plane_requests: Family<How, Counter>,
    /// Logins that were made to wait because of failed ones before.
    pub(crate) slowed_logins: Counter,
    /// Bytes of clients.
    pub(crate) bytes_from_clients: Counter,
    /// Bytes to clients.
    pub(crate) bytes_to_clients: Counter,
    /// Cancel requests by what became of them.
    pub(crate) cancels: Family<How, Counter>,
    /// Tasks beside the sessions that failed and began anew.
    pub(crate) side_task_failures: Family<How, Counter>,
    /// Where the time of logins goes.
    pub(crate) phase_seconds: PhaseSeconds,
}

/// How something ended: a word of a small, fixed set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct How {
    pub(crate) how: &'static str,
}

impl Metrics {
    /// Registers everything, under `holdfast_proxy_…`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        // From a millisecond to the half minute that a cold start may take.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let registry = registry.sub_registry_with_prefix("proxy");
        let metrics = Self {
            connections: Counter::default(),
            refused: Family::default(),
            reloads: Family::default(),
            last_reload_success: Gauge::default(),
            accept_errors: Counter::default(),
            open_connections: Gauge::default(),
            sessions: Gauge::default(),
            ended: Family::default(),
            login_seconds: seconds(),
            connect_seconds: seconds(),
            wakes: Family::default(),
            suspends: Family::default(),
            wake_seconds: seconds(),
            caches: CacheMetrics::default(),
            control_plane_requests: Family::default(),
            slowed_logins: Counter::default(),
            bytes_from_clients: Counter::default(),
            bytes_to_clients: Counter::default(),
            cancels: Family::default(),
            side_task_failures: Family::default(),
            phase_seconds: PhaseSeconds::new(registry),
        };
        let own = metrics.clone();
        registry.register("connections", "Connections accepted", own.connections);
        registry.register("connections_refused", "Connections that met a limit", own.refused);
        registry.register("reloads", "Times that the configuration was read again, by result", own.reloads);
        registry.register(
            "last_reload_success_timestamp_seconds",
            "When the configuration was last read and good",
            own.last_reload_success,
        );
        registry.register("accept_errors", "Accepts that failed", own.accept_errors);
        registry.register("open_connections", "Connections that are open", own.open_connections);
        registry.register("sessions", "Sessions that are connected to a compute", own.sessions);
        registry.register("connections_ended", "Connections by how they ended", own.ended);
        registry.register("login_seconds", "From accept to the first ReadyForQuery", own.login_seconds);
        registry.register(
            "compute_connect_seconds",
            "Connecting to a compute, wake included",
            own.connect_seconds,
        );
        registry.register("wakes", "Computes that were started, by result", own.wakes);
        registry.register("suspends", "Idle computes that were stopped, by result", own.suspends);
        registry.register("wake_seconds", "Time that starting a compute took", own.wake_seconds);
        own.caches.register(registry);
        registry.register(
            "control_plane_requests",
            "Questions to a control plane outside",
            own.control_plane_requests,
        );
        registry.register(
            "slowed_logins",
            "Logins that waited because of failed ones before",
            own.slowed_logins,
        );
        registry.register("from_clients_bytes", "Bytes that clients sent", own.bytes_from_clients);
        registry.register("to_clients_bytes", "Bytes that clients got", own.bytes_to_clients);
        registry.register(
            "side_task_failures",
            "Tasks beside the sessions that failed and began anew",
            own.side_task_failures,
        );
        registry.register("cancel_requests", "Cancel requests by what became of them", own.cancels);
        metrics
    }
}
