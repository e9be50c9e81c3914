//! Invalidation of the caches: by an operator's request, by a reload of the provider's files, and by time. Called by
//! `admin` and `server`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pq_proto::Text;
use serde::{Deserialize, Serialize};

use super::caching::CachingControlPlane;
use super::provider::Project;
use crate::lifecycle::reload::{Apply, Source};
use crate::route::EndpointName;

/// How often expired entries are removed that no lookup finds any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Entries to drop. An entry must match every field that is given. With a role, only verifiers are dropped.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invalidation {
    pub(crate) endpoint: Option<String>,
    pub(crate) project: Option<String>,
    pub(crate) role: Option<String>,
}

/// Error in an invalidation request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidationError {
    #[error("request names no endpoint, project or role")]
    Nothing,
    #[error("endpoint name is not 1 to 63 of the characters a-z, 0-9 and -")]
    Endpoint,
}

/// Dropped entries by cache.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Dropped {
    pub(crate) compute: usize,
    pub(crate) role_secret: usize,
    pub(crate) access_rules: usize,
}

impl CachingControlPlane {
    /// Drops matching entries, and the answers of lookups under way.
    pub(crate) fn invalidate(&self, which: &Invalidation) -> Result<Dropped, InvalidationError> {
        let endpoint = which.endpoint.as_deref().map(str::parse::<EndpointName>).transpose();
        let endpoint = endpoint.map_err(|_| InvalidationError::Endpoint)?;
        let role = which.role.as_deref().map(Text::from);
        if endpoint.is_none() && which.project.is_none() && role.is_none() {
            return Err(InvalidationError::Nothing);
        }
        if self.provider.plane.is_in_memory() {
            return Ok(Dropped::default());
        }

        self.provider.order.invalidate(endpoint.as_ref());
        let is_there = |name: &EndpointName, project: Option<&Project>| {
            let of_project = |asked: &String| project.is_none_or(|project| **project == **asked);
            endpoint.as_ref().is_none_or(|endpoint| endpoint == name)
                && which.project.as_ref().is_none_or(of_project)
        };
        let is_role = |name: &Text| role.as_ref().is_none_or(|role| role == name);

        let role_secret = self
            .access
            .entries
            .invalidate(|(endpoint, role), project| is_there(endpoint, project) && is_role(role));
        if role.is_some() {
            return Ok(Dropped { role_secret, ..Dropped::default() });
        }
        let access_rules = self.rules.entries.invalidate(is_there);
        let compute = self.addresses.entries.invalidate(is_there);
        Ok(Dropped { compute, role_secret, access_rules })
    }

    /// Drops all entries, because the provider's files have changed.
    fn invalidate_all(&self) {
        self.provider.order.invalidate(None);
        self.access.entries.invalidate(|_, _| true);
        self.rules.entries.invalidate(|_, _| true);
        self.addresses.entries.invalidate(|_, _| true);
    }

    /// Removes expired entries periodically, until the process ends.
    pub(crate) async fn keep_swept(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.sweep();
        }
    }
}

impl Source for CachingControlPlane {
    fn files(&self) -> Vec<PathBuf> {
        self.provider.plane.files()
    }

    fn read(&self) -> Result<Apply<'_>, String> {
        let apply = self.provider.plane.read()?;
        // A provider without files has read nothing new, so the entries stay valid.
        let reads_files = !self.provider.plane.files().is_empty();
        Ok(Box::new(move || {
            apply();
            if reads_files {
                self.invalidate_all();
            }
        }))
    }
}

#[cfg(test)]
mod tests;
