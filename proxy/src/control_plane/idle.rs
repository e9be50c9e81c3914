//! [`IdleSuspender`]: suspends computes that have had no session for `suspend_after_seconds`.
//!
//! A session holds an [`InUse`] from before it looks for its compute until its end, and a wake holds one of its own, because
//! the client that it was for may have left: a compute with a session, or one that is being woken, is never idle. A
//! client that comes while a compute is being stopped waits until that is done, and wakes it again.
//!
//! Processes that have replaced each other use the same computes: the one that stops them asks the others at each look what
//! they use, and it suspends from then on what they have used. While one of them does not answer, nothing is suspended. A
//! compute that no session has used is not suspended either: nothing is known of it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use utils::Shutdown;

use super::shared_provider::SharedProvider;
use crate::observe::metrics::ByResult;
use crate::peers::{Peers, Used};
use crate::route::EndpointName;

/// How often the suspender looks for idle computes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Suspends idle computes, and keeps those that are in use from it.
#[derive(Debug)]
pub(super) struct IdleSuspender {
    provider: Arc<SharedProvider>,
    uses: Arc<Uses>,
    /// Processes that may use the same computes.
    peers: OnceLock<Peers>,
}

/// Endpoints that a session has used.
#[derive(Debug, Default)]
struct Uses {
    endpoints: Mutex<HashMap<EndpointName, Use>>,
    stopped: Notify,
}

#[derive(Debug)]
struct Use {
    sessions: usize,
    /// When the last one ended.
    idle_since: Instant,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Running, or not known to be stopped.
    Awake,
    Stopping,
    /// Stopped, until a session uses it again.
    Stopped,
}

/// An endpoint is in use for as long as this lives.
#[derive(Debug)]
pub(crate) struct InUse {
    uses: Arc<Uses>,
    endpoint: EndpointName,
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(used) = self.uses.endpoints.lock().get_mut(&self.endpoint) {
            used.sessions -= 1;
            used.idle_since = Instant::now();
        }
    }
}

impl Uses {
    /// Counts a session, unless the endpoint is being stopped.
    fn enter(&self, endpoint: &EndpointName) -> bool {
        let mut endpoints = self.endpoints.lock();
        let fresh = || Use { sessions: 0, idle_since: Instant::now(), state: State::Awake };
        let used = endpoints.entry(endpoint.clone()).or_insert_with(fresh);
        if used.state == State::Stopping {
            return false;
        }
        used.sessions += 1;
        used.state = State::Awake;
        true
    }

    /// Marks the endpoints that were idle for longer than their limit as stopping, and returns them. Forgets endpoints with
    /// neither sessions nor a limit.
    fn begin_to_stop(&self, limits: &HashMap<EndpointName, Duration>) -> Vec<EndpointName> {
        let mut endpoints = self.endpoints.lock();
        endpoints.retain(|name, used| used.sessions > 0 || limits.contains_key(name));
        let is_idle = |name: &EndpointName, used: &Use| {
            used.sessions == 0
                && used.state == State::Awake
                && limits.get(name).is_some_and(|limit| used.idle_since.elapsed() >= *limit)
        };
        let idle = endpoints.iter_mut().filter(|(name, used)| is_idle(name, used));
        idle.map(|(name, used)| {
            used.state = State::Stopping;
            name.clone()
        })
        .collect()
    }

    fn list(&self) -> Vec<Used> {
        let endpoints = self.endpoints.lock();
        let awake = endpoints.iter().filter(|(_, used)| used.sessions > 0 || used.state != State::Stopped);
        awake
            .map(|(name, used)| {
                let in_use = used.sessions > 0 || used.state == State::Stopping;
                let idle = if in_use { Duration::ZERO } else { used.idle_since.elapsed() };
                let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
                Used { endpoint: name.to_string(), in_use, idle_ms }
            })
            .collect()
    }

    /// Merges the uses of peers: an endpoint that a peer uses counts as used here until now.
    fn merge(&self, told: Vec<Used>) {
        let (mut endpoints, now) = (self.endpoints.lock(), Instant::now());
        for Used { endpoint, in_use, idle_ms } in told {
            let Ok(endpoint) = endpoint.parse::<EndpointName>() else { continue };
            let idle_since = now.checked_sub(Duration::from_millis(idle_ms)).unwrap_or(now);
            let used = endpoints.entry(endpoint);
            let used = used.or_insert(Use { sessions: 0, idle_since, state: State::Awake });
            used.idle_since = used.idle_since.max(idle_since);
            if in_use && used.state == State::Stopped {
                used.state = State::Awake;
            }
        }
    }

    fn mark_stopped(&self, endpoint: &EndpointName) {
        if let Some(used) = self.endpoints.lock().get_mut(endpoint) {
            used.state = State::Stopped;
        }
        self.stopped.notify_waiters();
    }
}

impl IdleSuspender {
    pub(super) fn new(provider: Arc<SharedProvider>) -> Self {
        Self { provider, uses: Arc::default(), peers: OnceLock::new() }
    }

    /// Keeps the endpoint's compute from being suspended. Waits while it is being suspended.
    pub(super) async fn enter(&self, endpoint: &EndpointName) -> InUse {
        loop {
            // Made before the look: an end of the suspension in between is not missed.
            let stopped = self.uses.stopped.notified();
            if self.uses.enter(endpoint) {
                return InUse { uses: Arc::clone(&self.uses), endpoint: endpoint.clone() };
            }
            stopped.await;
        }
    }

    /// Processes that may use the same computes; to be set once.
    pub(super) fn set_peers(&self, peers: Peers) {
        let _ = self.peers.set(peers);
    }

    /// The endpoints that this process uses, for its peers.
    pub(super) fn uses(&self) -> Vec<Used> {
        self.uses.list()
    }

    /// Learns what the peers use. False when one of them does not answer.
    pub(super) async fn learn_uses_of_peers(&self) -> bool {
        let Some(peers) = self.peers.get() else { return true };
        let Some(told) = peers.uses().await else { return false };
        self.uses.merge(told);
        true
    }

    /// Suspends idle computes until a drain begins: then another process may have sessions there already.
    pub(super) async fn run(self: Arc<Self>, shutdown: Shutdown) {
        let mut draining = std::pin::pin!(shutdown.draining());
        loop {
            tokio::select! {
                () = &mut draining => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let limits = self.provider.plane.idle_limits();
            if !limits.is_empty() && !self.learn_uses_of_peers().await {
                continue;
            }
            for endpoint in self.uses.begin_to_stop(&limits) {
                let suspender = Arc::clone(&self);
                // In a task of its own: one that takes long does not hold the others up.
                tokio::spawn(async move { suspender.suspend(&endpoint).await });
            }
        }
    }

    async fn suspend(&self, endpoint: &EndpointName) {
        tracing::info!(%endpoint, "suspending idle compute");
        let stopped = self.provider.plane.stop(endpoint).await;
        let result = if stopped.is_ok() { "stopped" } else { "failed" };
        if let Err(error) = stopped {
            tracing::error!(%endpoint, %error, "idle compute was not suspended");
        }
        self.provider.metrics.suspends.get_or_create(&ByResult { result }).inc();
        self.uses.mark_stopped(endpoint);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use pq_proto::Text;
    use tokio::sync::Semaphore;
    use utils::shutdown::Signal;

    use super::*;
    use crate::config::Caches;
    use crate::control_plane::{
        Access, CachingControlPlane, Compute, ControlPlane, LookupContext, NoControlPlane, Reply,
    };
    use crate::observe::metrics::Metrics;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Has one endpoint that may be stopped; each stop waits for a permit.
    #[derive(Debug)]
    struct Stoppable {
        stops: AtomicUsize,
        go: Semaphore,
        /// Each wake waits for a permit of these.
        awake: Semaphore,
    }

    impl ControlPlane for Arc<Stoppable> {
        fn access<'a>(&'a self, context: &'a LookupContext, role: &'a Text) -> Reply<'a, Access> {
            NoControlPlane.access(context, role)
        }

        fn locate<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
            let compute = Compute { address: "h:1".parse().unwrap(), tls: None, database: None };
            Box::pin(std::future::ready(Ok(Arc::new(compute))))
        }

        fn wake<'a>(&'a self, _: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
            Box::pin(async {
                self.awake.acquire().await.unwrap().forget();
                Ok(Arc::new(Compute { address: "h:1".parse().unwrap(), tls: None, database: None }))
            })
        }

        fn idle_limits(&self) -> HashMap<EndpointName, Duration> {
            [("main".parse().unwrap(), LIMIT)].into()
        }

        fn stop<'a>(&'a self, _: &'a EndpointName) -> Reply<'a, ()> {
            Box::pin(async {
                self.stops.fetch_add(1, Ordering::Relaxed);
                self.go.acquire().await.unwrap().forget();
                Ok(())
            })
        }
    }

    struct Scene {
        provider: Arc<Stoppable>,
        cached: Arc<CachingControlPlane>,
        shutdown: Shutdown,
        main: EndpointName,
    }

    impl Scene {
        fn new(permits: usize) -> Self {
            let provider = Arc::new(Stoppable {
                stops: AtomicUsize::new(0),
                go: Semaphore::new(permits),
                awake: Semaphore::new(0),
            });
            let metrics = Metrics::new(&mut Default::default());
            let cached = Arc::new(CachingControlPlane::new(
                Box::new(Arc::clone(&provider)),
                &Caches::default(),
                metrics,
            ));
            let shutdown = Shutdown::new();
            tokio::spawn(Arc::clone(&cached).suspend_idle(shutdown.clone()));
            Self { provider, cached, shutdown, main: "main".parse().unwrap() }
        }

        /// Lets time pass, and returns the number of stops since the beginning.
        async fn stops_after(&self, time: Duration) -> usize {
            tokio::time::sleep(time).await;
            self.provider.stops.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn suspender_stops_idle_once_and_used_never() {
        let scene = Scene::new(10);
        assert_eq!(scene.stops_after(LIMIT * 2).await, 0);
        let first = scene.cached.in_use(&scene.main).await;
        let second = scene.cached.in_use(&scene.main).await;
        drop(first);
        assert_eq!(scene.stops_after(LIMIT * 2).await, 0);
        drop(second);
        assert_eq!(scene.stops_after(LIMIT / 2).await, 0);
        assert_eq!(scene.stops_after(LIMIT).await, 1);
        assert_eq!(scene.stops_after(LIMIT * 5).await, 1);
        drop(scene.cached.in_use(&scene.main).await);
        assert_eq!(scene.stops_after(LIMIT * 2).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn enter_waits_for_the_end_of_a_stop() {
        let scene = Scene::new(0);
        drop(scene.cached.in_use(&scene.main).await);
        assert_eq!(scene.stops_after(LIMIT * 2).await, 1);
        let mut coming = Box::pin(scene.cached.in_use(&scene.main));
        assert!(tokio::time::timeout(LIMIT, &mut coming).await.is_err());
        scene.provider.go.add_permits(1);
        let in_use = coming.await;
        assert_eq!(scene.stops_after(LIMIT * 2).await, 1);
        drop(in_use);
    }

    #[tokio::test(start_paused = true)]
    async fn suspender_spares_wakes_of_clients_that_left() {
        let scene = Scene::new(10);
        let main = LookupContext::for_test("main");
        // Another endpoint that takes long to wake does not keep this one awake, nor the other way round.
        let other = LookupContext::for_test("other");
        for context in [&main, &other] {
            let _in_use = scene.cached.in_use(&context.endpoint).await;
            let stale = scene.cached.locate(context).await.unwrap();
            let waking = scene.cached.wake(context, &stale);
            assert!(tokio::time::timeout(Duration::from_secs(1), waking).await.is_err());
        }
        assert_eq!(scene.stops_after(LIMIT * 5).await, 0);
        // The first one that was asked for is awake.
        scene.provider.awake.add_permits(1);
        assert_eq!(scene.stops_after(LIMIT / 2).await, 0);
        assert_eq!(scene.stops_after(LIMIT).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn suspender_respects_uses_of_peers() {
        let (old, new) = (Scene::new(10), Scene::new(10));
        // Only one of two processes stops computes.
        old.shutdown.signal(Signal::Terminate);
        let session = old.cached.in_use(&old.main).await;
        let hear = || new.cached.idle.uses.merge(old.cached.uses());
        let stops_after = async |time: Duration| {
            let end = Instant::now() + time;
            while Instant::now() < end {
                hear();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            new.stops_after(Duration::ZERO).await
        };
        // Here it was used once, and has been idle since.
        drop(new.cached.in_use(&new.main).await);
        assert_eq!(stops_after(LIMIT * 3).await, 0);
        drop(session);
        assert_eq!(stops_after(LIMIT - Duration::from_secs(3)).await, 0);
        assert_eq!(stops_after(Duration::from_secs(5)).await, 1);
        // That the other one does not know it does not wake it.
        assert_eq!(stops_after(LIMIT * 3).await, 1);
        // Another session there, which has woken it.
        drop(old.cached.in_use(&old.main).await);
        let session = old.cached.in_use(&old.main).await;
        assert_eq!(stops_after(LIMIT * 3).await, 1);
        drop(session);
        assert_eq!(stops_after(LIMIT * 2).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn suspender_inherits_uses_and_idle_times() {
        let (old, new) = (Scene::new(0), Scene::new(10));
        drop(old.cached.in_use(&old.main).await);
        tokio::time::sleep(LIMIT / 2).await;
        let told = old.cached.uses();
        new.cached.idle.uses.merge(told.clone());
        assert!(!told[0].in_use && told[0].idle_ms >= 30_000, "{told:?}");
        assert_eq!(new.stops_after(LIMIT / 2 - Duration::from_secs(3)).await, 0);
        assert_eq!(new.stops_after(Duration::from_secs(6)).await, 1);
        // What the old one is just stopping is not stopped again.
        let told = old.cached.uses();
        assert!(told[0].in_use, "{told:?}");
        old.provider.go.add_permits(1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(old.cached.uses(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn suspender_ends_at_drain_and_forgets_unlimited() {
        let scene = Scene::new(10);
        drop(scene.cached.in_use(&"other".parse().unwrap()).await);
        let other = scene.cached.in_use(&"another".parse().unwrap()).await;
        drop(scene.cached.in_use(&scene.main).await);
        tokio::time::sleep(LIMIT / 2).await;
        assert_eq!(scene.cached.idle.uses.endpoints.lock().len(), 2);
        drop(other);
        scene.shutdown.signal(Signal::Terminate);
        assert_eq!(scene.stops_after(LIMIT * 2).await, 0);
    }
}
