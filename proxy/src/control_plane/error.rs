//! Why a control plane gave no answer, what a client is told of it, and for how long others are told the same.

use std::time::Duration;

use pq_proto::{ErrorResponse, SqlState};

use crate::client_facing::{ClientFacing, Response};
use crate::route::EndpointName;

/// How long an error is kept that says nothing about the endpoint: whoever comes at the same time need not try too.
pub(super) const TROUBLE_TTL: Duration = Duration::from_secs(1);

/// No answer. Clones go to everybody who waited for the same one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlPlaneError {
    #[error("endpoint \"{0}\" is not known")]
    UnknownEndpoint(EndpointName),
    /// It is known and closed. The words are the control plane's, and meant for people.
    #[error("{message}")]
    Refused { sqlstate: SqlState, message: String },
    /// Something is going on with it that ends by itself.
    #[error("{message}")]
    Busy { message: String },
    /// Nothing can be said about the endpoint; the log has the reason.
    #[error("the control plane gave no answer for endpoint \"{0}\"")]
    Unavailable(EndpointName),
    #[error("endpoint \"{0}\" does not take connections, and there is no command to start it")]
    NotStartable(EndpointName),
    #[error("endpoint \"{endpoint}\" could not be started: {reason}")]
    StartFailed { endpoint: EndpointName, reason: String },
    /// It was started so often in a short time that it is not tried again now.
    #[error("endpoint \"{endpoint}\" was started too often in a short time")]
    TooManyWakes { endpoint: EndpointName, retry_after: Duration },
    /// For the log: no client waits for it.
    #[error("endpoint \"{endpoint}\" could not be stopped: {reason}")]
    StopFailed { endpoint: EndpointName, reason: String },
}

impl ControlPlaneError {
    /// It would be the same for whoever asks next.
    pub(super) const fn is_about_the_endpoint(&self) -> bool {
        matches!(self, Self::UnknownEndpoint(_) | Self::Refused { .. })
    }
}

impl ClientFacing for ControlPlaneError {
    fn label(&self) -> &'static str {
        match self {
            Self::UnknownEndpoint(_) => "unknown_endpoint",
            Self::Refused { .. } => "endpoint_closed",
            _ => "control_plane_failed",
        }
    }

    fn response(&self) -> Option<Response> {
        let response = |sqlstate| ErrorResponse::fatal(sqlstate, self.to_string());
        Some(Response::Proxy(match self {
            Self::UnknownEndpoint(_) => response(SqlState::INVALID_AUTHORIZATION).with_hint(
                "Look at the host name, or at the name after \"endpoint=\" or behind the last \"@\".",
            ),
            Self::Refused { sqlstate, .. } => response(*sqlstate),
            Self::Busy { .. } => response(SqlState::CANNOT_CONNECT_NOW).with_hint("Try again in a moment."),
            Self::TooManyWakes { retry_after, .. } => response(SqlState::CONFIGURATION_LIMIT_EXCEEDED)
                .with_hint(format!("Try again in {} s.", retry_after.as_secs().saturating_add(1))),
            Self::NotStartable(_)
            | Self::StartFailed { .. }
            | Self::StopFailed { .. }
            | Self::Unavailable(_) => response(SqlState::CONNECTION_FAILURE)
                .with_hint("Its operator finds the reason in the proxy's log."),
        }))
    }
}

impl ControlPlaneError {
    /// How long others are told the same without asking again.
    pub(super) fn kept_for(&self, negative_ttl: Duration) -> Option<Duration> {
        match self {
            Self::UnknownEndpoint(_) | Self::Refused { .. } => Some(negative_ttl),
            Self::Busy { .. } | Self::Unavailable(_) | Self::StartFailed { .. } => {
                Some(negative_ttl.min(TROUBLE_TTL))
            }
            // These cost nothing, or nobody waits for them.
            Self::NotStartable(_) | Self::StopFailed { .. } | Self::TooManyWakes { .. } => None,
        }
    }
}
