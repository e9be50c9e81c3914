//! The way to a compute: where it is, waking it when nobody is there, and trying again under one deadline. Logging in
//! is in [`handshake`]. Called by the session once the client is authenticated, and by `cancel`.

pub(crate) mod handshake;
pub(crate) mod role_query;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use postgres_backend::client::{ClientError, ClientTls};
use postgres_backend::{Io, Stream};
use pq_proto::{ErrorResponse, FramedError, SqlState};
use rand::Rng;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use utils::Backoff;

use self::handshake::{LoggedIn, Login};
use crate::control_plane::{Address, Cached, Compute, ControlPlaneError, Wanted};
use crate::error::Response;
use crate::phases::{Phase, timed};
use crate::socket;

/// For a TCP connection to one address of a compute.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// For TLS and the login on a connection.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections in a row that may break before the login is over.
const LOST_LOGINS_MAX: u32 = 5;
/// Pauses between attempts.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// Opens connections to computes: TCP, or pipes in memory in tests.
pub(crate) trait Dial: Send + Sync + 'static {
    /// What a connection is.
    type Stream: Io;

    /// How to encrypt what goes to a compute that the control plane says nothing about.
    fn default_tls(&self) -> Option<&ClientTls> {
        None
    }

    /// Connects to one of the addresses that this one stands for.
    fn dial(&self, address: &Address) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Over TCP.
#[derive(Debug)]
pub(crate) struct TcpDial {
    pub(crate) tls: Option<ClientTls>,
}

impl Dial for TcpDial {
    type Stream = TcpStream;

    fn default_tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    async fn dial(&self, address: &Address) -> io::Result<TcpStream> {
        let mut last = io::ErrorKind::NotFound.into();
        for address in tokio::net::lookup_host((address.host.as_str(), address.port)).await? {
            match timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    socket::prepare(&stream)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

/// Why there is no session at a compute.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComputeError {
    /// Nobody takes connections there.
    #[error("cannot connect: {0}")]
    Unreachable(#[source] io::Error),
    /// The connection broke before the login was over.
    #[error("connection lost during the login: {0}")]
    Lost(#[source] io::Error),
    /// The compute said no, and this is what it said.
    #[error("refused: {}", .0.error)]
    Refused(Box<Refusal>),
    /// It did not do TLS, or with the wrong certificate.
    #[error("TLS: {0}")]
    Tls(#[source] Box<ClientError>),
    /// It wants to be shown something that only the client has.
    #[error("it asks for an authentication other than SCRAM-SHA-256")]
    Authentication,
    /// It did not follow SCRAM, or does not know the role's verifier.
    #[error("{0}")]
    Scram(#[from] scram::ScramError),
    /// It spoke, but not this protocol.
    #[error("unexpected answer: {0}")]
    Protocol(String),
}

/// What a compute said, for us and for the client.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: ErrorResponse,
    /// The message as it came.
    pub(crate) frame: pq_proto::Frame,
}

impl ComputeError {
    /// What became of an error while bytes were exchanged.
    fn from_stream(error: FramedError) -> Self {
        match error {
            FramedError::Protocol(error) => Self::Protocol(error.to_string()),
            error => Self::Lost(error.into()),
        }
    }

    /// It may be that somebody else has the address now.
    fn is_perhaps_another_ones(&self) -> bool {
        match self {
            Self::Unreachable(_) => false,
            Self::Refused(refusal) => [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION]
                .contains(&refusal.error.sqlstate),
            Self::Lost(_) | Self::Tls(_) | Self::Authentication | Self::Scram(_) | Self::Protocol(_) => true,
        }
    }

    /// The compute runs and will take connections soon.
    fn is_starting(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.error.sqlstate == SqlState::CANNOT_CONNECT_NOW)
    }
}

/// Why the client cannot be connected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    #[error("compute {address}: {error}")]
    Compute { address: Address, error: ComputeError },
    #[error("the compute was still being woken when the time was over")]
    StillWaking,
}

impl ConnectError {
    pub(crate) fn how(&self) -> &'static str {
        match self {
            Self::ControlPlane(ControlPlaneError::UnknownEndpoint(_)) => "unknown_endpoint",
            Self::ControlPlane(_) => "wake_failed",
            Self::StillWaking => "wake_timeout",
            Self::Compute { error: ComputeError::Refused(_), .. } => "compute_refused",
            Self::Compute { .. } => "compute_unreachable",
        }
    }

    /// The compute is well and did not want this client: a missing database, for example.
    pub(crate) const fn is_the_computes(&self) -> bool {
        matches!(self, Self::Compute { error: ComputeError::Refused(_), .. })
    }

    /// What the client is told. The compute's address is ours to know.
    pub(crate) fn response(&self) -> Response {
        match self {
            Self::ControlPlane(error) => Response::Own(error.response()),
            Self::Compute { error: ComputeError::Refused(refusal), .. } => {
                Response::Computes(refusal.frame.clone())
            }
            Self::Compute { .. } => Response::Own(
                ErrorResponse::fatal(
                    SqlState::CONNECTION_FAILURE,
                    "could not connect to the database server",
                )
                .with_hint("Try again; if this goes on, its operator finds the reason in the proxy's log."),
            ),
            Self::StillWaking => Response::Own(
                ErrorResponse::fatal(
                    SqlState::CANNOT_CONNECT_NOW,
                    "the database did not wake up in the time allowed",
                )
                .with_hint("It may still be starting: try again in a moment."),
            ),
        }
    }
}

/// Connects and logs in; wakes the compute when nobody is there, and tries again until `within` is over.
pub(crate) async fn connect<D: Dial>(
    dial: &D,
    control_plane: &Arc<Cached>,
    wanted: &Wanted,
    login: &Login,
    within: Duration,
    random: &mut (impl Rng + Send),
) -> Result<(LoggedIn<D::Stream>, Arc<Compute>), ConnectError> {
    let mut so_far = ConnectError::StillWaking;
    let attempts = Box::pin(attempts(dial, control_plane, wanted, login, random, &mut so_far));
    match timeout_at(Instant::now() + within, attempts).await {
        Ok(result) => result,
        Err(_) => Err(so_far),
    }
}

/// Connects to a compute that nobody can wake or find elsewhere.
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

/// Without end. `so_far` is what to say when somebody puts an end to it.
async fn attempts<D: Dial>(
    dial: &D,
    control_plane: &Arc<Cached>,
    wanted: &Wanted,
    login: &Login,
    random: &mut (impl Rng + Send),
    so_far: &mut ConnectError,
) -> Result<(LoggedIn<D::Stream>, Arc<Compute>), ConnectError> {
    let mut backoff = Backoff::new(RETRY_DELAY_MIN, RETRY_DELAY_MAX);
    let mut located = timed(Phase::ControlPlane, control_plane.locate(wanted)).await?;
    let (mut woken, mut located_again, mut lost_logins) = (false, false, 0);
    loop {
        let compute = Arc::clone(&located.compute);
        let error = match attempt(dial, &compute, login, random).await {
            Ok(logged_in) => return Ok((logged_in, compute)),
            Err(error) => error,
        };
        tracing::debug!(endpoint = %wanted.endpoint, address = %compute.address, %error, "no session at the compute");
        lost_logins = if matches!(error, ComputeError::Lost(_)) { lost_logins + 1 } else { 0 };
        let passes_by_itself = error.is_starting() || (1..LOST_LOGINS_MAX).contains(&lost_logins);
        let is_unreachable = matches!(error, ComputeError::Unreachable(_));
        if is_unreachable || error.is_perhaps_another_ones() {
            control_plane.metrics.caches.connection_failed(located.source);
        }
        let may_have_moved = !located_again && error.is_perhaps_another_ones();
        let failure = ConnectError::Compute { address: compute.address.clone(), error };
        if is_unreachable {
            *so_far = ConnectError::StillWaking;
            if woken {
                tokio::time::sleep(backoff.next_delay(random)).await;
            }
            located = match timed(Phase::Wake, control_plane.wake(wanted, &located)).await {
                Err(ControlPlaneError::NotStartable(_)) => return Err(failure),
                // It was woken for this client already, and may yet come.
                Err(ControlPlaneError::TooManyWakes { .. }) if woken => located,
                located => located?,
            };
            woken = true;
        } else if passes_by_itself {
            *so_far = failure;
            tokio::time::sleep(backoff.next_delay(random)).await;
        } else if may_have_moved
            && let Ok(newer) = timed(Phase::ControlPlane, control_plane.locate_again(wanted, &located)).await
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

/// TLS, when the compute is to be reached by it.
pub(crate) async fn encrypt<D: Dial>(
    dial: &D,
    stream: D::Stream,
    compute: &Compute,
) -> Result<Stream<D::Stream>, ComputeError> {
    let Some(tls) = compute.tls.as_ref().or(dial.default_tls()) else { return Ok(Stream::Plain(stream)) };
    Box::pin(tls.connect(stream, &compute.address.host)).await.map_err(|error| match error {
        ClientError::Connection(error) => ComputeError::from_stream(error),
        ClientError::Closed => ComputeError::Lost(io::ErrorKind::UnexpectedEof.into()),
        error => ComputeError::Tls(Box::new(error)),
    })
}
