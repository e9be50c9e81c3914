//! [`AddressCache`]: caches the addresses of computes, and wakes computes. One lookup serves all clients that want
//! the same endpoint at the same time.
//!
//! An address is kept until its time is over, or until a client finds that its compute is not there. A provider that
//! has everything in memory is asked every time. An error is kept too, for a shorter time: see
//! [`ControlPlaneError::kept_for`]. Nothing that is kept depends on the client that asked for it. Called by `compute`,
//! and by [`super::access_cache`] where only a compute that runs can answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use utils::SingleFlight;
use utils::timed_lru::Generation;

use super::compute_address::Compute;
use super::endpoint_rules::EndpointRules;
use super::error::ControlPlaneError;
use super::idle::IdleSuspender;
use super::lookup_cache::{CacheLookup, LookupCache};
use super::lookup_order::Epoch;
use super::provider::LookupContext;
use super::shared_provider::SharedProvider;
use crate::config::{CacheOptions, Caches};
use crate::limits::rate_limit::Limit;
use crate::observe::cache_metrics::Source;
use crate::observe::metrics::ByResult;
use crate::route::EndpointName;

/// Cache for a provider that has everything in memory. Its entries answer no lookup; their generations tell which
/// clients have got the same address.
const IN_MEMORY: CacheOptions = CacheOptions::new(10_000, Duration::from_secs(300));
/// Endpoints whose wakes are counted at most; those that were woken longest ago are forgotten first.
const WAKE_LIMITS_MAX: usize = 10_000;

/// A compute, and which answer of the provider it came from.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) compute: Arc<Compute>,
    pub(crate) source: Source,
    /// `None` when the answer is not kept.
    pub(super) generation: Option<Generation>,
}

type LocateResult = Result<Located, ControlPlaneError>;

/// Cache of addresses.
#[derive(Debug)]
pub(super) struct AddressCache {
    provider: Arc<SharedProvider>,
    rules: Arc<EndpointRules>,
    idle: Arc<IdleSuspender>,
    pub(super) entries: LookupCache<EndpointName, Arc<Compute>, ControlPlaneError>,
    negative_ttl: Duration,
    /// Lookups and wakes that are under way.
    in_flight: SingleFlight<(EndpointName, Epoch), LocateResult>,
    wakes: Arc<Limit<EndpointName>>,
}

impl AddressCache {
    pub(super) fn new(
        provider: Arc<SharedProvider>,
        rules: Arc<EndpointRules>,
        idle: Arc<IdleSuspender>,
        caches: &Caches,
    ) -> Self {
        let options = if provider.plane.is_in_memory() { &IN_MEMORY } else { &caches.computes };
        let (order, metrics) = (Arc::clone(&provider.order), provider.metrics.caches.clone());
        Self {
            rules,
            idle,
            entries: LookupCache::new("compute", options, order, metrics),
            negative_ttl: options.negative_ttl(),
            in_flight: SingleFlight::new(),
            wakes: Arc::new(Limit::new(caches.wakes, WAKE_LIMITS_MAX)),
            provider,
        }
    }

    /// How often one endpoint may be woken.
    pub(super) fn wakes(&self) -> Arc<Limit<EndpointName>> {
        Arc::clone(&self.wakes)
    }

    /// Endpoints whose compute is being looked up or woken.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.in_flight()
    }

    /// Returns the compute's address from the cache, or looks it up.
    pub(super) async fn locate(self: &Arc<Self>, context: &LookupContext) -> LocateResult {
        if self.provider.plane.is_in_memory() {
            return self.locate_in_memory(context).await;
        }
        let found = self.entries.find(&context.endpoint);
        let label = found.label();

        match found {
            CacheLookup::Hit(hit) => {
                self.entries.count_lookup(label);
                let generation = Some(hit.generation);
                return Ok(Located { compute: hit.value, source: Source::Cached, generation });
            }
            CacheLookup::Negative(hit) => {
                self.entries.count_lookup(label);
                return Err(hit.value);
            }
            CacheLookup::Expired | CacheLookup::Miss => {}
        }
        if let Some(error) = self.rules.closed(&context.endpoint) {
            self.entries.count_lookup("negative");
            return Err(error);
        }

        let (located, is_own) = self.look_up(context, false).await;
        self.entries.count_lookup(if is_own { label } else { "shared" });
        located
    }

    /// Looks up again, because another server answered at the address `stale`.
    pub(super) async fn locate_again(
        self: &Arc<Self>,
        context: &LookupContext,
        stale: &Located,
    ) -> LocateResult {
        self.drop_stale(&context.endpoint, stale.generation);
        let newer = self.locate(context).await?;
        if newer.compute.address != stale.compute.address {
            self.count_spurious(stale);
        }
        Ok(newer)
    }

    /// Wakes the compute, because no server answered at the address `stale`. A caller that comes after the compute
    /// was woken for another one gets that answer.
    pub(super) async fn wake(self: &Arc<Self>, context: &LookupContext, stale: &Located) -> LocateResult {
        self.count_spurious(stale);
        self.wake_unless_newer(context, stale.generation).await
    }

    /// Wakes the compute, unless an answer newer than `stale` is kept. `None` when no address was known.
    pub(super) async fn wake_unless_newer(
        self: &Arc<Self>,
        context: &LookupContext,
        stale: Option<Generation>,
    ) -> LocateResult {
        self.drop_stale(&context.endpoint, stale);
        self.look_up(context, true).await.0
    }

    fn drop_stale(&self, endpoint: &EndpointName, stale: Option<Generation>) {
        if let Some(generation) = stale {
            self.entries.drop_stale(endpoint, generation);
        }
    }

    fn count_spurious(&self, stale: &Located) {
        if stale.source == Source::Cached {
            self.entries.count_spurious_hit();
        }
    }

    /// What the provider answers now. An entry is kept all the same: its generation tells which clients saw the same
    /// address.
    async fn locate_in_memory(&self, context: &LookupContext) -> LocateResult {
        let start = self.provider.order.begin();
        let compute = self.provider.plane.locate(context).await?;
        let source = Source::Unwoken;
        match self.entries.find(&context.endpoint) {
            CacheLookup::Hit(hit) if Arc::ptr_eq(&hit.value, &compute) => {
                Ok(Located { compute, source, generation: Some(hit.generation) })
            }
            _ => {
                let endpoint = context.endpoint.clone();
                let generation = self.entries.insert(endpoint, Arc::clone(&compute), None, start);
                Ok(Located { compute, source, generation })
            }
        }
    }

    /// Asks the provider, or waits for the lookup of another client. Returns the answer, and whether this caller made
    /// the request.
    async fn look_up(self: &Arc<Self>, context: &LookupContext, wake: bool) -> (LocateResult, bool) {
        let (cache, context) = (Arc::clone(self), context.clone());
        let key = (context.endpoint.clone(), self.provider.order.epoch(&context.endpoint));
        let answer = self.provider.in_own_task(context.endpoint.clone(), async move {
            let is_own = AtomicBool::new(false);
            let ask = || cache.ask_unless_known(&context, wake, &is_own);
            let (located, _) = cache.in_flight.run(key, ask).await;
            Ok((located, is_own.into_inner()))
        });
        answer.await.unwrap_or_else(|error| (Err(error), true))
    }

    async fn ask_unless_known(
        self: &Arc<Self>,
        context: &LookupContext,
        wake: bool,
        is_own: &AtomicBool,
    ) -> LocateResult {
        let endpoint = &context.endpoint;
        let source = Source::Uncached;
        match self.entries.find(endpoint) {
            CacheLookup::Hit(hit) => {
                return Ok(Located { compute: hit.value, source, generation: Some(hit.generation) });
            }
            CacheLookup::Negative(hit) => return Err(hit.value),
            CacheLookup::Expired | CacheLookup::Miss => {}
        }
        if wake || self.provider.plane.locating_wakes() {
            let limit =
                |retry_after| ControlPlaneError::TooManyWakes { endpoint: endpoint.clone(), retry_after };
            self.wakes.try_acquire(endpoint).map_err(limit)?;
        }

        // The compute is not suspended before this function returns.
        let _in_use = self.idle.enter(endpoint).await;
        is_own.store(true, Ordering::Relaxed);
        let start = self.provider.order.begin();
        let answer = if wake { self.ask_to_wake(context).await } else { self.ask_to_locate(context).await };

        match answer {
            Ok(compute) => {
                let project = self.rules.project(endpoint);
                let generation = self.entries.insert(endpoint.clone(), Arc::clone(&compute), project, start);
                Ok(Located { compute, source, generation })
            }
            Err(error) => {
                self.rules.insert_error(endpoint, &error, start);
                if let Some(ttl) = error.kept_for(self.negative_ttl) {
                    let project = self.rules.project(endpoint);
                    self.entries.insert_negative(endpoint.clone(), error.clone(), ttl, project, start);
                }
                Err(error)
            }
        }
    }

    async fn ask_to_locate(&self, context: &LookupContext) -> Result<Arc<Compute>, ControlPlaneError> {
        self.provider.count_request("locate");
        self.provider.plane.locate(context).await
    }

    async fn ask_to_wake(&self, context: &LookupContext) -> Result<Arc<Compute>, ControlPlaneError> {
        let endpoint = &context.endpoint;
        tracing::info!(%endpoint, "waking compute");
        let begin = Instant::now();
        self.provider.count_request("wake");
        let woken = self.provider.plane.wake(context).await;

        let (result, seconds) =
            (if woken.is_ok() { "woken" } else { "failed" }, begin.elapsed().as_secs_f64());
        self.provider.metrics.wakes.get_or_create(&ByResult { result }).inc();
        self.provider.metrics.wake_seconds.observe(seconds);
        tracing::info!(%endpoint, result, seconds, "wake finished");
        woken
    }

    /// Removes expired entries, and wakes that no longer count.
    pub(super) fn sweep(&self) {
        self.entries.sweep();
        self.wakes.sweep();
    }
}
