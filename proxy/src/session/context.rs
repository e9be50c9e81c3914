//! What a session works with: the services that all sessions share, and what is its own.

use std::sync::Arc;
use std::time::Duration;

use tracing::Span;

use crate::auth::Authenticator;
use crate::cancel::Cancels;
use crate::control_plane::CachingControlPlane;
use crate::lifecycle::drain::Drain;
use crate::link::Links;
use crate::observe::activity::Activity;
use crate::observe::metrics::Metrics;
use crate::tls::TlsStore;

/// What all sessions share. Made by `server`.
#[derive(Debug)]
pub(crate) struct Services<D> {
    pub(crate) tls: Arc<TlsStore>,
    /// Time limit from the client's first byte until it is authenticated.
    pub(crate) login_timeout: Duration,
    pub(crate) control_plane: Arc<CachingControlPlane>,
    /// Opens connections to computes.
    pub(crate) dial: D,
    pub(crate) cancels: Arc<Cancels>,
    pub(crate) auth: Authenticator,
    /// Logins with a browser, in place of routes and passwords. `None` unless `--control-plane link:` is used.
    pub(crate) links: Option<Arc<Links>>,
    /// Time limit from the authentication until the session at the compute, a wake included.
    pub(crate) connect_timeout: Duration,
    pub(crate) drain: Arc<Drain>,
    pub(crate) metrics: Metrics,
}

/// The session of one connection.
#[derive(Debug)]
pub(crate) struct Session<'s, D, R> {
    pub(crate) services: &'s Services<D>,
    pub(crate) activity: &'s Activity,
    /// The span of the connection, for its log lines.
    pub(crate) span: &'s Span,
    /// Source of nonces and cancel keys.
    pub(crate) random: &'s mut R,
}
