//! Authentication errors: why a client is refused, and what it is told.

use std::net::IpAddr;
use std::time::Duration;

use pq_proto::{ErrorResponse, FramedError, SqlState};
use scram::ScramError;

use crate::client_facing::{ClientFacing, Response, violation};
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
    /// Whether the client guessed a password, an endpoint or an address, and might guess right the next time.
    pub(super) const fn is_a_guess(&self) -> bool {
        let unknown = matches!(self, Self::ControlPlane(ControlPlaneError::UnknownEndpoint(_)));
        unknown || matches!(self, Self::WrongPassword(_) | Self::NotAllowed(_))
    }
}

impl ClientFacing for AuthError {
    fn label(&self) -> &'static str {
        match self {
            Self::WrongPassword(_) => "wrong_password",
            Self::NotAllowed(_) | Self::NoAddress => "address_not_allowed",
            Self::TooManyIterations => "unusable_verifier",
            Self::TooManyLogins(_) => "too_many_to_endpoint",
            Self::Scram(_) | Self::Protocol(_) => "bad_authentication",
            Self::Closed | Self::Connection(_) => "client_left",
            Self::Route(error) => error.label(),
            Self::ControlPlane(error) => error.label(),
        }
    }

    fn response(&self) -> Option<Response> {
        let fatal = |sqlstate| ErrorResponse::fatal(sqlstate, self.to_string());
        let response = match self {
            Self::WrongPassword(_) => fatal(SqlState::INVALID_PASSWORD),
            Self::NotAllowed(_) | Self::NoAddress => fatal(SqlState::INVALID_AUTHORIZATION)
                .with_hint("The endpoint has a list of the addresses that it takes clients from."),
            Self::TooManyIterations => fatal(SqlState::CONFIGURATION_LIMIT_EXCEEDED),
            Self::TooManyLogins(retry_after) => fatal(SqlState::TOO_MANY_CONNECTIONS)
                .with_hint(format!("Try again in {} s.", retry_after.as_secs().saturating_add(1))),
            Self::Scram(ScramError::ChannelBinding) => fatal(SqlState::INVALID_AUTHORIZATION),
            Self::Scram(ScramError::Unsupported(_)) => fatal(SqlState::FEATURE_NOT_SUPPORTED),
            Self::Scram(_) | Self::Protocol(_) | Self::Connection(FramedError::Protocol(_)) => {
                violation(self.to_string())
            }
            Self::Route(error) => return error.response(),
            Self::ControlPlane(error) => return error.response(),
            Self::Closed | Self::Connection(_) => return None,
        };
        Some(Response::Proxy(response))
    }
}
