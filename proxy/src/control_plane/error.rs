//! Errors of a control plane: their text for the client, and how long each is cached for other clients.

use std::time::Duration;

use pq_proto::{ErrorResponse, SqlState};

use crate::client_facing::{ClientFacing, Response};
use crate::route::EndpointName;

/// How long an error is cached that says nothing about the endpoint, so that clients of the same moment do not all try.
pub(super) const TROUBLE_TTL: Duration = Duration::from_secs(1);

/// Reason why a lookup, a start or a stop failed. Every client that waited for the same lookup gets a clone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlPlaneError {
    /// The endpoint does not exist.
    #[error("endpoint \"{0}\" is not known")]
    UnknownEndpoint(EndpointName),
    /// The endpoint exists and is closed. The message comes from the control plane and is written for users.
    #[error("{message}")]
    Refused { sqlstate: SqlState, message: String },
    /// An operation on the endpoint is running, and ends by itself.
    #[error("{message}")]
    Busy { message: String },
    /// The control plane gave no usable reply. The log has the reason.
    #[error("the control plane gave no answer for endpoint \"{0}\"")]
    Unavailable(EndpointName),
    /// The compute is suspended, and no start command is configured.
    #[error("endpoint \"{0}\" does not take connections, and there is no command to start it")]
    NotStartable(EndpointName),
    /// The start command failed.
    #[error("endpoint \"{endpoint}\" could not be started: {reason}")]
    StartFailed { endpoint: EndpointName, reason: String },
    /// The limit of wakes of this endpoint is reached.
    #[error("endpoint \"{endpoint}\" was started too often in a short time")]
    TooManyWakes { endpoint: EndpointName, retry_after: Duration },
    /// The stop command failed. For the log: no client waits for a stop.
    #[error("endpoint \"{endpoint}\" could not be stopped: {reason}")]
    StopFailed { endpoint: EndpointName, reason: String },
}

impl ControlPlaneError {
    /// Whether the next lookup would have the same result.
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
    /// How long the error answers other lookups. `None` when it is not cached.
    pub(super) fn kept_for(&self, negative_ttl: Duration) -> Option<Duration> {
        match self {
            Self::UnknownEndpoint(_) | Self::Refused { .. } => Some(negative_ttl),
            Self::Busy { .. } | Self::Unavailable(_) | Self::StartFailed { .. } => {
                Some(negative_ttl.min(TROUBLE_TTL))
            }
            // These cost nothing, or no client waits for them.
            Self::NotStartable(_) | Self::StopFailed { .. } | Self::TooManyWakes { .. } => None,
        }
    }
}
