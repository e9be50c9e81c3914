//! Tests of the address cache: how often it asks the provider, and what it counts.

mod strangers;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use pq_proto::Text;
use tokio::sync::Semaphore;

use super::*;
use crate::client_facing::ClientFacing;
use crate::control_plane::Compute;
use crate::control_plane::error::TROUBLE_TTL;
use crate::control_plane::{Access, Reply};
use crate::observe::cache_metrics::Source;

/// Provider that counts its calls. Each wake waits for a permit.
#[derive(Debug)]
struct Counting {
    locates: AtomicUsize,
    wakes: AtomicUsize,
    /// Error that lookups return instead of an address.
    error: Mutex<Option<ControlPlaneError>>,
    go: Semaphore,
}

impl Counting {
    fn compute(&self, count: &AtomicUsize) -> Result<Arc<Compute>, ControlPlaneError> {
        let port = u16::try_from(count.fetch_add(1, Ordering::Relaxed)).unwrap() + 1;
        if let Some(error) = self.error.lock().unwrap().clone() {
            return Err(error);
        }
        let address = crate::control_plane::Address { host: "h".into(), port };
        Ok(Arc::new(Compute { address, tls: None, database: None }))
    }

    fn counts(&self) -> [usize; 2] {
        [&self.locates, &self.wakes].map(|count| count.load(Ordering::Relaxed))
    }
}

impl ControlPlane for Arc<Counting> {
    fn access<'a>(&'a self, _: &'a LookupContext, _: &'a Text) -> Reply<'a, Access> {
        Box::pin(async { Ok(Access::default()) })
    }

    fn locate<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        Box::pin(async {
            tokio::task::yield_now().await;
            self.compute(&self.locates)
        })
    }

    fn wake<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        Box::pin(async {
            self.go.acquire().await.unwrap().forget();
            self.compute(&self.wakes)
        })
    }

    fn is_in_memory(&self) -> bool {
        false
    }
}

fn cached_with(caches: &Caches) -> (Arc<Counting>, Arc<CachingControlPlane>, LookupContext) {
    let provider = Arc::new(Counting {
        locates: AtomicUsize::new(0),
        wakes: AtomicUsize::new(0),
        error: Mutex::default(),
        go: Semaphore::new(0),
    });
    let metrics = Metrics::new(&mut Default::default());
    let cached = CachingControlPlane::new(Box::new(Arc::clone(&provider)), caches, metrics);
    (provider, Arc::new(cached), LookupContext::for_test("main"))
}

fn cached() -> (Arc<Counting>, Arc<CachingControlPlane>, LookupContext) {
    cached_with(&Caches::default())
}

/// Lookups in the address cache by result.
fn lookups(cached: &CachingControlPlane) -> [u64; 5] {
    let results = ["hit", "miss", "negative", "expired", "shared"];
    results.map(|result| cached.metrics.caches.lookups("compute", result))
}

/// Polls once; true when it waits.
async fn waits(future: &mut (impl Future + Unpin)) -> bool {
    let pending = std::future::poll_fn(|cx| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())
    });
    let pending = pending.await;
    // Lets the task that it spawned begin.
    tokio::task::yield_now().await;
    pending
}

#[tokio::test]
async fn wake_runs_once_for_all_clients() {
    let (provider, cached, main) = cached();
    let stale = cached.locate(&main).await.unwrap();
    let crowd: Vec<_> = (0..100)
        .map(|_| {
            let (cached, main, stale) = (Arc::clone(&cached), main.clone(), stale.clone());
            tokio::spawn(async move { cached.wake(&main, &stale).await.unwrap().generation })
        })
        .collect();
    provider.go.add_permits(100);
    let mut generations = Vec::new();
    for one in crowd {
        generations.push(one.await.unwrap());
    }
    generations.push(cached.wake(&main, &stale).await.unwrap().generation);
    generations.dedup();
    assert_eq!(generations.len(), 1);
    assert_eq!(provider.counts(), [1, 1]);
}

#[tokio::test]
async fn wake_outlives_its_client() {
    let (provider, cached, main) = cached();
    let stale = cached.locate(&main).await.unwrap();
    let mut first = Box::pin(cached.wake(&main, &stale));
    assert!(waits(&mut first).await);
    drop(first);
    let second = cached.wake(&main, &stale);
    provider.go.add_permits(100);
    second.await.unwrap();
    assert_eq!(provider.counts(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn locate_shares_lookups_until_expiry() {
    let (provider, cached, main) = cached();
    let (one, two) = tokio::join!(cached.locate(&main), cached.locate(&main));
    assert_eq!(one.unwrap().generation, two.unwrap().generation);
    cached.locate(&main).await.unwrap();
    assert_eq!(provider.counts(), [1, 0]);
    tokio::time::advance(Caches::default().computes.ttl.absolute).await;
    cached.locate(&main).await.unwrap();
    assert_eq!(provider.counts(), [2, 0]);
    assert_eq!(cached.entries(), [(main.endpoint, "h:2".to_owned())]);
    let [hit, miss, negative, expired, shared] = lookups(&cached);
    assert_eq!((hit, miss, negative, expired, shared), (1, 1, 0, 1, 1));
}

#[tokio::test]
async fn wake_runs_again_for_newer_stale_address() {
    let (provider, cached, main) = cached();
    provider.go.add_permits(2);
    let stale = cached.locate(&main).await.unwrap();
    let woken = cached.wake(&main, &stale).await.unwrap();
    assert!(cached.wake(&main, &woken).await.unwrap().generation > woken.generation);
    assert_eq!(provider.counts(), [1, 2]);
    // Both addresses were answers of this moment: no cache was wrong.
    assert_eq!(cached.metrics.caches.spurious_hits("compute"), 0);
    assert_eq!(cached.metrics.caches.evictions("compute", "stale"), 2);
}

#[tokio::test]
async fn spurious_hits_count_once_per_client() {
    let (provider, cached, main) = cached();
    provider.go.add_permits(1);
    cached.locate(&main).await.unwrap();
    let (one, two) = (cached.locate(&main).await.unwrap(), cached.locate(&main).await.unwrap());
    assert_eq!((one.source, two.source), (Source::Cached, Source::Cached));
    assert_eq!(cached.wake(&main, &one).await.unwrap().source, Source::Uncached);
    cached.wake(&main, &two).await.unwrap();
    let metrics = &cached.metrics.caches;
    assert_eq!((metrics.spurious_hits("compute"), metrics.evictions("compute", "stale")), (2, 1));
    let third = cached.locate(&main).await.unwrap();
    cached.locate_again(&main, &third).await.unwrap();
    assert_eq!((metrics.spurious_hits("compute"), provider.counts()), (3, [2, 1]));
}

#[tokio::test(start_paused = true)]
async fn locate_shares_errors_until_their_ttl() {
    let name = || LookupContext::for_test("main").endpoint;
    for (error, kept) in [
        (ControlPlaneError::UnknownEndpoint(name()), Duration::from_secs(5)),
        (ControlPlaneError::Unavailable(name()), TROUBLE_TTL),
        (ControlPlaneError::StartFailed { endpoint: name(), reason: "no".into() }, TROUBLE_TTL),
    ] {
        let (provider, cached, main) = cached();
        *provider.error.lock().unwrap() = Some(error.clone());
        for round in 1..=3 {
            let crowd = join_all((0..20).map(|_| cached.locate(&main))).await;
            assert!(crowd.into_iter().all(|answer| answer.is_err_and(|told| told == error)), "{error}");
            // The TTL may be shorter by up to a tenth.
            let surely_kept = kept.mul_f64(0.9) - Duration::from_millis(1);
            tokio::time::advance(surely_kept).await;
            assert_eq!(cached.locate(&main).await.unwrap_err(), error);
            assert_eq!(provider.counts(), [round, 0], "{error}");
            tokio::time::advance(kept - surely_kept).await;
        }
        let [hit, miss, negative, expired, shared] = lookups(&cached);
        assert_eq!((hit, miss, negative, expired, shared), (0, 1, 3, 2, 57), "{error}");
        *provider.error.lock().unwrap() = None;
        cached.locate(&main).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn wake_limit_counts_real_wakes_only() {
    let wakes = "rate=0.1,burst=2".parse().unwrap();
    let (provider, cached, main) = cached_with(&Caches { wakes, ..Caches::default() });
    provider.go.add_permits(100);
    let mut stale = cached.locate(&main).await.unwrap();
    for _ in 0..2 {
        let crowd = join_all((0..100).map(|_| cached.wake(&main, &stale))).await;
        for _ in 0..100 {
            cached.locate(&main).await.unwrap();
            cached.wake(&main, &stale).await.unwrap();
        }
        stale = crowd.into_iter().next().unwrap().unwrap();
    }
    let error = cached.wake(&main, &stale).await.unwrap_err();
    let response = error.response().unwrap().error();
    assert_eq!(response.sqlstate.to_string(), "53400");
    assert_eq!(response.hint.as_deref(), Some("Try again in 11 s."));
    assert_eq!(provider.counts()[1], 2);
    let other = LookupContext::for_test("other");
    let elsewhere = cached.locate(&other).await.unwrap();
    cached.wake(&other, &elsewhere).await.unwrap();
    tokio::time::advance(Duration::from_secs(10)).await;
    cached.wake(&main, &stale).await.unwrap();
    assert_eq!(provider.counts()[1], 4);
}

#[tokio::test]
async fn address_cache_of_size_zero_keeps_nothing() {
    let computes = "size=0".parse().unwrap();
    let (provider, cached, main) = cached_with(&Caches { computes, ..Caches::default() });
    for _ in 0..3 {
        cached.locate(&main).await.unwrap();
    }
    assert_eq!((provider.counts(), cached.entries().len()), ([3, 0], 0));
}

#[tokio::test(start_paused = true)]
async fn address_cache_drops_idle_entries_only() {
    let computes = "size=9,idle_ttl=10s".parse().unwrap();
    let (provider, cached, main) = cached_with(&Caches { computes, ..Caches::default() });
    for _ in 0..10 {
        cached.locate(&main).await.unwrap();
        assert_eq!(provider.counts(), [1, 0]);
        tokio::time::advance(Duration::from_millis(9_999)).await;
    }
    tokio::time::advance(Duration::from_millis(1)).await;
    cached.locate(&main).await.unwrap();
    assert_eq!(provider.counts(), [2, 0]);
}

#[tokio::test(start_paused = true)]
async fn address_cache_negative_ttl_follows_options() {
    for seconds in [2, 20] {
        let computes = format!("size=9,ttl=5m,negative_ttl={seconds}s").parse().unwrap();
        // What is known of the endpoint otherwise would answer, too.
        let access_rules = "size=0".parse().unwrap();
        let caches = Caches { computes, access_rules, ..Caches::default() };
        let (provider, cached, main) = cached_with(&caches);
        *provider.error.lock().unwrap() = Some(ControlPlaneError::UnknownEndpoint(main.endpoint.clone()));
        cached.locate(&main).await.unwrap_err();
        // The TTL may be shorter by up to a tenth.
        let surely_kept = Duration::from_secs(seconds).mul_f64(0.9) - Duration::from_millis(1);
        tokio::time::advance(surely_kept).await;
        cached.locate(&main).await.unwrap_err();
        assert_eq!(provider.counts(), [1, 0], "{seconds}");
        tokio::time::advance(Duration::from_secs(seconds) - surely_kept).await;
        cached.locate(&main).await.unwrap_err();
        assert_eq!(provider.counts(), [2, 0], "{seconds}");
    }
}
