//! Compute errors: why the login at a compute failed, and the message that the client gets.

use std::io;

use postgres_backend::client::ClientError;
use pq_proto::{ErrorResponse, FramedError, SqlState};

use crate::client_facing::{ClientFacing, Response};
use crate::control_plane::{Address, ControlPlaneError};

/// Why the login at a compute failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComputeError {
    /// The address does not accept connections.
    #[error("cannot connect: {0}")]
    Unreachable(#[source] io::Error),
    /// The connection broke during the login.
    #[error("connection lost during the login: {0}")]
    Lost(#[source] io::Error),
    /// The compute refused the login with this error.
    #[error("refused: {}", .0.error)]
    Refused(Box<Refusal>),
    /// The compute does not speak TLS, or has a wrong certificate.
    #[error("TLS: {0}")]
    Tls(#[source] Box<ClientError>),
    /// The compute asks for another authentication method. It would need a secret that only the client has.
    #[error("the compute asks for an authentication other than SCRAM-SHA-256")]
    Authentication,
    /// The compute broke SCRAM, or could not prove that it knows the role's verifier.
    #[error("{0}")]
    Scram(#[from] scram::ScramError),
    /// The compute did not follow the PostgreSQL protocol.
    #[error("unexpected answer: {0}")]
    Protocol(String),
}

/// A compute's error, parsed for the proxy and unparsed for the client.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: ErrorResponse,
    /// The message as it came.
    pub(crate) frame: pq_proto::Frame,
}

impl ComputeError {
    /// Sorts an error of the stream into a broken protocol and a lost connection.
    pub(super) fn from_stream(error: FramedError) -> Self {
        match error {
            FramedError::Protocol(error) => Self::Protocol(error.to_string()),
            error => Self::Lost(error.into()),
        }
    }

    /// Whether another server may have the address now, so that it is worth looking up again.
    pub(super) fn may_be_another_server(&self) -> bool {
        match self {
            Self::Unreachable(_) => false,
            Self::Refused(refusal) => [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION]
                .contains(&refusal.error.sqlstate),
            Self::Lost(_) | Self::Tls(_) | Self::Authentication | Self::Scram(_) | Self::Protocol(_) => true,
        }
    }

    /// Whether the compute runs and will accept connections soon.
    pub(super) fn is_starting(&self) -> bool {
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
    /// Whether a healthy compute refused this client, for example because the database does not exist.
    pub(crate) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Compute { error: ComputeError::Refused(_), .. })
    }
}

impl ClientFacing for ConnectError {
    fn label(&self) -> &'static str {
        match self {
            Self::ControlPlane(error @ ControlPlaneError::UnknownEndpoint(_)) => error.label(),
            Self::ControlPlane(_) => "wake_failed",
            Self::StillWaking => "wake_timeout",
            Self::Compute { error: ComputeError::Refused(_), .. } => "compute_refused",
            Self::Compute { .. } => "compute_unreachable",
        }
    }

    /// The compute's address is not shown to clients.
    fn response(&self) -> Option<Response> {
        let response = match self {
            Self::ControlPlane(error) => return error.response(),
            Self::Compute { error: ComputeError::Refused(refusal), .. } => {
                return Some(Response::Compute(refusal.frame.clone()));
            }
            Self::Compute { .. } => {
                ErrorResponse::fatal(SqlState::CONNECTION_FAILURE, "could not connect to the database server")
                    .with_hint(
                        "Try again; if this goes on, its operator finds the reason in the proxy's log.",
                    )
            }
            Self::StillWaking => ErrorResponse::fatal(
                SqlState::CANNOT_CONNECT_NOW,
                "the database did not wake up in the time allowed",
            )
            .with_hint("It may still be starting: try again in a moment."),
        };
        Some(Response::Proxy(response))
    }
}
