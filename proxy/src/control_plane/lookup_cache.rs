//! [`LookupCache`]: lookup cache with positive and negative entries. A negative entry never evicts a positive one: a
//! client that makes names up does not push the real ones out.
//!
//! * Of two answers the one whose lookup began later stays, whichever comes first ([`LookupStart`]).
//! * An answer whose lookup began before an invalidation is not kept ([`LookupOrder`]).
//!
//! It asks no provider; [`super::address_cache`], [`super::access_cache`] and [`super::endpoint_rules`] do.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt;
use tokio::time::Instant;
use utils::TimedLru;
use utils::timed_lru::{Generation, Lookup, Ttl};

use super::lookup_order::{LookupOrder, LookupStart};
use super::provider::Project;
use crate::config::CacheOptions;
use crate::observe::cache_metrics::CacheMetrics;
use crate::route::EndpointName;

/// Largest part of its time to live by which an entry expires early.
const TTL_SPREAD: f64 = 0.1;

/// Key of an entry, with the endpoint that it belongs to.
pub(super) trait Key: Clone + Eq + Hash {
    fn endpoint(&self) -> &EndpointName;
}

impl Key for EndpointName {
    fn endpoint(&self) -> &EndpointName {
        self
    }
}

impl<T: Clone + Eq + Hash> Key for (EndpointName, T) {
    fn endpoint(&self) -> &EndpointName {
        &self.0
    }
}

/// Positive entries `V` and negative entries `N`.
#[derive(Debug)]
pub(super) struct LookupCache<K, V, N> {
    pub(super) name: &'static str,
    ttl: Ttl,
    order: Arc<LookupOrder>,
    entries: Mutex<Entries<K, V, N>>,
    metrics: CacheMetrics,
}

#[derive(Debug)]
struct Entries<K, V, N> {
    positive: TimedLru<K, Entry<V>>,
    negative: TimedLru<K, Entry<N>>,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    project: Option<Project>,
    start: LookupStart,
}

/// Result of a lookup in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CacheLookup<V, N> {
    Hit(Hit<V>),
    Negative(Hit<N>),
    Expired,
    Miss,
}

/// Copy of an entry that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit<T> {
    pub(super) value: T,
    pub(super) generation: Generation,
    pub(super) start: LookupStart,
    pub(super) age: Duration,
}

impl<V, N> CacheLookup<V, N> {
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Hit(_) => "hit",
            Self::Negative(_) => "negative",
            Self::Expired => "expired",
            Self::Miss => "miss",
        }
    }

    /// Generation of a positive entry.
    pub(super) fn generation(&self) -> Option<Generation> {
        match self {
            Self::Hit(hit) => Some(hit.generation),
            Self::Negative(_) | Self::Expired | Self::Miss => None,
        }
    }

    pub(super) const fn is_known(&self) -> bool {
        matches!(self, Self::Hit(_) | Self::Negative(_))
    }
}

impl<K: Key, V: Clone, N: Clone> LookupCache<K, V, N> {
    pub(super) fn new(
        name: &'static str,
        options: &CacheOptions,
        order: Arc<LookupOrder>,
        metrics: CacheMetrics,
    ) -> Self {
        let entries =
            Entries { positive: TimedLru::new(options.size), negative: TimedLru::new(options.size) };
        metrics.has_entries(name, 0);
        Self { name, ttl: options.ttl, order, entries: Mutex::new(entries), metrics }
    }

    /// Finds an entry. Does not count as a lookup: see [`Self::count_lookup`].
    pub(super) fn find(&self, key: &K) -> CacheLookup<V, N> {
        let (mut entries, now) = (self.entries.lock(), Instant::now().into_std());
        let expired = match entries.positive.get(key, now) {
            Lookup::Hit { value: entry, generation, age } => {
                return CacheLookup::Hit(hit(entry, generation, age));
            }
            Lookup::Expired => 1,
            Lookup::Miss => 0,
        };

        let expired = match entries.negative.get(key, now) {
            Lookup::Hit { value: entry, generation, age } => {
                return CacheLookup::Negative(hit(entry, generation, age));
            }
            Lookup::Expired => expired + 1,
            Lookup::Miss => expired,
        };

        if expired == 0 {
            return CacheLookup::Miss;
        }
        self.count_gone(&entries, "expired", expired);
        CacheLookup::Expired
    }

    /// Project of the endpoint or role, when a positive entry names it.
    pub(super) fn project(&self, key: &K) -> Option<Project> {
        let (mut entries, now) = (self.entries.lock(), Instant::now().into_std());
        entries.positive.get(key, now).value()?.project.clone()
    }

    /// Counts a lookup, once its result is known.
    pub(super) fn count_lookup(&self, result: &'static str) {
        self.metrics.looked_up(self.name, result);
    }

    /// Counts a hit that was outdated.
    pub(super) fn count_spurious_hit(&self) {
        self.metrics.was_spurious(self.name);
    }

    /// Keeps an answer, unless a newer one is there. `None` when it is not kept.
    pub(super) fn insert(
        &self,
        key: K,
        value: V,
        project: Option<Project>,
        start: LookupStart,
    ) -> Option<Generation> {
        let (mut entries, now) = (self.entries.lock(), Instant::now().into_std());
        if self.is_superseded(&mut entries, &key, start, now) {
            return None;
        }
        entries.negative.remove(&key);
        let ttl = Ttl { absolute: spread(self.ttl.absolute), ..self.ttl };
        let inserted = entries.positive.insert(key, Entry { value, project, start }, ttl, now);
        self.count_gone(&entries, "replaced", inserted.replaced.is_some().into());
        self.count_gone(&entries, "size", inserted.evicted.is_some().into());
        Some(inserted.generation)
    }

    /// Keeps a negative answer, unless a newer one is there.
    pub(super) fn insert_negative(
        &self,
        key: K,
        value: N,
        ttl: Duration,
        project: Option<Project>,
        start: LookupStart,
    ) {
        let (mut entries, now) = (self.entries.lock(), Instant::now().into_std());
        if self.is_superseded(&mut entries, &key, start, now) {
            return;
        }
        let replaced = entries.positive.remove(&key).is_some();
        let ttl = Ttl::absolute(spread(ttl));
        let inserted = entries.negative.insert(key, Entry { value, project, start }, ttl, now);
        self.count_gone(&entries, "replaced", (replaced || inserted.replaced.is_some()).into());
        self.count_gone(&entries, "size", inserted.evicted.is_some().into());
    }

    /// Called under the lock, so that a later invalidation finds the entry.
    fn is_superseded(
        &self,
        entries: &mut Entries<K, V, N>,
        key: &K,
        start: LookupStart,
        now: std::time::Instant,
    ) -> bool {
        let positive = self.start_of(entries.positive.get(key, now));
        let newest = positive.max(self.start_of(entries.negative.get(key, now)));
        newest > Some(start) || self.order.is_invalidated(key.endpoint(), start)
    }

    fn start_of<T>(&self, lookup: Lookup<'_, Entry<T>>) -> Option<LookupStart> {
        match lookup {
            Lookup::Hit { value, .. } => Some(value.start),
            Lookup::Miss => None,
            Lookup::Expired => {
                self.metrics.evicted(self.name, "expired", 1);
                None
            }
        }
    }

    /// Removes an entry that was found to be wrong, and no newer one.
    pub(super) fn drop_stale(&self, key: &K, generation: Generation) {
        let mut entries = self.entries.lock();
        let gone = entries.positive.invalidate(key, generation).is_some();
        self.count_gone(&entries, "stale", gone.into());
    }

    /// Removes invalidated entries. An entry without a known project may belong to any project.
    pub(super) fn invalidate(&self, matches: impl Fn(&K, Option<&Project>) -> bool) -> usize {
        let mut entries = self.entries.lock();
        let gone = entries.positive.retain(|key, entry| !matches(key, entry.project.as_ref()))
            + entries.negative.retain(|key, entry| !matches(key, entry.project.as_ref()));
        self.count_gone(&entries, "invalidated", gone);
        gone
    }

    /// Removes expired entries. Visits all entries.
    pub(super) fn sweep(&self) {
        let (mut entries, now) = (self.entries.lock(), Instant::now().into_std());
        let gone = entries.positive.sweep(now) + entries.negative.sweep(now);
        self.count_gone(&entries, "expired", gone);
    }

    /// All positive entries, in no order.
    pub(super) fn map<T>(&self, see: impl Fn(&K, &V) -> T) -> Vec<T> {
        let (mut entries, now) = (self.entries.lock(), Instant::now().into_std());
        let gone = entries.positive.sweep(now);
        self.count_gone(&entries, "expired", gone);
        let mut seen = Vec::new();
        entries.positive.retain(|key, entry| {
            seen.push(see(key, &entry.value));
            true
        });
        seen
    }

    fn count_gone(&self, entries: &Entries<K, V, N>, cause: &'static str, count: usize) {
        self.metrics.evicted(self.name, cause, count);
        self.metrics.has_entries(self.name, entries.positive.len() + entries.negative.len());
    }
}

/// Shortens `ttl` at random: entries that were made together, for example by all proxies after a restart, must not
/// expire together for ever. Never longer than `ttl`, which promises how old an answer can be.
fn spread(ttl: Duration) -> Duration {
    // `Duration::MAX` stands for no limit.
    if ttl == Duration::MAX {
        return ttl;
    }
    ttl - ttl.mul_f64(rand::rng().random_range(0.0..TTL_SPREAD))
}

fn hit<T: Clone>(entry: &Entry<T>, generation: Generation, age: Duration) -> Hit<T> {
    Hit { value: entry.value.clone(), generation, start: entry.start, age }
}

#[cfg(test)]
mod tests;
