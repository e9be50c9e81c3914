//! Metrics of the caches. Part of [`super::metrics::Metrics`]; names of caches, results and reasons are words of small,
//! fixed sets.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of all caches; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheMetrics {
    lookups: Family<Lookup, Counter>,
    spurious_hits: Family<Name, Counter>,
    entries: Family<Name, Gauge>,
    evictions: Family<Eviction, Counter>,
    connection_failures: Family<Kind, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    cache: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lookup {
    cache: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Eviction {
    cache: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Where the address of a failed connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A cache: the database may have moved.
    Cached,
    /// A lookup of this moment: the control plane named an address that does not work.
    Uncached,
    /// A file, which does not know whether the database is awake: it probably sleeps.
    Unwoken,
}

impl CacheMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let own = self.clone();
        registry.register("holdfast_proxy_cache_lookups", "Lookups in caches, by result", own.lookups);
        registry.register(
            "holdfast_proxy_cache_spurious_hits",
            "Hits that proved to be stale",
            own.spurious_hits,
        );
        registry.register("holdfast_proxy_cache_entries", "Entries in caches", own.entries);
        registry.register(
            "holdfast_proxy_cache_evictions",
            "Entries removed from caches, by reason",
            own.evictions,
        );
        registry.register(
            "holdfast_proxy_compute_connection_failures",
            "Failed connections to computes, by where the address came from",
            own.connection_failures,
        );
    }

    pub(crate) fn looked_up(&self, cache: &'static str, result: &'static str) {
        self.lookups.get_or_create(&Lookup { cache, result }).inc();
    }

    pub(crate) fn was_spurious(&self, cache: &'static str) {
        self.spurious_hits.get_or_create(&Name { cache }).inc();
    }

    pub(crate) fn has_entries(&self, cache: &'static str, count: usize) {
        self.entries.get_or_create(&Name { cache }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn evicted(&self, cache: &'static str, reason: &'static str, count: usize) {
        if count > 0 {
            self.evictions.get_or_create(&Eviction { cache, reason }).inc_by(count as u64);
        }
    }

    pub(crate) fn connection_failed(&self, source: Source) {
        let kind = match source {
            Source::Cached => "cached",
            Source::Uncached => "uncached",
            Source::Unwoken => "unwoken",
        };
        self.connection_failures.get_or_create(&Kind { kind }).inc();
    }
}

#[cfg(test)]
impl CacheMetrics {
    pub(crate) fn lookups(&self, cache: &'static str, result: &'static str) -> u64 {
        self.lookups.get_or_create(&Lookup { cache, result }).get()
    }

    pub(crate) fn spurious_hits(&self, cache: &'static str) -> u64 {
        self.spurious_hits.get_or_create(&Name { cache }).get()
    }

    pub(crate) fn entries(&self, cache: &'static str) -> i64 {
        self.entries.get_or_create(&Name { cache }).get()
    }

    pub(crate) fn evictions(&self, cache: &'static str, reason: &'static str) -> u64 {
        self.evictions.get_or_create(&Eviction { cache, reason }).get()
    }

    pub(crate) fn connection_failures(&self, kind: &'static str) -> u64 {
        self.connection_failures.get_or_create(&Kind { kind }).get()
    }
}
