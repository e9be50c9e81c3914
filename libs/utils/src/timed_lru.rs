//! [`TimedLru`]: a bounded cache whose entries end by age and by idleness.
//!
//! * **Room.** At most `capacity` entries. An insert beyond that evicts the least recently used one. Capacity zero
//!   switches the cache off: nothing is kept.
//! * **Age.** An entry is gone when its [`Ttl::absolute`] has passed since it was inserted, however busy it is, so
//!   that no stale value lives for ever; and when its [`Ttl::idle`] has passed since it was last used. Each entry
//!   has its own `Ttl`: a caller that remembers "there is no such thing" passes a shorter one.
//! * **Removal.** An expired entry is removed when a lookup meets it and by [`sweep`](TimedLru::sweep), which the
//!   owner calls now and then; until one of these happens it takes up room, but it is never returned.
//! * **Generations.** Each insert has a number that is never used again. Whoever finds out that a value was wrong
//!   invalidates with the [`Generation`] it got with the value: if somebody has put a newer value there meanwhile,
//!   that one stays. Time of insertion would not do; two inserts can fall into one tick of the clock.
//!
//! There is no clock and no lock in here: `now` is an argument, and a cache that several tasks share sits in the
//! owner's mutex. It does not fetch values either; [`SingleFlight`](crate::SingleFlight) goes with it for that.
//! Called by the caches of the proxy.

use std::borrow::Borrow;
use std::hash::Hash;
use std::time::{Duration, Instant};

use hashlink::LruCache;

/// A bounded cache; see the module's text.
#[derive(Debug)]
pub struct TimedLru<K, V> {
    /// Unbounded: the bound is kept by `insert`, which returns what it evicts.
    entries: LruCache<K, Entry<V>>,
    capacity: usize,
    inserts: u64,
}

/// How long an entry lives. [`Duration::MAX`] is "without limit".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// Since it was inserted.
    pub absolute: Duration,
    /// Since it was inserted or last returned by [`TimedLru::get`].
    pub idle: Duration,
}

impl Ttl {
    /// Only an age: idleness does not matter.
    pub const fn absolute(absolute: Duration) -> Self {
        Self { absolute, idle: Duration::MAX }
    }
}

/// Which insert a value came from. Never the same for two inserts into one cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

/// An answer of [`TimedLru::get`].
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a, V> {
    /// A value that has not expired.
    Hit {
        /// The value.
        value: &'a V,
        /// What [`TimedLru::invalidate`] takes.
        generation: Generation,
        /// Time since it was inserted.
        age: Duration,
    },
    /// There was one, but its time had passed; it is removed.
    Expired,
    /// There is none.
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

/// An answer of [`TimedLru::insert`].
#[derive(Debug, PartialEq, Eq)]
pub struct Inserted<K, V> {
    /// What [`TimedLru::invalidate`] takes.
    pub generation: Generation,
    /// The value that the key had before, expired or not.
    pub replaced: Option<V>,
    /// The entry that had to go to make room.
    pub evicted: Option<(K, V)>,
}

impl<K: Eq + Hash, V> TimedLru<K, V> {
    /// An empty cache for `capacity` entries. Memory is taken as they come.
    pub fn new(capacity: usize) -> Self {
        Self { entries: LruCache::new_unbounded(), capacity, inserts: 0 }
    }

    /// Puts `value` at `key`, as the most recently used entry.
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
        // Tasks that read the clock before they took the lock may come in the other order.
        entry.used = entry.used.max(now);
        Lookup::Hit {
            value: &entry.value,
            generation: entry.generation,
            age: now.saturating_duration_since(entry.inserted),
        }
    }

    /// Removes the entry of `key` if it is still the one of `generation`, and returns it.
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

    /// Removes the entry of `key`, whichever it is, and returns it.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.remove(key).map(|entry| entry.value)
    }

    /// Keeps the entries for which `keep` is true, and returns how many went.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) -> usize {
        let before = self.entries.len();
        self.entries.retain(|key, entry| keep(key, &entry.value));
        before - self.entries.len()
    }

    /// Removes every expired entry and returns how many there were. Looks at all entries.
    pub fn sweep(&mut self, now: Instant) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, entry| !entry.is_expired(now));
        before - self.entries.len()
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Entries that take up room, expired ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when no entry takes up room.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The most entries there can be.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    generation: Generation,
    ttl: Ttl,
    inserted: Instant,
    used: Instant,
}

impl<V> Entry<V> {
    /// At exactly its age an entry is expired, so that a lifetime of zero keeps nothing.
    fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.inserted) >= self.ttl.absolute
            || now.saturating_duration_since(self.used) >= self.ttl.idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREVER: Ttl = Ttl::absolute(Duration::MAX);
    const TEN_SECONDS: Ttl = Ttl::absolute(seconds(10));

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn entry_expires_at_its_age_however_busy() {
        let (mut cache, start) = (TimedLru::new(2), Instant::now());
        cache.insert("a", 1, TEN_SECONDS, start);
        for second in 0..10 {
            assert_eq!(cache.get("a", start + seconds(second)).value(), Some(&1), "{second}");
        }
        assert_eq!(cache.get("a", start + seconds(10)), Lookup::Expired);
        assert_eq!(cache.get("a", start + seconds(10)), Lookup::Miss);
        assert!(cache.is_empty());
    }

    #[test]
    fn get_restarts_idle_time_but_not_age() {
        let (mut cache, start) = (TimedLru::new(2), Instant::now());
        cache.insert("a", 1, Ttl { absolute: seconds(10), idle: seconds(4) }, start);
        for second in [3, 6, 9] {
            assert_eq!(cache.get("a", start + seconds(second)).value(), Some(&1), "{second}");
        }
        assert_eq!(cache.get("a", start + seconds(10)), Lookup::Expired);
        cache.insert("a", 2, Ttl { absolute: seconds(100), idle: seconds(4) }, start);
        assert_eq!(cache.get("a", start + seconds(4)), Lookup::Expired);
    }

    #[test]
    fn least_recently_used_entry_is_evicted_first() {
        let (mut cache, now) = (TimedLru::new(2), Instant::now());
        cache.insert("a", 1, FOREVER, now);
        cache.insert("b", 2, FOREVER, now);
        cache.get("a", now);
        assert_eq!(cache.insert("c", 3, FOREVER, now).evicted, Some(("b", 2)));
        assert_eq!(cache.get("b", now), Lookup::Miss);
        assert_eq!(cache.get("a", now).value(), Some(&1));
    }

    #[test]
    fn replacing_a_value_evicts_nothing() {
        let (mut cache, now) = (TimedLru::new(2), Instant::now());
        cache.insert("a", 1, FOREVER, now);
        cache.insert("b", 2, FOREVER, now);
        let inserted = cache.insert("a", 3, FOREVER, now);
        assert_eq!((inserted.replaced, inserted.evicted), (Some(1), None));
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn old_generation_never_invalidates_a_newer_value() {
        let (mut cache, now) = (TimedLru::new(2), Instant::now());
        let old = cache.insert("a", 1, FOREVER, now).generation;
        // The same instant on purpose: a clock cannot tell these two apart.
        let new = cache.insert("a", 2, FOREVER, now).generation;
        assert_eq!(cache.invalidate("a", old), None);
        assert!(matches!(cache.get("a", now), Lookup::Hit { value: 2, generation, .. } if generation == new));
        assert_eq!(cache.invalidate("a", new), Some(2));
        cache.insert("a", 3, FOREVER, now);
        assert_eq!(cache.invalidate("a", new), None, "removed and put back is another entry");
    }

    #[test]
    fn sweep_removes_exactly_the_expired() {
        let (mut cache, start) = (TimedLru::new(10), Instant::now());
        for (key, age) in [("a", 1), ("b", 5), ("c", 9)] {
            cache.insert(key, age, Ttl::absolute(seconds(age)), start);
        }
        assert_eq!(cache.sweep(start + seconds(5)), 2);
        assert_eq!(cache.get("c", start + seconds(5)).value(), Some(&9));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn zero_capacity_keeps_nothing() {
        let (mut cache, now) = (TimedLru::new(0), Instant::now());
        let first = cache.insert("a", 1, FOREVER, now).generation;
        assert_ne!(first, cache.insert("a", 2, FOREVER, now).generation);
        assert_eq!(cache.get("a", now), Lookup::Miss);
        assert!(cache.is_empty());
    }

    /// Tasks read the clock before they take the lock, so a later caller may bring an earlier time.
    #[test]
    fn earlier_clock_expires_nothing() {
        let start = Instant::now();
        let (mut cache, later) = (TimedLru::new(2), start + seconds(100));
        cache.insert("a", 1, Ttl { absolute: seconds(10), idle: seconds(3) }, later);
        assert!(matches!(cache.get("a", start), Lookup::Hit { age: Duration::ZERO, .. }));
        assert_eq!(cache.get("a", later + seconds(2)).value(), Some(&1));
    }

    #[test]
    fn retain_removes_what_the_caller_names() {
        let (mut cache, now) = (TimedLru::new(9), Instant::now());
        for number in 0..9 {
            cache.insert(number, number % 3, FOREVER, now);
        }
        assert_eq!(cache.retain(|_, remainder| *remainder != 1), 3);
        assert_eq!((cache.len(), cache.get(&1, now)), (6, Lookup::Miss));
    }
}
