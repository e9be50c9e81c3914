//! [`TimedLru`]: a bounded cache that expires entries by age and by idle time.
//!
//! * **Capacity.** The cache holds at most `capacity` entries. An insert beyond that evicts the least recently used
//!   entry. A capacity of zero switches the cache off: it keeps nothing.
//! * **Expiry.** An entry expires when its [`Ttl::absolute`] has passed since its insert, however often it is used, so
//!   that no stale value stays for ever. It also expires when its [`Ttl::idle`] has passed since its last use. Each
//!   entry has its own `Ttl`: a caller passes a shorter one for a negative entry.
//! * **Removal.** An expired entry is removed by the lookup that meets it and by [`sweep`](TimedLru::sweep), which the
//!   owner calls from time to time. Until then it takes up room, but it is never returned.
//! * **Generations.** Each insert has a number that is never used again. A caller that finds a value to be wrong
//!   invalidates it with the [`Generation`] that came with the value: a newer value under the same key stays. The time
//!   of the insert would not do, because two inserts can fall into one tick of the clock.
//!
//! The cache has no clock and no lock: `now` is an argument, and a cache that several tasks share sits in the owner's
//! mutex. It does not fetch values; [`SingleFlight`](crate::SingleFlight) does that. Called by the caches of the proxy.

use std::borrow::Borrow;
use std::hash::Hash;
use std::time::{Duration, Instant};

use hashlink::LruCache;

/// A bounded cache of `V` by `K`; the [module](self) states its contract.
///
/// ```
/// use std::time::{Duration, Instant};
/// use utils::timed_lru::{Lookup, TimedLru, Ttl};
///
/// let mut cache = TimedLru::new(100);
/// let ttl = Ttl { absolute: Duration::from_secs(60), idle: Duration::from_secs(10) };
/// let start = Instant::now();
/// cache.insert("endpoint", "10.0.0.1:5432", ttl, start);
///
/// // A hit brings the generation of the value that was found.
/// let Lookup::Hit { value, generation, .. } = cache.get("endpoint", start) else { panic!() };
/// assert_eq!(*value, "10.0.0.1:5432");
///
/// // Another task stores a newer value, so the old generation removes nothing.
/// cache.insert("endpoint", "10.0.0.2:5432", ttl, start);
/// assert_eq!(cache.invalidate("endpoint", generation), None);
///
/// // Ten seconds without a use expire the entry.
/// assert_eq!(cache.get("endpoint", start + Duration::from_secs(10)), Lookup::Expired);
/// ```
#[derive(Debug)]
pub struct TimedLru<K, V> {
    /// An unbounded map: `insert` keeps the bound and returns what it evicts.
    entries: LruCache<K, Entry<V>>,
    capacity: usize,
    inserts: u64,
}

/// Lifetime of an entry. [`Duration::MAX`] means "without limit".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// Longest time since the insert.
    pub absolute: Duration,
    /// Longest time since the insert or the last [`TimedLru::get`] that returned the entry.
    pub idle: Duration,
}

impl Ttl {
    /// A lifetime that counts from the insert only.
    pub const fn absolute(absolute: Duration) -> Self {
        Self { absolute, idle: Duration::MAX }
    }
}

/// Number of the insert that a value came from. Two inserts into one cache never have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

/// Result of [`TimedLru::get`].
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a, V> {
    /// A value that has not expired.
    Hit {
        /// The value.
        value: &'a V,
        /// Names this insert to [`TimedLru::invalidate`].
        generation: Generation,
        /// Time since the insert.
        age: Duration,
    },
    /// The entry had expired; it is now removed.
    Expired,
    /// The key has no entry.
    Miss,
}

impl<'a, V> Lookup<'a, V> {
    /// The value of a hit.
    pub fn value(self) -> Option<&'a V> {
        match self {
            Self::Hit { value, .. } => Some(value),
            Self::Expired | Self::Miss => None,
        }
    }
}

/// Result of [`TimedLru::insert`].
#[derive(Debug, PartialEq, Eq)]
pub struct Inserted<K, V> {
    /// Names this insert to [`TimedLru::invalidate`].
    pub generation: Generation,
    /// The value that the key had before, expired or not.
    pub replaced: Option<V>,
    /// The entry that was evicted to make room.
    pub evicted: Option<(K, V)>,
}

impl<K: Eq + Hash, V> TimedLru<K, V> {
    /// An empty cache for `capacity` entries. Memory is allocated as entries come.
    pub fn new(capacity: usize) -> Self {
        Self { entries: LruCache::new_unbounded(), capacity, inserts: 0 }
    }

    /// Stores `value` under `key`, as the most recently used entry.
    pub fn insert(&mut self, key: K, value: V, ttl: Ttl, now: Instant) -> Inserted<K, V> {
        self.inserts += 1;
        let generation = Generation(self.inserts);
        if self.capacity == 0 {
            return Inserted { generation, replaced: None, evicted: None };
        }

        let entry = Entry { value, generation, ttl, inserted: now, used: now };
        let replaced = self.entries.insert(key, entry).map(|old| old.value);
        let over = self.entries.len() > self.capacity;
        let evicted = if over { self.entries.remove_lru() } else { None };
        Inserted { generation, replaced, evicted: evicted.map(|(key, entry)| (key, entry.value)) }
    }

    /// Looks `key` up. A hit counts as a use: it restarts the idle time and makes the entry the most recently used.
    pub fn get<Q>(&mut self, key: &Q, now: Instant) -> Lookup<'_, V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        match self.entries.peek(key) {
            None => return Lookup::Miss,
            Some(entry) if entry.is_expired(now) => {
                self.entries.remove(key);
                return Lookup::Expired;
            }
            Some(_) => {}
        }

        let Some(entry) = self.entries.get_mut(key) else { return Lookup::Miss };
        // Tasks read the clock before they take the lock, so a later caller may bring an earlier time.
        entry.used = entry.used.max(now);
        Lookup::Hit {
            value: &entry.value,
            generation: entry.generation,
            age: now.saturating_duration_since(entry.inserted),
        }
    }

    /// Removes and returns the value of `key` if it still has this `generation`.
    pub fn invalidate<Q>(&mut self, key: &Q, generation: Generation) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if self.entries.peek(key)?.generation != generation {
            return None;
        }
        self.remove(key)
    }

    /// Removes and returns the value of `key`, of whichever generation.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.remove(key).map(|entry| entry.value)
    }

    /// Removes the entries for which `keep` is false, and returns their number.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) -> usize {
        let before = self.entries.len();
        self.entries.retain(|key, entry| keep(key, &entry.value));
        before - self.entries.len()
    }

    /// Removes every expired entry and returns their number. Visits all entries.
    pub fn sweep(&mut self, now: Instant) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, entry| !entry.is_expired(now));
        before - self.entries.len()
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Number of entries, expired ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is no entry, not even an expired one.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The most entries there can be.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }
}

/// A value with what decides about its expiry.
#[derive(Debug)]
struct Entry<V> {
    value: V,
    generation: Generation,
    ttl: Ttl,
    inserted: Instant,
    used: Instant,
}

impl<V> Entry<V> {
    /// An entry expires at exactly its lifetime, so that a lifetime of zero keeps nothing.
    fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.inserted) >= self.ttl.absolute
            || now.saturating_duration_since(self.used) >= self.ttl.idle
    }
}

#[cfg(test)]
mod tests;
