//! [`LeakyBuckets`]: limits how often an event may happen, for each of many keys.
//!
//! Each key has a bucket that leaks at a steady [`Rate`]. An allowed event fills the bucket; an event that would make it
//! overflow is refused with the time after which it fits. A bucket is stored as one instant, the one at which it will
//! be empty (the "generic cell rate algorithm", ITU-T I.371), so no timer runs.
//!
//! **Memory is bounded.** At most `keys_max` buckets are kept; an empty bucket carries no information and is removed.
//! Beyond that number the least recently used bucket is dropped together with its content. So a client with more
//! addresses than `keys_max` escapes this limit, and needs a limit on all addresses together.
//!
//! There is no clock and no lock: `now` is an argument, and the owner has a mutex. Called by the proxy: per endpoint,
//! per client network, and for wakes.

use std::borrow::Borrow;
use std::hash::Hash;
use std::time::{Duration, Instant};

use hashlink::LruCache;

/// Rate at which a bucket leaks, and the number of events that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Time in which one event leaks.
    interval: Duration,
    /// Events that fit into an empty bucket at once.
    burst: u32,
}

impl Rate {
    /// Allows `burst` events at once, then one every `interval`. A burst of zero allows nothing.
    pub const fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst }
    }

    /// Allows `burst` events at once, then `count` a second. A count that is not above zero allows nothing.
    pub fn per_second(count: f64, burst: u32) -> Self {
        let interval = Duration::try_from_secs_f64(count.recip()).unwrap_or(Duration::MAX);
        if count > 0.0 { Self::new(interval, burst) } else { Self::new(Duration::MAX, 0) }
    }
}

/// The bucket would overflow: the event is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateExceeded {
    /// Time after which one event fits if no other comes first; [`Duration::MAX`] for never.
    pub retry_after: Duration,
}

/// One bucket for each key; the [module](self) explains the algorithm.
#[derive(Debug)]
pub struct LeakyBuckets<K> {
    rate: Rate,
    /// When each bucket will be empty. An unbounded map: `try_acquire` keeps the bound.
    empty_at: LruCache<K, Instant>,
    keys_max: usize,
}

impl<K: Eq + Hash> LeakyBuckets<K> {
    /// No bucket yet; at most `keys_max` later.
    pub fn new(rate: Rate, keys_max: usize) -> Self {
        Self { rate, empty_at: LruCache::new_unbounded(), keys_max }
    }

    /// Puts one event into the bucket of `key`, if it fits. A refused event is not counted.
    pub fn try_acquire<Q>(&mut self, key: &Q, now: Instant) -> Result<(), RateExceeded>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        if self.rate.burst == 0 {
            return Err(RateExceeded { retry_after: Duration::MAX });
        }

        let level = self.empty_at.get(key).map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        // With one more event the bucket must not hold more than `burst`, so the present level must leave room for one.
        let room_at = self.rate.interval.saturating_mul(self.rate.burst - 1);
        if level > room_at {
            return Err(RateExceeded { retry_after: level.saturating_sub(room_at) });
        }

        let filled = level.saturating_add(self.rate.interval);
        // A bucket that leaks past the end of the clock's range is not stored: an event so rare is always allowed.
        if let Some(at) = now.checked_add(filled) {
            self.empty_at.insert(key.to_owned(), at);
        }
        if self.empty_at.len() > self.keys_max {
            self.empty_at.remove_lru();
        }
        Ok(())
    }

    /// Removes the empty buckets and returns their number. Visits all buckets.
    pub fn sweep(&mut self, now: Instant) -> usize {
        let before = self.empty_at.len();
        self.empty_at.retain(|_, at| *at > now);
        before - self.empty_at.len()
    }

    /// Number of buckets kept.
    pub fn len(&self) -> usize {
        self.empty_at.len()
    }

    /// True when no bucket is kept.
    pub fn is_empty(&self) -> bool {
        self.empty_at.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn buckets(burst: u32, keys_max: usize) -> (LeakyBuckets<String>, Instant) {
        (LeakyBuckets::new(Rate::new(SECOND, burst), keys_max), Instant::now())
    }

    #[test]
    fn bucket_allows_a_burst_then_the_rate() {
        let (mut buckets, start) = buckets(3, 10);
        let table = [(0, true), (0, true), (0, true), (0, false), (900, false), (1000, true), (1100, false)];
        for (at_ms, allowed) in table {
            let now = start + Duration::from_millis(at_ms);
            assert_eq!(buckets.try_acquire("a", now).is_ok(), allowed, "at {at_ms} ms");
        }
        assert!(buckets.try_acquire("b", start).is_ok(), "another key has another bucket");
    }

    #[test]
    fn retry_after_is_exact() {
        let (mut buckets, start) = buckets(2, 10);
        buckets.try_acquire("a", start).unwrap();
        buckets.try_acquire("a", start).unwrap();
        let now = start + Duration::from_millis(300);
        let RateExceeded { retry_after } = buckets.try_acquire("a", now).unwrap_err();
        assert_eq!(retry_after, Duration::from_millis(700));
        assert!(buckets.try_acquire("a", now + retry_after - Duration::from_nanos(1)).is_err());
        assert!(buckets.try_acquire("a", now + retry_after).is_ok());
    }

    #[test]
    fn refused_attempt_costs_nothing() {
        let (mut buckets, start) = buckets(1, 10);
        buckets.try_acquire("a", start).unwrap();
        for _ in 0..1000 {
            buckets.try_acquire("a", start).unwrap_err();
        }
        assert!(buckets.try_acquire("a", start + SECOND).is_ok());
    }

    #[test]
    fn number_of_buckets_is_bounded() {
        let (mut buckets, start) = buckets(1, 5);
        for key in 0..100 {
            buckets.try_acquire(&key.to_string(), start).unwrap();
        }
        assert_eq!(buckets.len(), 5);
        assert!(buckets.try_acquire("99", start).is_err(), "the newest are kept");
        assert_eq!(buckets.sweep(start + SECOND), 5);
        assert!(buckets.is_empty());
    }

    /// Extreme rates do not panic.
    #[test]
    fn meaningless_rates_allow_nothing() {
        let now = Instant::now();
        for rate in [Rate::per_second(0.0, 5), Rate::per_second(-1.0, 5), Rate::per_second(f64::NAN, 5)] {
            let refused = LeakyBuckets::<String>::new(rate, 1).try_acquire("a", now);
            assert_eq!(refused, Err(RateExceeded { retry_after: Duration::MAX }), "{rate:?}");
        }
        let mut slow = LeakyBuckets::<String>::new(Rate::new(Duration::MAX, u32::MAX), 1);
        slow.try_acquire("a", now).unwrap();
        slow.try_acquire("a", now).unwrap();
        let mut fast = LeakyBuckets::<String>::new(Rate::per_second(f64::INFINITY, 1), 1);
        fast.try_acquire("a", now).unwrap();
        fast.try_acquire("a", now).unwrap();
    }

    proptest! {
        /// The promise itself: in no window of time more than a burst and what leaked meanwhile.
        #[test]
        fn no_window_exceeds_burst_and_rate(burst in 1_u32..6, steps in prop::collection::vec(0_u64..2500, 1..60)) {
            let (mut buckets, start) = buckets(burst, 4);
            let mut now = start;
            let mut allowed = Vec::new();
            for step in steps {
                now += Duration::from_millis(step);
                if buckets.try_acquire("a", now).is_ok() {
                    allowed.push(now);
                }
            }
            for (index, first) in allowed.iter().enumerate() {
                for (count, last) in allowed[index..].iter().enumerate() {
                    let leaked = last.duration_since(*first).as_secs();
                    prop_assert!(count as u64 <= u64::from(burst) + leaked);
                }
            }
        }
    }
}
