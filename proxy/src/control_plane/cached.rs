//! [`Cached`]: a provider behind caches, asked once for everybody who asks at the same time.
//!
//! Here are the addresses: one stays until its time is over or somebody finds nobody there. Who may come in is in
//! [`super::cached_access`]. A provider that has everything in memory is asked every time. Called by `auth` and `compute`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument;
use utils::timed_lru::{Generation, Lookup, Ttl};
use utils::{Shutdown, SingleFlight, TimedLru};

use super::cached_access::AccessCache;
use super::idle::Uses;
use super::{Compute, ControlPlane, ControlPlaneError, Wanted};
use crate::metrics::{How, Metrics};
use crate::route::EndpointName;

/// Addresses that are kept at most.
pub(crate) const ADDRESSES_MAX: usize = 4_000;
/// How long one is kept, however often it is used.
const ADDRESS_TTL: Duration = Duration::from_secs(240);

/// How often is looked for changed files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A compute, and which answer of the provider it came from.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) compute: Arc<Compute>,
    pub(crate) generation: Generation,
}

/// A provider behind a cache; see the module's text.
#[derive(Debug)]
pub(crate) struct Cached {
    pub(super) provider: Box<dyn ControlPlane>,
    pub(super) access: AccessCache,
    pub(super) uses: Uses,
    addresses: Mutex<TimedLru<EndpointName, Arc<Compute>>>,
    locating: SingleFlight<EndpointName, Result<Located, ControlPlaneError>>,
    waking: SingleFlight<EndpointName, Result<Located, ControlPlaneError>>,
    pub(super) metrics: Metrics,
}

impl Cached {
    pub(crate) fn new(provider: Box<dyn ControlPlane>, metrics: Metrics) -> Self {
        Self {
            access: AccessCache::new(provider.caching()),
            provider,
            uses: Uses::default(),
            addresses: Mutex::new(TimedLru::new(ADDRESSES_MAX)),
            locating: SingleFlight::new(),
            waking: SingleFlight::new(),
            metrics,
        }
    }

    /// Where the compute is, or was when it was last asked for.
    pub(crate) async fn locate(self: &Arc<Self>, wanted: &Wanted) -> Result<Located, ControlPlaneError> {
        if self.provider.caching().is_none() {
            return self.locate_in_memory(wanted).await;
        }
        let known = self.known(&wanted.endpoint);
        let how = if known.is_some() { "hit" } else { "miss" };
        self.metrics.cache_lookups.get_or_create(&How { how }).inc();
        if let Some(known) = known {
            return Ok(known);
        }
        if let Some(error) = self.access.closed(&wanted.endpoint) {
            return Err(error);
        }
        let (cached, wanted) = (Arc::clone(self), wanted.clone());
        self.undisturbed(wanted.endpoint.clone(), async move {
            cached.locating.run(wanted.endpoint.clone(), || cached.ask_where(&wanted)).await.0
        })
        .await
    }

    /// Asks again, because somebody else was where `stale` says.
    pub(crate) async fn locate_again(
        self: &Arc<Self>,
        wanted: &Wanted,
        stale: Generation,
    ) -> Result<Located, ControlPlaneError> {
        self.lock().invalidate(&wanted.endpoint, stale);
        self.locate(wanted).await
    }

    /// What the provider says now. An entry is kept all the same: its generation tells who saw the same address.
    async fn locate_in_memory(&self, wanted: &Wanted) -> Result<Located, ControlPlaneError> {
        let compute = self.provider.locate(wanted).await?;
        match self.known(&wanted.endpoint) {
            Some(known) if Arc::ptr_eq(&known.compute, &compute) => Ok(known),
            _ => Ok(self.remember(&wanted.endpoint, compute)),
        }
    }

    async fn ask_where(&self, wanted: &Wanted) -> Result<Located, ControlPlaneError> {
        self.count_request("locate");
        let compute = self.provider.locate(wanted).await;
        if let Err(error) = &compute {
            self.access.remember_closed(&wanted.endpoint, error);
        }
        Ok(self.remember(&wanted.endpoint, compute?))
    }

    /// Wakes the compute, because nobody was where `stale` says. Whoever comes late, when another one has woken it
    /// already, gets what that one got.
    pub(crate) async fn wake(
        self: &Arc<Self>,
        wanted: &Wanted,
        stale: Generation,
    ) -> Result<Located, ControlPlaneError> {
        let (cached, wanted) = (Arc::clone(self), wanted.clone());
        self.undisturbed(wanted.endpoint.clone(), async move {
            cached.waking.run(wanted.endpoint.clone(), || cached.wake_unless_done(&wanted, stale)).await.0
        })
        .await
    }

    /// Runs in a task of its own: a client that leaves must not stop what others wait for, nor let it begin anew.
    pub(super) async fn undisturbed<T: Send + 'static>(
        &self,
        endpoint: EndpointName,
        work: impl Future<Output = Result<T, ControlPlaneError>> + Send + 'static,
    ) -> Result<T, ControlPlaneError> {
        // Only a panic, or the end of the runtime, leaves it without an answer.
        tokio::spawn(work.in_current_span()).await.unwrap_or(Err(ControlPlaneError::Unavailable(endpoint)))
    }

    pub(super) fn count_request(&self, how: &'static str) {
        if self.provider.caching().is_some() {
            self.metrics.control_plane_requests.get_or_create(&How { how }).inc();
        }
    }

    async fn wake_unless_done(
        &self,
        wanted: &Wanted,
        stale: Generation,
    ) -> Result<Located, ControlPlaneError> {
        let endpoint = &wanted.endpoint;
        self.lock().invalidate(endpoint, stale);
        if let Some(newer) = self.known(endpoint) {
            return Ok(newer);
        }
        tracing::info!(%endpoint, "waking");
        let started = Instant::now();
        self.count_request("wake");
        let woken = self.provider.wake(wanted).await;
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

    /// Has the provider read its files again at SIGHUP and when one has changed, until the process ends.
    pub(crate) async fn keep_current(self: Arc<Self>, shutdown: Shutdown) {
        let mut asked_for = shutdown.reloads();
        loop {
            let is_asked_for = tokio::select! {
                () = asked_for.next() => true,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            let cached = Arc::clone(&self);
            let reloaded = tokio::task::spawn_blocking(move || {
                (is_asked_for || cached.provider.is_outdated()).then(|| cached.provider.reload())
            });
            match reloaded.await {
                Ok(Some(Ok(()))) => tracing::info!("the control plane's files were read again"),
                Ok(Some(Err(error))) => {
                    tracing::error!(
                        error,
                        "the control plane's files cannot be used: what was read before stays"
                    );
                }
                Ok(None) | Err(_) => {}
            }
        }
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

    use pq_proto::Text;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::control_plane::{Access, Caching, Reply};

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
        fn access<'a>(&'a self, _: &'a Wanted, _: &'a Text) -> Reply<'a, Access> {
            Box::pin(async { Ok(Access::default()) })
        }

        fn locate<'a>(&'a self, _: &'a Wanted) -> Reply<'a, Arc<Compute>> {
            Box::pin(async {
                tokio::task::yield_now().await;
                Ok(self.compute(&self.locates))
            })
        }

        fn wake<'a>(&'a self, _: &'a Wanted) -> Reply<'a, Arc<Compute>> {
            Box::pin(async {
                self.go.acquire().await.unwrap().forget();
                Ok(self.compute(&self.wakes))
            })
        }

        fn caching(&self) -> Option<Caching> {
            Some(Caching { access: Duration::from_secs(60), negative: Duration::from_secs(5) })
        }
    }

    fn cached() -> (Arc<Counting>, Arc<Cached>, Wanted) {
        let provider = Arc::new(Counting {
            locates: AtomicUsize::new(0),
            wakes: AtomicUsize::new(0),
            go: Semaphore::new(0),
        });
        let metrics = Metrics::new(&mut Default::default());
        let cached = Cached::new(Box::new(Arc::clone(&provider)), metrics);
        (provider, Arc::new(cached), Wanted::for_test("main"))
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
        assert_eq!(cached.entries(), [(main.endpoint, "h:2".to_owned())]);
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
