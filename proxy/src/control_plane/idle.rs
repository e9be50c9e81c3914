//! [`IdleSuspender`]: suspends computes that have had no session for `suspend_after_seconds`.
//!
//! A session holds an [`InUse`] from before it looks for its compute until its end, and a wake holds one of its own,
//! because the client that it was for may have left: a compute with a session, or one that is being woken, is never
//! idle. A client that comes while a compute is being stopped waits until that is done, and wakes it again.
//!
//! Processes that have replaced each other use the same computes: the process that suspends asks the others at each
//! check which endpoints they use. From then on it also suspends computes that only the others have used. While one
//! of them does not answer, nothing is suspended. A compute that no session has used is not suspended either: nothing
//! is known of it.

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

/// How often idle computes are looked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Suspends idle computes, and records which computes are in use.
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

/// Keeps an endpoint in use until this value is dropped.
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

    /// Marks the endpoints that were idle for longer than their limit as stopping, and returns them. Forgets endpoints
    /// with neither sessions nor a limit.
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
            // Registered before the check, so that a suspension that ends in between is not missed.
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

    /// Asks the peers which endpoints they use, and records it. Returns false when one of them does not answer.
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
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }

            let limits = self.provider.plane.idle_limits();
            if !limits.is_empty() && !self.learn_uses_of_peers().await {
                continue;
            }
            for endpoint in self.uses.begin_to_stop(&limits) {
                let suspender = Arc::clone(&self);
                // Each stop is a task of its own, so that a slow one does not delay the others.
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
mod tests;
