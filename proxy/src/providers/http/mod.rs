//! Provider `http`: asks a service that manages databases, with HTTP requests and JSON replies, in either of the two
//! published dialects. [`config`] reads the configuration, [`dialect`] makes the requests and reads the replies.
//!
//! A request has a time limit for each try and one for all tries together. A failure that may pass by itself is tried
//! again: no connection, no reply in time, an error of a gateway, an error that is marked so. The service may name the
//! pause.

mod client;
mod config;
mod dialect;
mod service_error;
#[cfg(test)]
mod tests;
mod token;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postgres_backend::client::ClientTls;
use pq_proto::Text;
use rand::RngExt;
use tokio::time::{Instant, timeout_at};
use utils::Backoff;

use self::client::{Request, Response};
use self::config::{HttpConfig, TimeLimits};
use self::dialect::Woken;
use self::service_error::{Failure, Retry};
use crate::control_plane::{Access, Compute, ControlPlane, ControlPlaneError, LookupContext, Reply};

pub(crate) use self::config::HttpConfigError;
pub(crate) use self::token::TokenFile;

/// Most tries of one request.
const TRIES_MAX: u32 = 10;
/// Pauses between tries, unless the service names one.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
/// Longest random addition to a pause that the service names: proxies that were told the same must not return together.
const RETRY_JITTER_MAX: Duration = Duration::from_millis(100);

/// Control plane behind an HTTP service.
#[derive(Debug)]
pub(crate) struct HttpControlPlane {
    config: HttpConfig,
}

impl HttpControlPlane {
    /// Reads the configuration. Sends no request.
    pub(crate) fn load(path: &Path) -> Result<Self, HttpConfigError> {
        Ok(Self { config: HttpConfig::load(path)? })
    }

    /// The token file, which is reloaded while the proxy runs.
    pub(crate) fn token(&self) -> Option<Arc<TokenFile>> {
        self.config.client.token.clone()
    }

    /// Sends the request until a reply can be read, the failure is permanent, or the time is over.
    async fn request<T>(
        &self,
        context: &LookupContext,
        request: Request,
        limits: TimeLimits,
        read: impl Fn(&Response) -> Result<T, Failure>,
    ) -> Result<T, ControlPlaneError> {
        let deadline = Instant::now() + limits.total;
        let mut backoff = Backoff::new(RETRY_DELAY_MIN, RETRY_DELAY_MAX);

        for attempt in 1.. {
            let try_until = deadline.min(Instant::now() + limits.each);
            let failure = match timeout_at(try_until, self.config.client.get(&request)).await {
                Ok(Ok(response)) => match read(&response) {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                },
                Ok(Err(error)) => {
                    Failure::transport(&context.endpoint, error.to_string(), error.is_transient())
                }
                Err(_) => Failure::transport(&context.endpoint, "no reply in time".into(), true),
            };

            let (endpoint, call, error) = (&context.endpoint, request.call, &failure.reason);
            tracing::warn!(%endpoint, call, attempt, error, "control plane request failed");
            let pause = match failure.retry {
                Retry::No => return Err(failure.error),
                Retry::Soon => backoff.next_delay(&mut rand::rng()),
                Retry::After(pause) => pause + rand::rng().random_range(Duration::ZERO..RETRY_JITTER_MAX),
            };
            // A pause beyond the deadline would only make the client wait longer for the same error.
            if attempt >= TRIES_MAX || Instant::now() + pause >= deadline {
                return Err(failure.error);
            }
            tokio::time::sleep(pause).await;
        }
        Err(ControlPlaneError::Unavailable(context.endpoint.clone()))
    }

    /// Adds TLS to the address in the reply. A certificate name without `compute_ca` is an error.
    fn compute(&self, context: &LookupContext, woken: Woken) -> Result<Arc<Compute>, ControlPlaneError> {
        let tls = match (woken.server_name, &self.config.compute_tls) {
            (None, _) => None,
            (Some(name), Some(tls)) => Some(ClientTls { server_name: Some(name), ..tls.clone() }),
            (Some(name), None) => {
                tracing::error!(
                    endpoint = %context.endpoint,
                    server_name = name,
                    "control plane sent a server_name, and compute_ca is not configured"
                );
                return Err(ControlPlaneError::Unavailable(context.endpoint.clone()));
            }
        };
        Ok(Arc::new(Compute { address: woken.address, tls, database: None }))
    }
}

impl ControlPlane for HttpControlPlane {
    fn access<'a>(&'a self, context: &'a LookupContext, role: &'a Text) -> Reply<'a, Access> {
        let request = self.config.dialect.access_request(context, role);
        let read = |response: &Response| self.config.dialect.read_access(&context.endpoint, response);
        Box::pin(self.request(context, request, self.config.access_limits, read))
    }

    /// Wakes the compute: the service gives no address of a suspended one.
    fn locate<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        Box::pin(async move {
            let request = self.config.dialect.wake_request(context);
            let read = |response: &Response| self.config.dialect.read_woken(&context.endpoint, response);
            let woken = self.request(context, request, self.config.wake_limits, read).await?;
            self.compute(context, woken)
        })
    }

    fn wake<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        self.locate(context)
    }

    fn is_in_memory(&self) -> bool {
        false
    }

    fn locating_wakes(&self) -> bool {
        true
    }
}
