//! [`Cache`]: a [`TimedLru`] of what there is, one of what there is not, and the order in which a provider was asked.
//!
//! * What there is not has room of its own: whoever makes names up does not push the real ones out.
//! * Of two answers the one whose question was asked later stays, whichever comes first ([`Question`]).
//! * What is invalidated stays so: an answer to a question that was asked before is not kept ([`Questions`]).
//!
//! It asks nobody; [`super::Cached`] does.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;
use utils::TimedLru;
use utils::timed_lru::{Generation, Lookup, Ttl};

use super::provider::Project;
use crate::config::CacheOptions;
use crate::observe::cache_metrics::CacheMetrics;
use crate::route::EndpointName;

/// Endpoints share this many counters of invalidations. One that shares it with another costs a question more.
const SHARDS: usize = 256;

/// The part of its time to live by which an entry may go sooner.
const TTL_SPREAD: f64 = 0.1;

/// When a question was asked, compared with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Question(u64);

/// The order of questions and invalidations.
#[derive(Debug)]
pub(super) struct Questions {
    asked: AtomicU64,
    /// By endpoint: questions up to this one may have answers that are not true any more.
    outdated: [AtomicU64; SHARDS],
}

impl Default for Questions {
    fn default() -> Self {
        Self { asked: AtomicU64::new(0), outdated: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Questions {
    /// One more.
    pub(super) fn ask(&self) -> Question {
        Question(self.asked.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// The last invalidation. Whoever comes after it does not wait for a question from before.
    pub(super) fn epoch(&self, endpoint: &EndpointName) -> u64 {
        self.shard(endpoint).load(Ordering::SeqCst)
    }

    fn is_outdated(&self, endpoint: &EndpointName, question: Question) -> bool {
        question.0 <= self.epoch(endpoint)
    }

    /// What is being answered at this moment may not be true any more; everywhere when it is not said where.
    pub(super) fn outdate(&self, endpoint: Option<&EndpointName>) {
        let Question(now) = self.ask();
        match endpoint {
            Some(endpoint) => self.shard(endpoint).store(now, Ordering::SeqCst),
            None => self.outdated.iter().for_each(|shard| shard.store(now, Ordering::SeqCst)),
        }
    }

    fn shard(&self, endpoint: &EndpointName) -> &AtomicU64 {
        let mut hasher = DefaultHasher::new();
        endpoint.hash(&mut hasher);
        let shards = SHARDS as u64;
        // Less than the number of shards, so it fits.
        &self.outdated[usize::try_from(hasher.finish() % shards).unwrap_or_default()]
    }
}

/// Where an entry belongs to.
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

/// What there is, `V`, and what there is not, `N`.
#[derive(Debug)]
pub(super) struct Cache<K, V, N> {
    pub(super) name: &'static str,
    ttl: Ttl,
    questions: Arc<Questions>,
    kept: Mutex<Kept<K, V, N>>,
    metrics: CacheMetrics,
}

#[derive(Debug)]
struct Kept<K, V, N> {
    there: TimedLru<K, Entry<V>>,
    not_there: TimedLru<K, Entry<N>>,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    project: Option<Project>,
    question: Question,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found<V, N> {
    Hit(Hit<V>),
    Negative(Hit<N>),
    Expired,
    Miss,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit<T> {
    pub(super) value: T,
    pub(super) generation: Generation,
    pub(super) question: Question,
    pub(super) age: Duration,
}

impl<V, N> Found<V, N> {
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Hit(_) => "hit",
            Self::Negative(_) => "negative",
            Self::Expired => "expired",
            Self::Miss => "miss",
        }
    }

    /// Of what is there.
    pub(super) fn generation(&self) -> Option<Generation> {
        match self {
            Self::Hit(hit) => Some(hit.generation),
            Self::Negative(_) | Self::Expired | Self::Miss => None,
        }
    }

    pub(super) const fn is_there(&self) -> bool {
        matches!(self, Self::Hit(_) | Self::Negative(_))
    }
}

impl<K: Key, V: Clone, N: Clone> Cache<K, V, N> {
    pub(super) fn new(
        name: &'static str,
        options: &CacheOptions,
        questions: Arc<Questions>,
        metrics: CacheMetrics,
    ) -> Self {
        let kept = Kept { there: TimedLru::new(options.size), not_there: TimedLru::new(options.size) };
        metrics.has_entries(name, 0);
        Self { name, ttl: options.ttl, questions, kept: Mutex::new(kept), metrics }
    }

    /// Does not count as a lookup: see [`Self::looked_up`].
    pub(super) fn find(&self, key: &K) -> Found<V, N> {
        let (mut kept, now) = (self.lock(), Instant::now().into_std());
        let expired = match kept.there.get(key, now) {
            Lookup::Hit { value: entry, generation, age } => return Found::Hit(hit(entry, generation, age)),
            Lookup::Expired => 1,
            Lookup::Miss => 0,
        };
        let expired = match kept.not_there.get(key, now) {
            Lookup::Hit { value: entry, generation, age } => {
                return Found::Negative(hit(entry, generation, age));
            }
            Lookup::Expired => expired + 1,
            Lookup::Miss => expired,
        };
        if expired == 0 {
            return Found::Miss;
        }
        self.has_gone(&kept, "expired", expired);
        Found::Expired
    }

    /// To which project the endpoint or role belongs, when it is there and that was told.
    pub(super) fn project(&self, key: &K) -> Option<Project> {
        let (mut kept, now) = (self.lock(), Instant::now().into_std());
        kept.there.get(key, now).value()?.project.clone()
    }

    /// Counts a lookup, once it is known what came of it.
    pub(super) fn looked_up(&self, result: &'static str) {
        self.metrics.looked_up(self.name, result);
    }

    /// A hit was wrong.
    pub(super) fn was_spurious(&self) {
        self.metrics.was_spurious(self.name);
    }

    /// Keeps an answer, unless a newer one is there. `None` when it is not kept.
    pub(super) fn keep(
        &self,
        key: K,
        value: V,
        project: Option<Project>,
        question: Question,
    ) -> Option<Generation> {
        let (mut kept, now) = (self.lock(), Instant::now().into_std());
        if self.is_superseded(&mut kept, &key, question, now) {
            return None;
        }
        kept.not_there.remove(&key);
        let ttl = Ttl { absolute: not_all_at_once(self.ttl.absolute), ..self.ttl };
        let inserted = kept.there.insert(key, Entry { value, project, question }, ttl, now);
        self.has_gone(&kept, "replaced", inserted.replaced.is_some().into());
        self.has_gone(&kept, "size", inserted.evicted.is_some().into());
        Some(inserted.generation)
    }

    /// Keeps that there is no such thing, unless a newer answer says otherwise.
    pub(super) fn keep_negative(
        &self,
        key: K,
        value: N,
        ttl: Duration,
        project: Option<Project>,
        question: Question,
    ) {
        let (mut kept, now) = (self.lock(), Instant::now().into_std());
        if self.is_superseded(&mut kept, &key, question, now) {
            return;
        }
        let replaced = kept.there.remove(&key).is_some();
        let ttl = Ttl::absolute(not_all_at_once(ttl));
        let inserted = kept.not_there.insert(key, Entry { value, project, question }, ttl, now);
        self.has_gone(&kept, "replaced", (replaced || inserted.replaced.is_some()).into());
        self.has_gone(&kept, "size", inserted.evicted.is_some().into());
    }

    /// Under the lock: an invalidation that comes after this finds the entry.
    fn is_superseded(
        &self,
        kept: &mut Kept<K, V, N>,
        key: &K,
        question: Question,
        now: std::time::Instant,
    ) -> bool {
        let there = self.question_of(kept.there.get(key, now));
        let newest = there.max(self.question_of(kept.not_there.get(key, now)));
        newest > Some(question) || self.questions.is_outdated(key.endpoint(), question)
    }

    fn question_of<T>(&self, lookup: Lookup<'_, Entry<T>>) -> Option<Question> {
        match lookup {
            Lookup::Hit { value, .. } => Some(value.question),
            Lookup::Miss => None,
            Lookup::Expired => {
                self.metrics.evicted(self.name, "expired", 1);
                None
            }
        }
    }

    /// Removes an entry that was found to be wrong, and no newer one.
    pub(super) fn drop_stale(&self, key: &K, generation: Generation) {
        let mut kept = self.lock();
        let gone = kept.there.invalidate(key, generation).is_some();
        self.has_gone(&kept, "stale", gone.into());
    }

    /// Removes what somebody says is not true any more. An entry that does not know its project may be of any.
    pub(super) fn invalidate(&self, is_meant: impl Fn(&K, Option<&Project>) -> bool) -> usize {
        let mut kept = self.lock();
        let gone = kept.there.retain(|key, entry| !is_meant(key, entry.project.as_ref()))
            + kept.not_there.retain(|key, entry| !is_meant(key, entry.project.as_ref()));
        self.has_gone(&kept, "invalidated", gone);
        gone
    }

    /// Removes what has expired. Looks at all entries.
    pub(super) fn sweep(&self) {
        let (mut kept, now) = (self.lock(), Instant::now().into_std());
        let gone = kept.there.sweep(now) + kept.not_there.sweep(now);
        self.has_gone(&kept, "expired", gone);
    }

    /// All that is there, in no order.
    pub(super) fn map<T>(&self, see: impl Fn(&K, &V) -> T) -> Vec<T> {
        let (mut kept, now) = (self.lock(), Instant::now().into_std());
        let gone = kept.there.sweep(now);
        self.has_gone(&kept, "expired", gone);
        let mut seen = Vec::new();
        kept.there.retain(|key, entry| {
            seen.push(see(key, &entry.value));
            true
        });
        seen
    }

    fn has_gone(&self, kept: &Kept<K, V, N>, cause: &'static str, count: usize) {
        self.metrics.evicted(self.name, cause, count);
        self.metrics.has_entries(self.name, kept.there.len() + kept.not_there.len());
    }

    fn lock(&self) -> MutexGuard<'_, Kept<K, V, N>> {
        // Nothing panics under this lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was asked for at the same time, by all proxies after a restart for example, shall not be asked for again at the
/// same time for ever. Never longer than `ttl`, which is a promise about how old an answer can be.
fn not_all_at_once(ttl: Duration) -> Duration {
    // Without limit is no time.
    if ttl == Duration::MAX {
        return ttl;
    }
    ttl - ttl.mul_f64(rand::rng().random_range(0.0..TTL_SPREAD))
}

fn hit<T: Clone>(entry: &Entry<T>, generation: Generation, age: Duration) -> Hit<T> {
    Hit { value: entry.value.clone(), generation, question: entry.question, age }
}

#[cfg(test)]
mod tests;
