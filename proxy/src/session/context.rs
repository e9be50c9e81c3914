//! What a session works with: the services that all sessions share, and what is its own.

use std::sync::Arc;
use std::time::Duration;

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
    /// From the first byte to authenticated.
    pub(crate) login_timeout: Duration,
    pub(crate) control_plane: Arc<CachingControlPlane>,
    /// Opens connections to computes.
    pub(crate) dial: D,
    pub(crate) cancels: Arc<Cancels>,
    pub(crate) auth: Authenticator,
    /// In place of routes and passwords, where people log in with a browser.
    pub(crate) links: Option<Arc<Links>>,
    /// From authenticated to connected, a wake included.
    pub(crate) connect_timeout: Duration,
    pub(crate) drain: Arc<Drain>,
    pub(crate) metrics: Metrics,
}

/// The session of one connection.
#[derive(Debug)]
pub(crate) struct Session<'s, D, R> {
    pub(crate) services: &'s Services<D>,
    pub(crate) activity: &'s Activity,
    /// Nonces and cancel keys.
    pub(crate) random: &'s mut R,
}
