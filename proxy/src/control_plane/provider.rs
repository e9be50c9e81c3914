//! Interface of the providers: lookups of access and addresses, wakes and stops.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pq_proto::Text;
use scram::Verifier;

use super::compute_address::Compute;
use super::error::ControlPlaneError;
use crate::lifecycle::reload::Apply;
use crate::limits::allowlist::Allowlist;
use crate::observe::activity::SessionId;
use crate::route::EndpointName;

/// Future of a provider's reply. Boxed, because the operator chooses the provider at the start of the program.
pub(crate) type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, ControlPlaneError>> + Send + 'a>>;

/// Provider of a control plane.
pub(crate) trait ControlPlane: fmt::Debug + Send + Sync {
    /// Looks up which clients may connect as this role.
    fn access<'a>(&'a self, context: &'a LookupContext, role: &'a Text) -> Reply<'a, Access>;

    /// Looks up the address of the compute, without starting it where that is possible.
    fn locate<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>>;

    /// Starts the compute unless it runs, and returns when it accepts connections.
    fn wake<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>>;

    /// Reports that a client's password did not fit the last verifier of this role: the verifier may be outdated.
    fn report_doubt(&self, context: &LookupContext, role: &Text) {
        let _ = (context, role);
    }

    /// Whether all replies come from memory and follow every change. Such replies are not cached.
    fn is_in_memory(&self) -> bool {
        true
    }

    /// Whether locating a compute wakes it, so that the limit of wakes applies.
    fn locating_wakes(&self) -> bool {
        false
    }

    /// Endpoints that may be suspended, and after how long without a session.
    fn idle_limits(&self) -> HashMap<EndpointName, Duration> {
        HashMap::new()
    }

    /// Stops an idle compute.
    fn stop<'a>(&'a self, endpoint: &'a EndpointName) -> Reply<'a, ()> {
        Box::pin(std::future::ready(Err(ControlPlaneError::UnknownEndpoint(endpoint.clone()))))
    }

    /// Files that the provider reloads.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Reads the files again, as a [`crate::lifecycle::reload::Source`].
    fn read(&self) -> Result<Apply<'_>, String> {
        Ok(Box::new(|| ()))
    }
}

/// Endpoint of a lookup, and the client that it is for.
#[derive(Debug, Clone)]
pub(crate) struct LookupContext {
    pub(crate) endpoint: EndpointName,
    /// Session of the client. A shared lookup carries the session that began it.
    pub(crate) session: SessionId,
    /// The client's `application_name`.
    pub(crate) application: Option<Text>,
}

#[cfg(test)]
impl LookupContext {
    pub(crate) fn for_test(endpoint: &str) -> Self {
        Self { endpoint: endpoint.parse().unwrap(), session: SessionId(1), application: None }
    }
}

/// Clients that may connect as one role. Cheap to clone for every login.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// `None` when the endpoint has no such role, or the role has no password.
    pub(crate) verifier: Option<Verifier>,
    pub(crate) allowlist: Arc<Allowlist>,
    /// Project of the endpoint, if the provider names one.
    pub(crate) project: Option<Project>,
    /// The compute is suspended and may have a newer verifier: the caller may wake it and look up once more.
    pub(crate) may_wake: bool,
}

/// Name of a project, a group of endpoints.
pub(crate) type Project = Arc<str>;

/// Provider without endpoints, for a proxy whose clients name none.
#[derive(Debug)]
pub(crate) struct NoControlPlane;

impl NoControlPlane {
    fn unknown<T>(context: &LookupContext) -> Reply<'_, T>
    where
        T: Send + 'static,
    {
        Box::pin(std::future::ready(Err(ControlPlaneError::UnknownEndpoint(context.endpoint.clone()))))
    }
}

impl ControlPlane for NoControlPlane {
    fn access<'a>(&'a self, context: &'a LookupContext, _: &'a Text) -> Reply<'a, Access> {
        Self::unknown(context)
    }

    fn locate<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        Self::unknown(context)
    }

    fn wake<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        Self::unknown(context)
    }
}
