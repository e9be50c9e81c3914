//! Every interleaving of tasks that share a cache: a handle that has grown stale never removes a newer entry.

use std::time::{Duration, Instant};

use loom::sync::{Arc, Mutex};
use loom::thread;
use utils::TimedLru;
use utils::timed_lru::{Generation, Lookup, Ttl};

const TTL: Ttl = Ttl::absolute(Duration::from_secs(60));
const KEY: &str = "endpoint";

type Shared = Arc<Mutex<TimedLru<&'static str, u32>>>;

fn generation_of(cache: &Shared, now: Instant) -> Option<Generation> {
    match cache.lock().expect("nothing panics under the lock").get(KEY, now) {
        Lookup::Hit { generation, .. } => Some(generation),
        Lookup::Expired | Lookup::Miss => None,
    }
}

/// Uses what it finds, learns that it is wrong, and removes it: between any two of these others may do anything.
fn finds_it_stale(cache: &Shared, wrong: u32, now: Instant) {
    let seen = match cache.lock().expect("nothing panics under the lock").get(KEY, now) {
        Lookup::Hit { value: &value, generation, .. } if value == wrong => generation,
        Lookup::Hit { .. } | Lookup::Expired | Lookup::Miss => return,
    };
    cache.lock().expect("nothing panics under the lock").invalidate(KEY, seen);
}

#[test]
fn stale_generation_never_removes_a_newer_entry() {
    loom::model(|| {
        let now = Instant::now();
        let cache: Shared = Arc::new(Mutex::new(TimedLru::new(4)));
        cache.lock().expect("nothing panics under the lock").insert(KEY, 1, TTL, now);
        let stale = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || finds_it_stale(&cache, 1, now))
        };
        let refresh = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                finds_it_stale(&cache, 1, now);
                cache.lock().expect("nothing panics under the lock").insert(KEY, 2, TTL, now).generation
            })
        };
        stale.join().unwrap();
        let newest = refresh.join().unwrap();
        assert_eq!(generation_of(&cache, now), Some(newest), "the refreshed entry is still there");
    });
}

/// The test above means something only if removing by key, without a generation, fails it.
#[test]
#[should_panic(expected = "the refreshed entry is still there")]
fn removing_by_key_alone_would_remove_it() {
    loom::model(|| {
        let now = Instant::now();
        let cache: Shared = Arc::new(Mutex::new(TimedLru::new(4)));
        cache.lock().expect("nothing panics under the lock").insert(KEY, 1, TTL, now);
        let stale = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                let is_wrong =
                    cache.lock().expect("nothing panics under the lock").get(KEY, now).value() == Some(&1);
                if is_wrong {
                    cache.lock().expect("nothing panics under the lock").remove(KEY);
                }
            })
        };
        cache.lock().expect("nothing panics under the lock").insert(KEY, 2, TTL, now);
        stale.join().unwrap();
        assert!(generation_of(&cache, now).is_some(), "the refreshed entry is still there");
    });
}
