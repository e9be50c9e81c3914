//! [`Cached`]: a provider behind a cache of addresses, asked once for everybody who asks at the same time.
//!
//! Verifiers pass through: the file provider has them in memory. An address stays until its time is over or somebody
//! finds nobody there. Called by `auth` and `compute`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pq_proto::Text;
use tokio::time::Instant;
use utils::timed_lru::{Generation, Lookup, Ttl};
use utils::{SingleFlight, TimedLru};

use super::{Compute, ControlPlane, ControlPlaneError, Reply};
use crate::metrics::{How, Metrics};
use crate::route::EndpointName;
use crate::scram::Verifier;

/// Addresses that are kept at most.
pub(crate) const ADDRESSES_MAX: usize = 4_000;
/// How long one is kept, however often it is used.
const ADDRESS_TTL: Duration = Duration::from_secs(240);

/// A compute, and which answer of the provider it came from.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) compute: Arc<Compute>,
    pub(crate) generation: Generation,
}

/// A provider behind a cache; see the module's text.
#[derive(Debug)]
pub(crate) struct Cached {
    provider: Box<dyn ControlPlane>,
    addresses: Mutex<TimedLru<EndpointName, Arc<Compute>>>,
    locating: SingleFlight<EndpointName, Result<Located, ControlPlaneError>>,
    waking: SingleFlight<EndpointName, Result<Located, ControlPlaneError>>,
    metrics: Metrics,
}

impl Cached {
    pub(crate) fn new(provider: Box<dyn ControlPlane>, metrics: Metrics) -> Self {
        Self {
            provider,
            addresses: Mutex::new(TimedLru::new(ADDRESSES_MAX)),
            locating: SingleFlight::new(),
            waking: SingleFlight::new(),
            metrics,
        }
    }

    /// The verifier of a role; `None` when the endpoint has no such role.
    pub(crate) fn verifier<'a>(
        &'a self,
        endpoint: &'a EndpointName,
        role: &'a Text,
    ) -> Reply<'a, Option<Verifier>> {
        self.provider.verifier(endpoint, role)
    }

    /// Where the compute is, or was when it was last asked for.
    pub(crate) async fn locate(&self, endpoint: &EndpointName) -> Result<Located, ControlPlaneError> {
        let known = self.known(endpoint);
        let how = if known.is_some() { "hit" } else { "miss" };
        self.metrics.cache_lookups.get_or_create(&How { how }).inc();
        if let Some(known) = known {
            return Ok(known);
        }
        let ask = || async { Ok(self.remember(endpoint, self.provider.locate(endpoint).await?)) };
        self.locating.run(endpoint.clone(), ask).await.0
    }

    /// Wakes the compute, because nobody was where `stale` says. Whoever comes late, when another one has woken it
    /// already, gets what that one got.
    pub(crate) async fn wake(
        self: &Arc<Self>,
        endpoint: &EndpointName,
        stale: Generation,
    ) -> Result<Located, ControlPlaneError> {
        let (cached, endpoint, name) = (Arc::clone(self), endpoint.clone(), endpoint.clone());
        // In a task of its own: a client that leaves must not stop what others wait for, nor let it begin anew.
        let wake = tokio::spawn(async move {
            cached.waking.run(endpoint.clone(), || cached.wake_unless_done(&endpoint, stale)).await.0
        });
        // Only a panic, or the end of the runtime, leaves it without an answer.
        wake.await.unwrap_or_else(|_| {
            Err(ControlPlaneError::StartFailed { endpoint: name, reason: "aborted".into() })
        })
    }

    async fn wake_unless_done(
        &self,
        endpoint: &EndpointName,
        stale: Generation,
    ) -> Result<Located, ControlPlaneError> {
        self.lock().invalidate(endpoint, stale);
        if let Some(newer) = self.known(endpoint) {
            return Ok(newer);
        }
        tracing::info!(%endpoint, "waking");
        let started = Instant::now();
        let woken = self.provider.wake(endpoint).await;
        let (how, seconds) =
            (if woken.is_ok() { "woken" } else { "failed" }, started.elapsed().as_secs_f64());
        self.metrics.wakes.get_or_create(&How { how }).inc();
        self.metrics.wake_seconds.observe(seconds);
        tracing::info!(%endpoint, how, seconds, "woke");
        Ok(self.remember(endpoint, woken?))
    }

    fn known(&self, endpoint: &EndpointName) -> Option<Located> {
        match self.lock().get(endpoint, Instant::now().into_std()) {
            Lookup::Hit { value, generation, .. } => Some(Located { compute: Arc::clone(value), generation }),
            Lookup::Expired | Lookup::Miss => None,
        }
    }

    fn remember(&self, endpoint: &EndpointName, compute: Arc<Compute>) -> Located {
        let now = Instant::now().into_std();
        let inserted =
            self.lock().insert(endpoint.clone(), Arc::clone(&compute), Ttl::absolute(ADDRESS_TTL), now);
        Located { compute, generation: inserted.generation }
    }

    /// Endpoints and addresses that are kept, in no order.
    pub(crate) fn entries(&self) -> Vec<(EndpointName, String)> {
        let mut addresses = self.lock();
        addresses.sweep(Instant::now().into_std());
        let mut entries = Vec::new();
        addresses.retain(|endpoint, compute| {
            entries.push((endpoint.clone(), compute.address.to_string()));
            true
        });
        entries
    }

    /// Endpoints that are being woken.
    pub(crate) fn waking(&self) -> usize {
        self.waking.in_flight()
    }

    fn lock(&self) -> MutexGuard<'_, TimedLru<EndpointName, Arc<Compute>>> {
        // Nothing panics under this lock.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// Counts; each wake waits for a permit.
    #[derive(Debug)]
    struct Counting {
        locates: AtomicUsize,
        wakes: AtomicUsize,
        go: Semaphore,
    }

    impl Counting {
        fn compute(&self, count: &AtomicUsize) -> Arc<Compute> {
            let port = u16::try_from(count.fetch_add(1, Ordering::Relaxed)).unwrap() + 1;
            let address = super::super::Address { host: "h".into(), port };
            Arc::new(Compute { address, tls: None, database: None })
        }
    }

    impl ControlPlane for Arc<Counting> {
        fn verifier<'a>(&'a self, _: &'a EndpointName, _: &'a Text) -> Reply<'a, Option<Verifier>> {
            Box::pin(async { Ok(None) })
        }

        fn locate<'a>(&'a self, _: &'a EndpointName) -> Reply<'a, Arc<Compute>> {
            Box::pin(async {
                tokio::task::yield_now().await;
                Ok(self.compute(&self.locates))
            })
        }

        fn wake<'a>(&'a self, _: &'a EndpointName) -> Reply<'a, Arc<Compute>> {
            Box::pin(async {
                self.go.acquire().await.unwrap().forget();
                Ok(self.compute(&self.wakes))
            })
        }
    }

    fn cached() -> (Arc<Counting>, Arc<Cached>, EndpointName) {
        let provider = Arc::new(Counting {
            locates: AtomicUsize::new(0),
            wakes: AtomicUsize::new(0),
            go: Semaphore::new(0),
        });
        let metrics = Metrics::new(&mut Default::default());
        let cached = Cached::new(Box::new(Arc::clone(&provider)), metrics);
        (provider, Arc::new(cached), "main".parse().unwrap())
    }

    #[tokio::test]
    async fn a_crowd_wakes_a_compute_once_whenever_each_of_it_comes() {
        let (provider, cached, main) = cached();
        let stale = cached.locate(&main).await.unwrap().generation;
        let crowd: Vec<_> = (0..100)
            .map(|_| {
                let (cached, main) = (Arc::clone(&cached), main.clone());
                tokio::spawn(async move { cached.wake(&main, stale).await.unwrap().generation })
            })
            .collect();
        provider.go.add_permits(100);
        let mut generations = Vec::new();
        for one in crowd {
            generations.push(one.await.unwrap());
        }
        generations.push(cached.wake(&main, stale).await.unwrap().generation);
        generations.dedup();
        assert_eq!(generations.len(), 1);
        assert_eq!(provider.wakes.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_client_that_leaves_does_not_stop_the_wake_of_others() {
        let (provider, cached, main) = cached();
        let stale = cached.locate(&main).await.unwrap().generation;
        let mut first = Box::pin(cached.wake(&main, stale));
        assert!(waits(&mut first).await);
        drop(first);
        let second = cached.wake(&main, stale);
        provider.go.add_permits(100);
        second.await.unwrap();
        assert_eq!(provider.wakes.load(Ordering::Relaxed), 1);
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

    #[tokio::test(start_paused = true)]
    async fn an_address_is_asked_for_once_and_again_when_its_time_is_over() {
        let (provider, cached, main) = cached();
        let (one, two) = tokio::join!(cached.locate(&main), cached.locate(&main));
        assert_eq!(one.unwrap().generation, two.unwrap().generation);
        cached.locate(&main).await.unwrap();
        assert_eq!(provider.locates.load(Ordering::Relaxed), 1);
        tokio::time::advance(ADDRESS_TTL).await;
        cached.locate(&main).await.unwrap();
        assert_eq!(provider.locates.load(Ordering::Relaxed), 2);
        assert_eq!(cached.entries(), [(main, "h:2".to_owned())]);
    }

    #[tokio::test]
    async fn a_compute_that_went_away_again_is_woken_again() {
        let (provider, cached, main) = cached();
        provider.go.add_permits(2);
        let stale = cached.locate(&main).await.unwrap().generation;
        let woken = cached.wake(&main, stale).await.unwrap().generation;
        assert!(cached.wake(&main, woken).await.unwrap().generation > woken);
        assert_eq!(provider.wakes.load(Ordering::Relaxed), 2);
    }
}
