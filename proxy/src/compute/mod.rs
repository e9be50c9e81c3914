//! Compute: connects to an endpoint's compute, wakes it when it does not listen, and retries under one deadline.
//!
//! [`handshake`] logs in. Called by the session once the client is authenticated, and by `cancel`.

mod dial;
mod error;
pub(crate) mod handshake;
pub(crate) mod role_query;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, timeout, timeout_at};
use utils::Backoff;

pub(crate) use self::dial::{Dial, TcpDial, encrypt};
pub(crate) use self::error::{ComputeError, ConnectError};
use self::handshake::{LoggedIn, Login};
use crate::control_plane::{CachingControlPlane, Compute, ControlPlaneError, LookupContext};
use crate::observe::phases::{Phase, timed};

/// Time limit for TLS and the login on one connection.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The proxy gives up when this many connections in a row break during the login.
const LOST_LOGINS_MAX: u32 = 5;
/// The first pause between attempts; each further one doubles it.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// Connects and logs in. Wakes the compute when it does not listen, and retries until `within` is over.
///
/// # Errors
///
/// The last failure, or [`ConnectError::StillWaking`] when the wake did not end in time.
pub(crate) async fn connect<D: Dial>(
    dial: &D,
    control_plane: &Arc<CachingControlPlane>,
    context: &LookupContext,
    login: &Login,
    within: Duration,
    random: &mut (impl Rng + Send),
) -> Result<(LoggedIn<D::Stream>, Arc<Compute>), ConnectError> {
    let mut so_far = ConnectError::StillWaking;
    let attempts = Box::pin(attempts(dial, control_plane, context, login, random, &mut so_far));
    match timeout_at(Instant::now() + within, attempts).await {
        Ok(result) => result,
        Err(_) => Err(so_far),
    }
}

/// Connects to a compute that the proxy can neither wake nor find at another address.
pub(crate) async fn connect_once<D: Dial>(
    dial: &D,
    compute: &Compute,
    login: &Login,
    within: Duration,
    random: &mut (impl Rng + Send),
) -> Result<LoggedIn<D::Stream>, ConnectError> {
    let late = |_| ComputeError::Lost(io::ErrorKind::TimedOut.into());
    let attempt = timeout(within, Box::pin(attempt(dial, compute, login, random))).await;
    let failure = |error| ConnectError::Compute { address: compute.address.clone(), error };
    attempt.map_err(late).flatten().map_err(failure)
}

/// Retries without end. `so_far` holds the error to report when the caller's deadline ends it.
async fn attempts<D: Dial>(
    dial: &D,
    control_plane: &Arc<CachingControlPlane>,
    context: &LookupContext,
    login: &Login,
    random: &mut (impl Rng + Send),
    so_far: &mut ConnectError,
) -> Result<(LoggedIn<D::Stream>, Arc<Compute>), ConnectError> {
    let mut backoff = Backoff::new(RETRY_DELAY_MIN, RETRY_DELAY_MAX);
    let mut located = timed(Phase::ControlPlane, control_plane.locate(context)).await?;
    let (mut woken, mut located_again, mut lost_logins) = (false, false, 0);
    loop {
        let compute = Arc::clone(&located.compute);
        let error = match attempt(dial, &compute, login, random).await {
            Ok(logged_in) => return Ok((logged_in, compute)),
            Err(error) => error,
        };
        tracing::debug!(endpoint = %context.endpoint, address = %compute.address, %error, "cannot log in at the compute");
        lost_logins = if matches!(error, ComputeError::Lost(_)) { lost_logins + 1 } else { 0 };
        let passes_by_itself = error.is_starting() || (1..LOST_LOGINS_MAX).contains(&lost_logins);
        let is_unreachable = matches!(error, ComputeError::Unreachable(_));
        if is_unreachable || error.may_be_another_server() {
            control_plane.metrics.caches.connection_failed(located.source);
        }
        let may_have_moved = !located_again && error.may_be_another_server();
        let failure = ConnectError::Compute { address: compute.address.clone(), error };
        if is_unreachable {
            *so_far = ConnectError::StillWaking;
            if woken {
                tokio::time::sleep(backoff.next_delay(random)).await;
            }
            located = match timed(Phase::Wake, control_plane.wake(context, &located)).await {
                Err(ControlPlaneError::NotStartable(_)) => return Err(failure),
                // The compute was woken for this client already, and may still come up.
                Err(ControlPlaneError::TooManyWakes { .. }) if woken => located,
                located => located?,
            };
            woken = true;
        } else if passes_by_itself {
            *so_far = failure;
            tokio::time::sleep(backoff.next_delay(random)).await;
        } else if may_have_moved
            && let Ok(newer) = timed(Phase::ControlPlane, control_plane.locate_again(context, &located)).await
            && newer.compute.address != compute.address
        {
            located = newer;
            located_again = true;
        } else {
            return Err(failure);
        }
    }
}

async fn attempt<D: Dial>(
    dial: &D,
    compute: &Compute,
    login: &Login,
    random: &mut (impl Rng + Send),
) -> Result<LoggedIn<D::Stream>, ComputeError> {
    let stream = dial.dial(&compute.address).await.map_err(ComputeError::Unreachable)?;
    let login = Box::pin(async {
        let stream = encrypt(dial, stream, compute).await?;
        handshake::log_in(stream, login, compute.database.as_ref(), random).await
    });
    timeout(LOGIN_TIMEOUT, login)
        .await
        .unwrap_or_else(|_| Err(ComputeError::Lost(io::ErrorKind::TimedOut.into())))
}
