//! [`CachingControlPlane`]: a provider behind its caches. Each cache has a file of its own; this one only puts them
//! together. Called by `auth`, `compute`, `admin` and `peer_server`.

use std::sync::Arc;

use pq_proto::Text;
use tokio::runtime::Handle;
use utils::Shutdown;

use super::access_cache::{AccessCache, KnownAccess};
use super::address_cache::{AddressCache, Located};
use super::endpoint_rules::EndpointRules;
use super::error::ControlPlaneError;
use super::idle::{IdleSuspender, InUse};
use super::lookup_order::LookupOrder;
use super::provider::{ControlPlane, LookupContext};
use super::shared_provider::SharedProvider;
use crate::config::Caches;
use crate::limits::rate_limit::Limit;
use crate::observe::metrics::Metrics;
use crate::peers::{Peers, Used};
use crate::route::EndpointName;

/// A provider behind caches of addresses, of verifiers and of endpoints, which suspends computes that are idle.
#[derive(Debug)]
pub(crate) struct CachingControlPlane {
    pub(super) provider: Arc<SharedProvider>,
    pub(super) rules: Arc<EndpointRules>,
    pub(super) access: Arc<AccessCache>,
    pub(super) addresses: Arc<AddressCache>,
    pub(super) idle: Arc<IdleSuspender>,
    pub(crate) metrics: Metrics,
}

impl CachingControlPlane {
    /// A provider whose lookups run on the current runtime.
    pub(crate) fn new(plane: Box<dyn ControlPlane>, caches: &Caches, metrics: Metrics) -> Self {
        let order = Arc::<LookupOrder>::default();
        let rules = Arc::new(EndpointRules::new(&caches.access_rules, &order, &metrics));
        let provider =
            Arc::new(SharedProvider { plane, order, metrics: metrics.clone(), runtime: Handle::current() });
        let idle = Arc::new(IdleSuspender::new(Arc::clone(&provider)));
        let addresses =
            AddressCache::new(Arc::clone(&provider), Arc::clone(&rules), Arc::clone(&idle), caches);
        let addresses = Arc::new(addresses);
        let access = AccessCache::new(
            Arc::clone(&provider),
            Arc::clone(&rules),
            Arc::clone(&addresses),
            &caches.role_secrets,
        );
        Self { provider, rules, access: Arc::new(access), addresses, idle, metrics }
    }

    /// Looks up which clients may connect as `role`.
    pub(crate) async fn access(
        &self,
        context: &LookupContext,
        role: &Text,
    ) -> Result<KnownAccess, ControlPlaneError> {
        self.access.access(context, role).await
    }

    /// Looks the role up again, because a password did not fit `doubted`. `None` when the last lookup is too recent.
    pub(crate) async fn access_again(
        &self,
        context: &LookupContext,
        role: &Text,
        doubted: &KnownAccess,
    ) -> Option<Result<KnownAccess, ControlPlaneError>> {
        self.access.refetch(context, role, doubted).await
    }

    /// Returns the compute's address from the cache, or looks it up.
    pub(crate) async fn locate(&self, context: &LookupContext) -> Result<Located, ControlPlaneError> {
        self.addresses.locate(context).await
    }

    /// Looks up again, because another server answered at the address `stale`.
    pub(crate) async fn locate_again(
        &self,
        context: &LookupContext,
        stale: &Located,
    ) -> Result<Located, ControlPlaneError> {
        self.addresses.locate_again(context, stale).await
    }

    /// Wakes the compute, because no server answered at the address `stale`.
    pub(crate) async fn wake(
        &self,
        context: &LookupContext,
        stale: &Located,
    ) -> Result<Located, ControlPlaneError> {
        self.addresses.wake(context, stale).await
    }

    /// The limit of wakes of one endpoint, which a reload can change.
    pub(crate) fn wakes(&self) -> Arc<Limit<EndpointName>> {
        self.addresses.wakes()
    }

    /// Endpoints and addresses that are kept, in no order.
    pub(crate) fn entries(&self) -> Vec<(EndpointName, String)> {
        self.addresses.entries.map(|endpoint, compute| (endpoint.clone(), compute.address.to_string()))
    }

    /// Endpoints whose compute is being looked up or woken.
    pub(crate) fn waking(&self) -> usize {
        self.addresses.in_flight()
    }

    /// Keeps the endpoint's compute from being suspended.
    pub(crate) async fn in_use(&self, endpoint: &EndpointName) -> InUse {
        self.idle.enter(endpoint).await
    }

    /// Processes that may use the same computes; to be set once.
    pub(crate) fn set_peers(&self, peers: Peers) {
        self.idle.set_peers(peers);
    }

    /// The endpoints that this process uses, for its peers.
    pub(crate) fn uses(&self) -> Vec<Used> {
        self.idle.uses()
    }

    /// Asks the peers which endpoints they use, and records it. Returns false when one of them does not answer.
    pub(crate) async fn learn_uses_of_peers(&self) -> bool {
        self.idle.learn_uses_of_peers().await
    }

    /// Suspends idle computes until a drain begins.
    pub(crate) async fn suspend_idle(self: Arc<Self>, shutdown: Shutdown) {
        Arc::clone(&self.idle).run(shutdown).await;
    }

    /// Removes what has expired from the caches and from the limits.
    pub(super) fn sweep(&self) {
        self.addresses.sweep();
        self.access.sweep();
        self.rules.entries.sweep();
    }
}

#[cfg(test)]
mod tests;
