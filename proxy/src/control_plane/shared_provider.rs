//! The provider as all caches use it: which lookup began first, what is counted, and lookups that outlive the client
//! that began them.

use std::sync::Arc;

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
}

impl SharedProvider {
    /// Counts a call, unless the provider has all answers in memory.
    pub(super) fn count_request(&self, call: &'static str) {
        if !self.plane.is_in_memory() {
            self.metrics.control_plane_requests.get_or_create(&ByCall { call }).inc();
        }
    }
}

/// Runs a lookup in a task of its own: a client that leaves must neither stop what other clients wait for, nor let it
/// begin anew.
pub(super) async fn in_own_task<T: Send + 'static>(
    endpoint: EndpointName,
    lookup: impl Future<Output = Result<T, ControlPlaneError>> + Send + 'static,
) -> Result<T, ControlPlaneError> {
    // Only a panic, or the end of the runtime, leaves it without an answer.
    tokio::spawn(lookup.in_current_span()).await.unwrap_or(Err(ControlPlaneError::Unavailable(endpoint)))
}
