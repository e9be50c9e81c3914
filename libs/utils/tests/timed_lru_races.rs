//! Races of tasks that share a `TimedLru`, in every interleaving (loom): a stale generation never removes a newer entry.

use std::time::{Duration, Instant};

use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread;
use utils::TimedLru;
use utils::timed_lru::{Generation, Lookup, Ttl};

const TTL: Ttl = Ttl::absolute(Duration::from_secs(60));
const KEY: &str = "endpoint";

type Shared = Arc<Mutex<TimedLru<&'static str, u32>>>;

fn generation_of(cache: &Shared, now: Instant) -> Option<Generation> {
    match lock(cache).get(KEY, now) {
        Lookup::Hit { generation, .. } => Some(generation),
        Lookup::Expired | Lookup::Miss => None,
    }
}

fn lock(cache: &Shared) -> MutexGuard<'_, TimedLru<&'static str, u32>> {
    cache.lock().expect("nothing panics under the lock")
}

/// A cache that holds 1 under [`KEY`].
fn shared_cache(now: Instant) -> Shared {
    let mut cache = TimedLru::new(4);
    cache.insert(KEY, 1, TTL, now);
    Arc::new(Mutex::new(cache))
}

/// Looks the value up, finds out that it is wrong, and invalidates it. Other tasks may run between any two of these
/// steps.
fn find_and_invalidate(cache: &Shared, wrong: u32, now: Instant) {
    let seen = match lock(cache).get(KEY, now) {
        Lookup::Hit { value: &value, generation, .. } if value == wrong => generation,
        Lookup::Hit { .. } | Lookup::Expired | Lookup::Miss => return,
    };
    lock(cache).invalidate(KEY, seen);
}

#[test]
fn stale_generation_never_removes_a_newer_entry() {
    loom::model(|| {
        let now = Instant::now();
        let cache = shared_cache(now);
        let stale = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || find_and_invalidate(&cache, 1, now))
        };
        let refresh = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                find_and_invalidate(&cache, 1, now);
                lock(&cache).insert(KEY, 2, TTL, now).generation
            })
        };
        stale.join().unwrap();
        let newest = refresh.join().unwrap();
        assert_eq!(generation_of(&cache, now), Some(newest), "the refreshed entry is still there");
    });
}

/// Proves that the test above can fail: removal by key, without a generation, removes the newer entry.
#[test]
#[should_panic(expected = "the refreshed entry is still there")]
fn removing_by_key_alone_would_remove_it() {
    loom::model(|| {
        let now = Instant::now();
        let cache = shared_cache(now);
        let stale = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                let is_wrong = lock(&cache).get(KEY, now).value() == Some(&1);
                if is_wrong {
                    lock(&cache).remove(KEY);
                }
            })
        };
        lock(&cache).insert(KEY, 2, TTL, now);
        stale.join().unwrap();
        assert!(generation_of(&cache, now).is_some(), "the refreshed entry is still there");
    });
}
