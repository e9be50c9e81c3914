//! Metrics: counters, gauges and timers of a proxy. Imports only other metrics of this crate.

use std::ops::Deref;
use std::sync::Arc;
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
pub(crate) struct Metrics(Arc<Families>);

impl Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0
    }
}

/// All counters and timers.
#[derive(Clone, Debug)]
pub(crate) struct Families {
    /// Connections that were accepted.
    pub(crate) connections: Counter,
    /// Connections refused before their first byte, by reason.
    pub(crate) refused: Family<ByReason, Counter>,
    /// Reloads of certificates, endpoints, token and limits, by result.
    pub(crate) reloads: Family<ByResult, Counter>,
    /// Time of the last successful reload, in seconds since 1970.
    pub(crate) last_reload_success: Gauge<f64, AtomicU64>,
    /// Accepts that failed.
    pub(crate) accept_errors: Counter,
    /// Connections that are open.
    pub(crate) open_connections: Gauge,
    /// Sessions that are connected to a compute.
    pub(crate) sessions: Gauge,
    /// Closed connections, by reason.
    pub(crate) closed: Family<ByReason, Counter>,
    /// From the first byte of a client to its first ReadyForQuery.
    pub(crate) login_seconds: Histogram,
    /// From authenticated to the compute's first ReadyForQuery, a wake included.
    pub(crate) connect_seconds: Histogram,
    /// Wakes of computes, by result.
    pub(crate) wakes: Family<ByResult, Counter>,
    /// Suspensions of idle computes, by result.
    pub(crate) suspends: Family<ByResult, Counter>,
    /// Time that a wake took.
    pub(crate) wake_seconds: Histogram,
    /// Caches of the control plane's answers.
    pub(crate) caches: CacheMetrics,
    /// Requests to a control plane outside of this process, by call.
    pub(crate) control_plane_requests: Family<ByCall, Counter>,
    /// Logins that were delayed because of failed ones before.
    pub(crate) slowed_logins: Counter,
    /// Cancel requests, by result.
    pub(crate) cancels: Family<ByResult, Counter>,
    /// Background tasks that failed and were restarted, by task.
    pub(crate) task_restarts: Family<ByTask, Counter>,
    /// Time of logins, by phase.
    pub(crate) phase_seconds: PhaseSeconds,
}

/// Counts a session for as long as it lives.
#[derive(Debug)]
pub(crate) struct CountedSession(Gauge);

impl Drop for CountedSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How an attempt ended: a word of a small, fixed set, as in all labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByResult {
    pub(crate) result: &'static str,
}

/// Why a connection was closed or refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByReason {
    pub(crate) reason: &'static str,
}

/// Which call was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByCall {
    pub(crate) call: &'static str,
}

/// Which task it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByTask {
    pub(crate) task: &'static str,
}

impl Metrics {
    /// Counts a session until the value that is returned is dropped.
    pub(crate) fn count_session(&self) -> CountedSession {
        self.sessions.inc();
        CountedSession(self.sessions.clone())
    }

    /// Registers everything, under `holdfast_proxy_…`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        // From a millisecond to the half minute that a cold start may take.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let metrics = Families {
            connections: Counter::default(),
            refused: Family::default(),
            reloads: Family::default(),
            last_reload_success: Gauge::default(),
            accept_errors: Counter::default(),
            open_connections: Gauge::default(),
            sessions: Gauge::default(),
            closed: Family::default(),
            login_seconds: seconds(),
            connect_seconds: seconds(),
            wakes: Family::default(),
            suspends: Family::default(),
            wake_seconds: seconds(),
            caches: CacheMetrics::default(),
            control_plane_requests: Family::default(),
            slowed_logins: Counter::default(),
            cancels: Family::default(),
            task_restarts: Family::default(),
            phase_seconds: PhaseSeconds::new(registry),
        };
        let own = metrics.clone();
        registry.register("holdfast_proxy_connections", "Connections accepted", own.connections);
        registry.register(
            "holdfast_proxy_connections_refused",
            "Connections refused before their first byte, by reason",
            own.refused,
        );
        registry.register("holdfast_proxy_reloads", "Reloads of the configuration, by result", own.reloads);
        registry.register(
            "holdfast_proxy_last_reload_success_timestamp_seconds",
            "Time of the last successful reload, in seconds since 1970",
            own.last_reload_success,
        );
        registry.register("holdfast_proxy_accept_errors", "Accepts that failed", own.accept_errors);
        registry.register(
            "holdfast_proxy_open_connections",
            "Connections that are open",
            own.open_connections,
        );
        registry.register(
            "holdfast_proxy_sessions",
            "Sessions that are connected to a compute",
            own.sessions,
        );
        registry.register("holdfast_proxy_connections_closed", "Connections closed, by reason", own.closed);
        registry.register(
            "holdfast_proxy_login_seconds",
            "Time from the first byte of a client to its first ReadyForQuery",
            own.login_seconds,
        );
        registry.register(
            "holdfast_proxy_compute_connect_seconds",
            "Time to connect to a compute, a wake included",
            own.connect_seconds,
        );
        registry.register("holdfast_proxy_wakes", "Wakes of computes, by result", own.wakes);
        registry.register("holdfast_proxy_suspends", "Suspensions of idle computes, by result", own.suspends);
        registry.register("holdfast_proxy_wake_seconds", "Time that a wake took", own.wake_seconds);
        own.caches.register(registry);
        registry.register(
            "holdfast_proxy_control_plane_requests",
            "Requests to a control plane outside this process, by call",
            own.control_plane_requests,
        );
        registry.register(
            "holdfast_proxy_slowed_logins",
            "Logins that were delayed because of failed ones before",
            own.slowed_logins,
        );
        registry.register(
            "holdfast_proxy_task_restarts",
            "Background tasks that failed and were restarted, by task",
            own.task_restarts,
        );
        registry.register("holdfast_proxy_cancel_requests", "Cancel requests, by result", own.cancels);
        Self(Arc::new(metrics))
    }
}
