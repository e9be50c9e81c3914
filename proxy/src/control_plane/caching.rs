//! [`Cached`]: a provider behind caches, asked once for everybody who asks at the same time.
//!
//! Here are the addresses: one stays until its time is over or somebody finds nobody there. Who may come in is in
//! [`super::access_cache`]. A provider that has everything in memory is asked every time. An error is kept too, for a
//! shorter time: that of an endpoint that does not exist, or a second where something went wrong. Nothing that is
//! kept depends on who asked for it. Called by `auth` and `compute`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument;
use utils::SingleFlight;
use utils::timed_lru::Generation;

use super::access_cache::AccessCache;
use super::compute_address::Compute;
use super::error::ControlPlaneError;
use super::idle::Uses;
use super::lookup_cache::{Cache, Found, Questions};
use super::provider::{ControlPlane, Wanted};
use crate::config::{CacheOptions, Caches};
use crate::limits::rate_limit::Limit;
use crate::observe::cache_metrics::Source;
use crate::observe::metrics::{How, Metrics};
use crate::peers::Peers;
use crate::route::EndpointName;

/// What is remembered of a provider that has everything in memory: not what it said, but who heard it.
const IN_MEMORY: CacheOptions = CacheOptions::new(10_000, Duration::from_secs(300));
/// Endpoints whose wakes are counted at most; those that were woken longest ago are forgotten first.
const WAKE_LIMITS_MAX: usize = 10_000;

/// A compute, and which answer of the provider it came from.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) compute: Arc<Compute>,
    pub(crate) source: Source,
    /// `None` when the answer is not kept.
    generation: Option<Generation>,
}

/// A provider behind a cache; see the module's text.
#[derive(Debug)]
pub(crate) struct Cached {
    pub(super) provider: Box<dyn ControlPlane>,
    pub(super) access: AccessCache,
    pub(super) uses: Uses,
    /// Processes that may use the same computes.
    pub(super) peers: OnceLock<Peers>,
    pub(super) questions: Arc<Questions>,
    pub(super) addresses: Cache<EndpointName, Arc<Compute>, ControlPlaneError>,
    negative_ttl: Duration,
    /// Where a compute is, woken or not. By the last invalidation, too: who comes after it does not wait for an answer
    /// from before.
    asking: SingleFlight<(EndpointName, u64), Result<Located, ControlPlaneError>>,
    wakes: Arc<Limit<EndpointName>>,
    pub(crate) metrics: Metrics,
}

impl Cached {
    pub(crate) fn new(provider: Box<dyn ControlPlane>, caches: &Caches, metrics: Metrics) -> Self {
        let questions = Arc::<Questions>::default();
        let computes = if provider.is_in_memory() { &IN_MEMORY } else { &caches.computes };
        Self {
            access: AccessCache::new(caches, &questions, &metrics),
            provider,
            uses: Uses::default(),
            peers: OnceLock::new(),
            addresses: Cache::new("compute", computes, Arc::clone(&questions), metrics.caches.clone()),
            negative_ttl: computes.negative_ttl(),
            questions,
            asking: SingleFlight::new(),
            wakes: Arc::new(Limit::new(caches.wakes, WAKE_LIMITS_MAX)),
            metrics,
        }
    }

    /// How often one endpoint may be woken; to be changed while clients come.
    pub(crate) fn wakes(&self) -> Arc<Limit<EndpointName>> {
        Arc::clone(&self.wakes)
    }

    /// Where the compute is, or was when it was last asked for.
    pub(crate) async fn locate(self: &Arc<Self>, wanted: &Wanted) -> Result<Located, ControlPlaneError> {
        if self.provider.is_in_memory() {
            return self.locate_in_memory(wanted).await;
        }
        let found = self.addresses.find(&wanted.endpoint);
        let word = found.word();
        match found {
            Found::Hit(hit) => {
                self.addresses.looked_up(word);
                let generation = Some(hit.generation);
                return Ok(Located { compute: hit.value, source: Source::Cached, generation });
            }
            Found::Negative(hit) => {
                self.addresses.looked_up(word);
                return Err(hit.value);
            }
            Found::Expired | Found::Miss => {}
        }
        if let Some(error) = self.access.closed(&wanted.endpoint) {
            self.addresses.looked_up("negative");
            return Err(error);
        }
        let (located, has_asked) = self.ask(wanted, false).await;
        self.addresses.looked_up(if has_asked { word } else { "shared" });
        located
    }

    /// Asks again, because somebody else was where `stale` says.
    pub(crate) async fn locate_again(
        self: &Arc<Self>,
        wanted: &Wanted,
        stale: &Located,
    ) -> Result<Located, ControlPlaneError> {
        self.drop_stale(&wanted.endpoint, stale);
        let newer = self.locate(wanted).await?;
        if newer.compute.address != stale.compute.address {
            self.was_spurious(stale);
        }
        Ok(newer)
    }

    /// Wakes the compute, because nobody was where `stale` says. Whoever comes late, when another one has woken it
    /// already, gets what that one got.
    pub(crate) async fn wake(
        self: &Arc<Self>,
        wanted: &Wanted,
        stale: &Located,
    ) -> Result<Located, ControlPlaneError> {
        self.drop_stale(&wanted.endpoint, stale);
        self.was_spurious(stale);
        self.ask(wanted, true).await.0
    }

    /// The same, because nobody was there when the address of this answer was known. `None` when none was.
    pub(super) async fn wake_slept(
        self: &Arc<Self>,
        wanted: &Wanted,
        slept_at: Option<Generation>,
    ) -> Result<Located, ControlPlaneError> {
        if let Some(generation) = slept_at {
            self.addresses.drop_stale(&wanted.endpoint, generation);
        }
        self.ask(wanted, true).await.0
    }

    fn drop_stale(&self, endpoint: &EndpointName, stale: &Located) {
        if let Some(generation) = stale.generation {
            self.addresses.drop_stale(endpoint, generation);
        }
    }

    fn was_spurious(&self, stale: &Located) {
        if stale.source == Source::Cached {
            self.addresses.was_spurious();
        }
    }

    /// What the provider says now. An entry is kept all the same: its generation tells who saw the same address.
    async fn locate_in_memory(&self, wanted: &Wanted) -> Result<Located, ControlPlaneError> {
        let question = self.questions.ask();
        let compute = self.provider.locate(wanted).await?;
        let source = Source::Unwoken;
        match self.addresses.find(&wanted.endpoint) {
            Found::Hit(hit) if Arc::ptr_eq(&hit.value, &compute) => {
                Ok(Located { compute, source, generation: Some(hit.generation) })
            }
            _ => {
                let kept = self.addresses.keep(wanted.endpoint.clone(), Arc::clone(&compute), None, question);
                Ok(Located { compute, source, generation: kept })
            }
        }
    }

    /// Asks the provider, or waits for whoever does already; and whether it was this caller's question that was answered.
    async fn ask(
        self: &Arc<Self>,
        wanted: &Wanted,
        wake: bool,
    ) -> (Result<Located, ControlPlaneError>, bool) {
        let (cached, wanted) = (Arc::clone(self), wanted.clone());
        let key = (wanted.endpoint.clone(), self.questions.epoch(&wanted.endpoint));
        let asked = self.undisturbed(wanted.endpoint.clone(), async move {
            let has_asked = AtomicBool::new(false);
            let ask = || cached.ask_unless_done(&wanted, wake, &has_asked);
            let (located, _) = cached.asking.run(key, ask).await;
            Ok((located, has_asked.into_inner()))
        });
        asked.await.unwrap_or_else(|error| (Err(error), true))
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
        if !self.provider.is_in_memory() {
            self.metrics.control_plane_requests.get_or_create(&How { how }).inc();
        }
    }

    async fn ask_unless_done(
        self: &Arc<Self>,
        wanted: &Wanted,
        wake: bool,
        has_asked: &AtomicBool,
    ) -> Result<Located, ControlPlaneError> {
        let endpoint = &wanted.endpoint;
        let source = Source::Uncached;
        match self.addresses.find(endpoint) {
            Found::Hit(hit) => {
                return Ok(Located { compute: hit.value, source, generation: Some(hit.generation) });
            }
            Found::Negative(hit) => return Err(hit.value),
            Found::Expired | Found::Miss => {}
        }
        if wake || self.provider.locating_wakes() {
            let limit =
                |retry_after| ControlPlaneError::TooManyWakes { endpoint: endpoint.clone(), retry_after };
            self.wakes.take(endpoint).map_err(limit)?;
        }
        // Nobody stops it until the end of this.
        let _in_use = self.in_use(endpoint).await;
        has_asked.store(true, Ordering::Relaxed);
        let question = self.questions.ask();
        let answer = if wake { self.wake_now(wanted).await } else { self.locate_now(wanted).await };
        match answer {
            Ok(compute) => {
                let project = self.access.project(endpoint);
                let kept = self.addresses.keep(endpoint.clone(), Arc::clone(&compute), project, question);
                Ok(Located { compute, source, generation: kept })
            }
            Err(error) => {
                self.access.remember_closed(endpoint, &error, question);
                if let Some(ttl) = error.kept_for(self.negative_ttl) {
                    let project = self.access.project(endpoint);
                    self.addresses.keep_negative(endpoint.clone(), error.clone(), ttl, project, question);
                }
                Err(error)
            }
        }
    }

    async fn locate_now(&self, wanted: &Wanted) -> Result<Arc<Compute>, ControlPlaneError> {
        self.count_request("locate");
        self.provider.locate(wanted).await
    }

    async fn wake_now(&self, wanted: &Wanted) -> Result<Arc<Compute>, ControlPlaneError> {
        let endpoint = &wanted.endpoint;
        tracing::info!(%endpoint, "waking");
        let started = Instant::now();
        self.count_request("wake");
        let woken = self.provider.wake(wanted).await;
        let (how, seconds) =
            (if woken.is_ok() { "woken" } else { "failed" }, started.elapsed().as_secs_f64());
        self.metrics.wakes.get_or_create(&How { how }).inc();
        self.metrics.wake_seconds.observe(seconds);
        tracing::info!(%endpoint, how, seconds, "woke");
        woken
    }

    /// Endpoints and addresses that are kept, in no order.
    pub(crate) fn entries(&self) -> Vec<(EndpointName, String)> {
        self.addresses.map(|endpoint, compute| (endpoint.clone(), compute.address.to_string()))
    }

    /// Endpoints whose compute is being asked for or woken.
    pub(crate) fn waking(&self) -> usize {
        self.asking.in_flight()
    }

    /// Removes what has expired from the caches, and what has leaked from the limits.
    pub(super) fn sweep(&self) {
        self.addresses.sweep();
        self.access.sweep();
        self.wakes.sweep();
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod stranger_tests;
