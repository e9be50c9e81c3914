//! Authentication errors: why a client is refused, and what it is told.

use std::net::IpAddr;
use std::time::Duration;

use pq_proto::{ErrorResponse, FramedError, SqlState};
use scram::ScramError;

use crate::client_facing::violation;
use crate::control_plane::ControlPlaneError;
use crate::route::RouteError;

/// Why a client is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("password authentication failed for user \"{0}\"")]
    WrongPassword(String),
    #[error("address {0} is not allowed to connect to this endpoint")]
    NotAllowed(IpAddr),
    #[error("clients whose address is not known are not allowed to connect to this endpoint")]
    NoAddress,
    #[error("the password of this role cannot be checked: its verifier has too many iterations")]
    TooManyIterations,
    #[error("too many logins to this endpoint in a short time")]
    TooManyLogins(Duration),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Scram(ScramError),
    #[error("{0}")]
    Protocol(String),
    #[error("the client closed the connection")]
    Closed,
    #[error(transparent)]
    Connection(#[from] FramedError),
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
}

impl AuthError {
    pub(crate) const fn how(&self) -> &'static str {
        match self {
            Self::WrongPassword(_) => "wrong_password",
            Self::NotAllowed(_) | Self::NoAddress => "address_not_allowed",
            Self::TooManyIterations => "unusable_verifier",
            Self::TooManyLogins(_) => "too_many_to_endpoint",
            Self::Route(_) => "no_route",
            Self::Scram(_) | Self::Protocol(_) => "bad_authentication",
            Self::Closed | Self::Connection(_) => "client_left",
            Self::ControlPlane(ControlPlaneError::UnknownEndpoint(_)) => "unknown_endpoint",
            Self::ControlPlane(ControlPlaneError::Refused { .. }) => "endpoint_closed",
            Self::ControlPlane(_) => "control_plane_failed",
        }
    }

    /// Whether the client guessed a password, an endpoint or an address, and might guess right the next time.
    pub(super) const fn is_a_guess(&self) -> bool {
        let unknown = matches!(self, Self::ControlPlane(ControlPlaneError::UnknownEndpoint(_)));
        unknown || matches!(self, Self::WrongPassword(_) | Self::NotAllowed(_))
    }

    /// The error for the client. `None` when its connection is gone.
    pub(crate) fn response(&self) -> Option<ErrorResponse> {
        let with = |sqlstate| Some(ErrorResponse::fatal(sqlstate, self.to_string()));
        match self {
            Self::WrongPassword(_) => with(SqlState::INVALID_PASSWORD),
            Self::NotAllowed(_) | Self::NoAddress => with(SqlState::INVALID_AUTHORIZATION).map(|response| {
                response.with_hint("The endpoint has a list of the addresses that it takes clients from.")
            }),
            Self::TooManyIterations => with(SqlState::CONFIGURATION_LIMIT_EXCEEDED),
            Self::TooManyLogins(retry_after) => with(SqlState::TOO_MANY_CONNECTIONS).map(|response| {
                response.with_hint(format!("Try again in {} s.", retry_after.as_secs().saturating_add(1)))
            }),
            Self::Route(error) => Some(error.response()),
            Self::Scram(ScramError::ChannelBinding) => with(SqlState::INVALID_AUTHORIZATION),
            Self::Scram(ScramError::Unsupported(_)) => with(SqlState::FEATURE_NOT_SUPPORTED),
            Self::Scram(_) | Self::Protocol(_) | Self::Connection(FramedError::Protocol(_)) => {
                Some(violation(self.to_string()))
            }
            Self::ControlPlane(error) => Some(error.response()),
            Self::Closed | Self::Connection(_) => None,
        }
    }
}
