//! The provider for whoever has a service that manages databases: HTTP questions, JSON answers, in either of the two
//! dialects that are published for this. How to configure it is in [`config`], what is said on the wire in [`dialect`].
//!
//! Every question has a time limit for each try and one for all tries together. A try is followed by another one after
//! what may pass by itself: no connection, no answer in time, a gateway's error, an error that says so. Where the service
//! says how long to wait, that is how long.

mod client;
mod config;
mod dialect;
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
use self::dialect::{Failure, Retry, Woken};
use crate::control_plane::{Access, Compute, ControlPlane, ControlPlaneError, Reply, Wanted};

pub(crate) use self::config::HttpConfigError;
pub(crate) use self::token::TokenFile;

/// Tries of one question at most.
const TRIES_MAX: u32 = 10;
/// Pauses between tries, where the service names none.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
/// Added to a pause that the service names, at random: whoever was told the same shall not come back together.
const RETRY_JITTER_MAX: Duration = Duration::from_millis(100);

/// See the module's text.
#[derive(Debug)]
pub(crate) struct HttpControlPlane {
    config: HttpConfig,
}

impl HttpControlPlane {
    /// Reads the configuration; asks nobody yet.
    pub(crate) fn load(path: &Path) -> Result<Self, HttpConfigError> {
        Ok(Self { config: HttpConfig::load(path)? })
    }

    /// What is read again of it.
    pub(crate) fn token(&self) -> Option<Arc<TokenFile>> {
        self.config.client.token.clone()
    }

    async fn ask<T>(
        &self,
        wanted: &Wanted,
        request: Request,
        limits: TimeLimits,
        read: impl Fn(&Response) -> Result<T, Failure>,
    ) -> Result<T, ControlPlaneError> {
        let deadline = Instant::now() + limits.total;
        let mut backoff = Backoff::new(RETRY_DELAY_MIN, RETRY_DELAY_MAX);
        for number in 1.. {
            let try_until = deadline.min(Instant::now() + limits.each);
            let failure = match timeout_at(try_until, self.config.client.get(&request)).await {
                Ok(Ok(response)) => match read(&response) {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                },
                Ok(Err(error)) => {
                    Failure::transport(&wanted.endpoint, error.to_string(), error.is_transient())
                }
                Err(_) => Failure::transport(&wanted.endpoint, "no answer in time".into(), true),
            };
            let (endpoint, call, reason) = (&wanted.endpoint, request.call, &failure.reason);
            tracing::warn!(%endpoint, call, number, reason, "the control plane did not answer as hoped");
            let pause = match failure.retry {
                Retry::No => return Err(failure.error),
                Retry::Soon => backoff.next_delay(&mut rand::rng()),
                Retry::After(pause) => pause + rand::rng().random_range(Duration::ZERO..RETRY_JITTER_MAX),
            };
            // A pause that ends too late would only make the client wait for the same answer.
            if number >= TRIES_MAX || Instant::now() + pause >= deadline {
                return Err(failure.error);
            }
            tokio::time::sleep(pause).await;
        }
        Err(ControlPlaneError::Unavailable(wanted.endpoint.clone()))
    }

    fn compute(&self, wanted: &Wanted, woken: Woken) -> Result<Arc<Compute>, ControlPlaneError> {
        let tls = match (woken.server_name, &self.config.compute_tls) {
            (None, _) => None,
            (Some(name), Some(tls)) => Some(ClientTls { server_name: Some(name), ..tls.clone() }),
            (Some(name), None) => {
                tracing::error!(
                    endpoint = %wanted.endpoint,
                    server_name = name,
                    "the control plane names a certificate, and there is no compute_ca to check it with"
                );
                return Err(ControlPlaneError::Unavailable(wanted.endpoint.clone()));
            }
        };
        Ok(Arc::new(Compute { address: woken.address, tls, database: None }))
    }
}

impl ControlPlane for HttpControlPlane {
    fn access<'a>(&'a self, wanted: &'a Wanted, role: &'a Text) -> Reply<'a, Access> {
        let request = self.config.dialect.access_request(wanted, role);
        let read = |response: &Response| self.config.dialect.read_access(&wanted.endpoint, response);
        Box::pin(self.ask(wanted, request, self.config.access_limits, read))
    }

    /// Only the service knows, and it wakes the compute to be able to say it.
    fn locate<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>> {
        Box::pin(async move {
            let request = self.config.dialect.wake_request(wanted);
            let read = |response: &Response| self.config.dialect.read_woken(&wanted.endpoint, response);
            let woken = self.ask(wanted, request, self.config.wake_limits, read).await?;
            self.compute(wanted, woken)
        })
    }

    fn wake<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>> {
        self.locate(wanted)
    }

    fn is_in_memory(&self) -> bool {
        false
    }

    fn locating_wakes(&self) -> bool {
        true
    }
}
