//! [`EndpointRules`]: cache of what is known of an endpoint as a whole: its allowlist and project, or that it does not
//! exist or is closed. Filled by the caches of access and of addresses, asked by both.

use std::sync::Arc;
use std::time::Duration;

use super::error::ControlPlaneError;
use super::lookup_cache::{CacheLookup, LookupCache};
use super::lookup_order::{LookupOrder, LookupStart};
use super::provider::{Access, Project};
use crate::config::CacheOptions;
use crate::limits::allowlist::Allowlist;
use crate::observe::metrics::Metrics;
use crate::route::EndpointName;

/// Cache of allowlists; a negative entry is an error that is about the endpoint.
#[derive(Debug)]
pub(super) struct EndpointRules {
    pub(super) entries: LookupCache<EndpointName, Arc<Allowlist>, ControlPlaneError>,
    pub(super) negative_ttl: Duration,
}

impl EndpointRules {
    pub(super) fn new(options: &CacheOptions, order: &Arc<LookupOrder>, metrics: &Metrics) -> Self {
        Self {
            entries: LookupCache::new("access_rules", options, Arc::clone(order), metrics.caches.clone()),
            negative_ttl: options.negative_ttl(),
        }
    }

    /// The cached error of this endpoint, if it does not exist or is closed.
    pub(super) fn closed(&self, endpoint: &EndpointName) -> Option<ControlPlaneError> {
        match self.entries.find(endpoint) {
            CacheLookup::Negative(hit) => Some(hit.value),
            _ => None,
        }
    }

    /// The project of an endpoint, if the provider has named one.
    pub(super) fn project(&self, endpoint: &EndpointName) -> Option<Project> {
        self.entries.project(endpoint)
    }

    /// Keeps the allowlist of an answer.
    pub(super) fn insert(&self, endpoint: &EndpointName, access: &Access, start: LookupStart) {
        self.entries.insert(endpoint.clone(), Arc::clone(&access.allowlist), access.project.clone(), start);
    }

    /// Keeps an error for a while if it is about the endpoint.
    pub(super) fn insert_error(
        &self,
        endpoint: &EndpointName,
        error: &ControlPlaneError,
        start: LookupStart,
    ) {
        if error.is_about_the_endpoint() {
            let project = self.project(endpoint);
            let (endpoint, error) = (endpoint.clone(), error.clone());
            self.entries.insert_negative(endpoint, error, self.negative_ttl, project, start);
        }
    }
}
