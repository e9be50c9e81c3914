//! What an operator can count and time. The numbers of single timelines are not here: `http` reads them at each scrape.
//!
//! Imports nothing of this crate; everybody else imports this.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Counters and timers of a safekeeper; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Connections to the PostgreSQL port that are open.
    pub connections: Gauge,
    /// Connections to the PostgreSQL port by what became of them.
    pub accepted: Family<Outcome, Counter>,
    /// WAL received from proposers.
    pub wal_received_bytes: Counter,
    /// WAL sent to readers.
    pub wal_sent_bytes: Counter,
    /// Time that a batch with WAL took: writing, fdatasync, deciding.
    pub batch_seconds: Histogram,
    /// WAL in a batch.
    pub batch_bytes: Histogram,
    /// Appends with WAL in them.
    pub appends: Counter,
    /// Times that WAL of a timeline was made durable: appends by this is what shares a sync.
    pub wal_syncs: Counter,
    /// Connections of proposers that were refused.
    pub refused: Counter<u64, AtomicU64>,
}

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    /// `served`, `handshake_failed`, `too_many`.
    pub outcome: &'static str,
}

impl Metrics {
    /// Registers all of them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            connections: Gauge::default(),
            accepted: Family::default(),
            wal_received_bytes: Counter::default(),
            wal_sent_bytes: Counter::default(),
            // 100 µs to 13 s: a good disk flushes in less than a millisecond, a dying one takes seconds.
            batch_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 18)),
            // 1 KiB to 16 MiB.
            batch_bytes: Histogram::new(exponential_buckets(1024.0, 2.0, 15)),
            appends: Counter::default(),
            wal_syncs: Counter::default(),
            refused: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("safekeeper");
        registry.register(
            "connections",
            "Open connections to the PostgreSQL port",
            metrics.connections.clone(),
        );
        registry.register(
            "accepted_connections",
            "Connections by what became of them",
            metrics.accepted.clone(),
        );
        registry.register(
            "wal_received_bytes",
            "WAL received from proposers",
            metrics.wal_received_bytes.clone(),
        );
        registry.register("wal_sent_bytes", "WAL sent to readers", metrics.wal_sent_bytes.clone());
        registry.register(
            "batch_seconds",
            "Time to write, flush and decide a batch with WAL",
            metrics.batch_seconds.clone(),
        );
        registry.register("batch_bytes", "WAL in a batch", metrics.batch_bytes.clone());
        registry.register("appends", "Appends with WAL in them", metrics.appends.clone());
        registry.register("wal_syncs", "Times that WAL was made durable", metrics.wal_syncs.clone());
        registry.register("refused", "Connections of proposers that were refused", metrics.refused.clone());
        metrics
    }

    /// Counts a connection.
    pub(crate) fn count_connection(&self, outcome: &'static str) {
        self.accepted.get_or_create(&Outcome { outcome }).inc();
    }
}
