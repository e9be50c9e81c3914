//! Counters and timers of the safekeeper as a whole. `timeline_metrics` has those of its timelines.
//!
//! Imports nothing of this crate. `docs/metrics.md` lists all metrics. Batches and syncs are observed in
//! `shard/owned_timeline.rs`; the fdatasync itself is `Writer::flush` in `libs/wal_store/src/writer/mod.rs`.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Counters and timers of a safekeeper. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Open connections to the PostgreSQL port.
    pub connections: Gauge,
    /// Connections to the PostgreSQL port, by result.
    connections_accepted: Family<ConnectionLabels, Counter>,
    /// Failed accepts.
    pub accept_errors: Counter,
    /// WAL received from proposers.
    pub wal_received_bytes: Counter,
    /// WAL sent to readers.
    pub wal_sent_bytes: Counter,
    /// Time that a batch with WAL took: writing, fdatasync, deciding.
    pub batch_seconds: Histogram,
    /// Time that making a batch durable took: fdatasync, and the decision behind it.
    pub fsync_seconds: Histogram,
    /// WAL in a batch.
    pub batch_bytes: Histogram,
    /// Appends with WAL.
    pub appends: Counter,
    /// Syncs of a timeline's WAL. Appends divided by syncs tell how many appends share a sync.
    pub wal_syncs: Counter,
    /// Connections of proposers that were refused, by reason.
    proposers_refused: Family<RefusalLabels, Counter<u64, AtomicU64>>,
    /// Times that WAL was removed which a reader or a member still wanted, by reason.
    retention_given_up: Family<GivenUpLabels, Counter>,
}

/// Labels of `connections_accepted`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    /// `served`, `handshake_failed`, `too_many`, `too_many_handshakes`, `too_many_handshakes_from_address`.
    result: &'static str,
}

/// Labels of `proposers_refused`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    /// `protocol`, `disk`, `corrupt`.
    reason: &'static str,
}

/// Labels of `retention_given_up`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GivenUpLabels {
    /// `reader`, `member`.
    reason: &'static str,
}

impl Metrics {
    /// Registers all of them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            connections: Gauge::default(),
            connections_accepted: Family::default(),
            accept_errors: Counter::default(),
            wal_received_bytes: Counter::default(),
            wal_sent_bytes: Counter::default(),
            // 100 µs to 13 s: a good disk flushes in less than a millisecond, a dying one takes seconds.
            batch_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 18)),
            fsync_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 18)),
            // 1 KiB to 16 MiB.
            batch_bytes: Histogram::new(exponential_buckets(1024.0, 2.0, 15)),
            appends: Counter::default(),
            wal_syncs: Counter::default(),
            proposers_refused: Family::default(),
            retention_given_up: Family::default(),
        };

        registry.register(
            "holdfast_safekeeper_connections",
            "Open connections to the PostgreSQL port",
            metrics.connections.clone(),
        );
        registry.register(
            "holdfast_safekeeper_connections_accepted",
            "Connections to the PostgreSQL port by result: served, handshake_failed, too_many, too_many_handshakes, \
             too_many_handshakes_from_address",
            metrics.connections_accepted.clone(),
        );
        registry.register(
            "holdfast_safekeeper_accept_errors",
            "Accepts that failed, for example without free file descriptors",
            metrics.accept_errors.clone(),
        );
        registry.register(
            "holdfast_safekeeper_wal_received_bytes",
            "WAL received from proposers",
            metrics.wal_received_bytes.clone(),
        );
        registry.register(
            "holdfast_safekeeper_wal_sent_bytes",
            "WAL sent to readers",
            metrics.wal_sent_bytes.clone(),
        );
        registry.register(
            "holdfast_safekeeper_batch_seconds",
            "Time to write, sync and decide a batch with WAL",
            metrics.batch_seconds.clone(),
        );
        registry.register(
            "holdfast_safekeeper_fsync_seconds",
            "Time to make a batch durable",
            metrics.fsync_seconds.clone(),
        );
        registry.register("holdfast_safekeeper_batch_bytes", "WAL in a batch", metrics.batch_bytes.clone());
        registry.register("holdfast_safekeeper_appends", "Append requests with WAL", metrics.appends.clone());
        registry.register(
            "holdfast_safekeeper_wal_syncs",
            "Syncs of a timeline's WAL; appends divided by syncs tell how many appends share a sync",
            metrics.wal_syncs.clone(),
        );
        registry.register(
            "holdfast_safekeeper_proposers_refused",
            "Connections of proposers that were refused, by reason: protocol, disk, corrupt",
            metrics.proposers_refused.clone(),
        );
        registry.register(
            "holdfast_safekeeper_retention_given_up",
            "Times that WAL was removed which was still wanted, by reason: reader, member, slot",
            metrics.retention_given_up.clone(),
        );
        metrics
    }

    /// Counts a connection to the PostgreSQL port by its result.
    pub(crate) fn count_connection(&self, result: &'static str) {
        self.connections_accepted.get_or_create(&ConnectionLabels { result }).inc();
    }

    /// Counts WAL that was given up: `reader` or `member`.
    pub(crate) fn count_given_up(&self, reason: &'static str) {
        self.retention_given_up.get_or_create(&GivenUpLabels { reason }).inc();
    }

    /// Counts a refused proposer: `protocol`, `disk` or `corrupt`.
    pub(crate) fn count_refused(&self, reason: &'static str) {
        self.proposers_refused.get_or_create(&RefusalLabels { reason }).inc();
    }
}
