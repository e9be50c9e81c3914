//! What every provider of a control plane is asked, and what it answers.

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
use crate::lifecycle::reload::Take;
use crate::limits::allowlist::Allowlist;
use crate::observe::activity::SessionId;
use crate::route::EndpointName;

/// An answer that takes time. Boxed, because providers are chosen at the start of the program.
pub(crate) type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, ControlPlaneError>> + Send + 'a>>;

/// What a provider is asked.
pub(crate) trait ControlPlane: fmt::Debug + Send + Sync {
    /// Who may come in as this role.
    fn access<'a>(&'a self, context: &'a LookupContext, role: &'a Text) -> Reply<'a, Access>;

    /// Where the compute is, as far as that can be said without starting it.
    fn locate<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>>;

    /// Starts the compute unless it runs, and returns when it takes connections.
    fn wake<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>>;

    /// A client of this role did not know the password that fits what was said last.
    fn doubted(&self, context: &LookupContext, role: &Text) {
        let _ = (context, role);
    }

    /// Whether it has all answers in memory and knows of every change. Nothing is kept of what it says.
    fn is_in_memory(&self) -> bool {
        true
    }

    /// Whether to locate a compute is to wake it, which is limited.
    fn locating_wakes(&self) -> bool {
        false
    }

    /// After how long without a session which computes may be stopped.
    fn idle_limits(&self) -> HashMap<EndpointName, Duration> {
        HashMap::new()
    }

    /// Stops a compute that nobody uses.
    fn stop<'a>(&'a self, endpoint: &'a EndpointName) -> Reply<'a, ()> {
        Box::pin(std::future::ready(Err(ControlPlaneError::UnknownEndpoint(endpoint.clone()))))
    }

    /// The files that its answers come from.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Reads them again, as a [`crate::lifecycle::reload::Source`].
    fn read(&self) -> Result<Take<'_>, String> {
        Ok(Box::new(|| ()))
    }
}

/// An endpoint, and for whom it is asked.
#[derive(Debug, Clone)]
pub(crate) struct LookupContext {
    pub(crate) endpoint: EndpointName,
    /// The session that asks. What is shared or kept carries the one that asked first.
    pub(crate) session: SessionId,
    /// What the client calls itself.
    pub(crate) application: Option<Text>,
}

#[cfg(test)]
impl LookupContext {
    pub(crate) fn for_test(endpoint: &str) -> Self {
        Self { endpoint: endpoint.parse().unwrap(), session: SessionId(1), application: None }
    }
}

/// Who may come in. A copy is cheap enough for every login.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// `None` when the endpoint has no such role, or the role has no password.
    pub(crate) verifier: Option<Verifier>,
    pub(crate) allowlist: Arc<Allowlist>,
    /// To whom the endpoint belongs, where that is told.
    pub(crate) project: Option<Project>,
    /// The compute sleeps, and would know better: it may be woken and asked again, once.
    pub(crate) may_wake: bool,
}

/// Name of a project: endpoints that belong together.
pub(crate) type Project = Arc<str>;

/// Knows no endpoint: for a proxy whose clients do not name one.
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
