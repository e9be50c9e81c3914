//! Tests of [`LookupCache`]: which of two answers stays, and when entries go.

use super::*;
use crate::observe::metrics::Metrics;

fn name(text: &str) -> EndpointName {
    text.parse().unwrap()
}

fn cache(options: &str) -> (LookupCache<EndpointName, u8, char>, Arc<LookupOrder>, CacheMetrics) {
    let (order, metrics) =
        (Arc::<LookupOrder>::default(), Metrics::new(&mut Default::default()).caches.clone());
    let cache = LookupCache::new("test", &options.parse().unwrap(), Arc::clone(&order), metrics.clone());
    (cache, order, metrics)
}

fn value(cache: &LookupCache<EndpointName, u8, char>, key: &str) -> Option<u8> {
    match cache.find(&name(key)) {
        CacheLookup::Hit(hit) => Some(hit.value),
        _ => None,
    }
}

#[test]
fn lookup_cache_keeps_answer_of_later_lookup() {
    let (cache, order, _) = cache("size=9,ttl=1m");
    let (first, second, third) = (order.begin(), order.begin(), order.begin());
    assert!(cache.insert(name("a"), 2, None, second).is_some());
    assert!(cache.insert(name("a"), 1, None, first).is_none());
    cache.insert_negative(name("a"), 'x', Duration::from_secs(1), None, first);
    assert_eq!(value(&cache, "a"), Some(2));
    cache.insert_negative(name("a"), 'x', Duration::from_secs(1), None, third);
    assert!(matches!(cache.find(&name("a")), CacheLookup::Negative(hit) if hit.value == 'x'));
    assert!(cache.insert(name("a"), 2, None, second).is_none());
}

#[test]
fn lookup_cache_drops_answers_invalidated_under_way() {
    let (cache, order, _) = cache("size=9,ttl=1m");
    for outdated in [Some(name("a")), None] {
        let (before, epoch) = (order.begin(), order.epoch(&name("a")));
        order.invalidate(outdated.as_ref());
        assert!(cache.insert(name("a"), 1, None, before).is_none());
        cache.insert_negative(name("a"), 'x', Duration::from_secs(1), None, before);
        assert_eq!(cache.find(&name("a")), CacheLookup::Miss);
        assert_ne!(order.epoch(&name("a")), epoch);
    }
    assert!(cache.insert(name("a"), 1, None, order.begin()).is_some());
}

#[test]
fn lookup_cache_invalidates_unknown_projects_too() {
    let (cache, order, metrics) = cache("size=9,ttl=1m");
    for (key, project) in [("a", Some("one")), ("b", Some("two")), ("c", None)] {
        cache.insert(name(key), 1, project.map(Project::from), order.begin());
    }
    let of_one =
        |_: &EndpointName, project: Option<&Project>| project.is_none_or(|project| &**project == "one");
    assert_eq!(cache.invalidate(of_one), 2);
    assert_eq!([value(&cache, "a"), value(&cache, "b"), value(&cache, "c")], [None, Some(1), None]);
    assert_eq!((metrics.evictions("test", "invalidated"), metrics.entries("test")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn entries_and_why_they_went_are_counted() {
    let (cache, order, metrics) = cache("size=2,ttl=10s");
    for key in ["a", "b", "b", "c"] {
        cache.insert(name(key), 1, None, order.begin());
    }
    cache.insert_negative(name("x"), 'x', Duration::from_secs(1), None, order.begin());
    assert_eq!(metrics.entries("test"), 3);
    let CacheLookup::Hit(hit) = cache.find(&name("b")) else { panic!("b is gone") };
    cache.insert(name("b"), 2, None, order.begin());
    // A client that saw the old entry.
    cache.drop_stale(&name("b"), hit.generation);
    assert_eq!(value(&cache, "b"), Some(2));
    let CacheLookup::Hit(hit) = cache.find(&name("b")) else { panic!("b is gone") };
    cache.drop_stale(&name("b"), hit.generation);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(cache.find(&name("x")), CacheLookup::Expired);
    tokio::time::advance(Duration::from_secs(9)).await;
    cache.sweep();
    let causes = ["size", "replaced", "stale", "expired", "invalidated"];
    assert_eq!(causes.map(|cause| metrics.evictions("test", cause)), [1, 2, 1, 2, 0]);
    assert_eq!(metrics.entries("test"), 0);
}

#[tokio::test(start_paused = true)]
async fn lookup_cache_spreads_expiry_within_ttl() {
    let (cache, order, _) = cache("size=2000,ttl=100s");
    for number in 0..1000 {
        cache.insert(name(&format!("there-{number}")), 1, None, order.begin());
        let not_there = name(&format!("not-there-{number}"));
        cache.insert_negative(not_there, 'x', Duration::from_secs(100), None, order.begin());
    }
    let left = |prefix: &str| {
        let keys = (0..1000).map(|number| name(&format!("{prefix}-{number}")));
        keys.filter(|key| cache.find(key).is_known()).count()
    };
    tokio::time::advance(Duration::from_secs(90)).await;
    assert_eq!((left("there"), left("not-there")), (1000, 1000));
    for expected in [700..900, 500..700, 300..500, 100..300, 0..1] {
        tokio::time::advance(Duration::from_secs(2)).await;
        for prefix in ["there", "not-there"] {
            assert!(expected.contains(&left(prefix)), "{expected:?}: {}", left(prefix));
        }
    }
}

#[test]
fn lookup_cache_negatives_never_evict_positives() {
    let (cache, order, _) = cache("size=2,ttl=1m");
    cache.insert(name("a"), 1, None, order.begin());
    for number in 0..10 {
        let made_up = name(&format!("made-up-{number}"));
        cache.insert_negative(made_up, 'x', Duration::from_secs(5), None, order.begin());
    }
    assert_eq!(value(&cache, "a"), Some(1));
}
