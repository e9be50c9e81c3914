//! The provider as all caches use it: which lookup began first, what is counted, and lookups that outlive the client
//! that began them.

use std::sync::Arc;

use tokio::runtime::Handle;
use tracing::Instrument;

use super::error::ControlPlaneError;
use super::lookup_order::LookupOrder;
use super::provider::ControlPlane;
use crate::observe::metrics::{ByCall, Metrics};
use crate::route::EndpointName;

/// A provider, shared by the caches in front of it.
#[derive(Debug)]
pub(super) struct SharedProvider {
    pub(super) plane: Box<dyn ControlPlane>,
    pub(super) order: Arc<LookupOrder>,
    pub(super) metrics: Metrics,
    /// Runs lookups. Not the runtime of a client's thread: a slow lookup delays no bytes of other clients.
    pub(super) runtime: Handle,
}

impl SharedProvider {
    /// Counts a call, unless the provider has all answers in memory.
    pub(super) fn count_request(&self, call: &'static str) {
        if !self.plane.is_in_memory() {
            self.metrics.control_plane_requests.get_or_create(&ByCall { call }).inc();
        }
    }

    /// Runs a lookup in a task of its own: a client that leaves must neither stop what other clients wait for, nor let it
    /// begin anew.
    pub(super) async fn in_own_task<T: Send + 'static>(
        &self,
        endpoint: EndpointName,
        lookup: impl Future<Output = Result<T, ControlPlaneError>> + Send + 'static,
    ) -> Result<T, ControlPlaneError> {
        let answer = self.runtime.spawn(lookup.in_current_span()).await;
        // Only a panic, or the end of the runtime, leaves it without an answer.
        answer.unwrap_or(Err(ControlPlaneError::Unavailable(endpoint)))
    }
}
