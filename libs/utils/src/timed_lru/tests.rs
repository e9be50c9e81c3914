//! Tests of the cache one rule at a time. `tests/timed_lru_model.rs` compares it with a model over random operations.

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
