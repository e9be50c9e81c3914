//! Errors of the control plane's HTTP service: whether to try again, and what a client sees. Same in both dialects.
//!
//! An error is `{"error", "status": {"code", "message", "details": {"error_info": {"reason"}, "retry_info":
//! {"retry_delay_ms"}, "user_facing_message": {"message"}}}}`; all fields but `error` may be missing. Pure: no stream,
//! no clock.

use std::time::Duration;

use pq_proto::SqlState;
use serde::Deserialize;

use super::client::Response;
use crate::control_plane::ControlPlaneError;
use crate::route::EndpointName;

/// Longest text of the service that a client sees, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Longest pause between two tries that the service may name: the longest time limit of a request. A longer one means
/// the same, and would overflow the clock.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Failed try of a request.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) retry: Retry,
    /// Error for all waiting logins, if this was the last try.
    pub(super) error: ControlPlaneError,
    /// Cause, for the log.
    pub(super) reason: String,
}

/// Whether and when a failed request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    No,
    /// After the usual back-off.
    Soon,
    /// After the pause that the service named.
    After(Duration),
}

impl Failure {
    /// No reply, or none that can be read.
    pub(super) fn transport(endpoint: &EndpointName, reason: String, is_transient: bool) -> Self {
        let retry = if is_transient { Retry::Soon } else { Retry::No };
        Self { retry, error: ControlPlaneError::Unavailable(endpoint.clone()), reason }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ErrorReply {
    error: String,
    status: Option<Status>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    message: String,
    details: Details,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    error_info: Option<ErrorInfo>,
    retry_info: Option<RetryInfo>,
    user_facing_message: Option<UserFacingMessage>,
}

#[derive(Deserialize)]
struct ErrorInfo {
    reason: String,
}

#[derive(Deserialize)]
struct RetryInfo {
    retry_delay_ms: u64,
}

#[derive(Deserialize)]
struct UserFacingMessage {
    message: String,
}

/// Reads a reply with a status other than 200.
pub(super) fn read_error(endpoint: &EndpointName, response: &Response) -> Failure {
    let answer: Option<ErrorReply> = serde_json::from_slice(&response.body).ok();
    let is_json = answer.is_some();
    let ErrorReply { error, status } = answer.unwrap_or_default();
    let Status { message, details } = status.unwrap_or_default();
    let reason = details.error_info.map(|info| info.reason).unwrap_or_default();
    let class = Class::of(&reason, response.status);
    let delay = details.retry_info.map(|info| Duration::from_millis(info.retry_delay_ms));
    // A gateway in between knows nothing of the endpoint, only that the service is not reachable at the moment.
    let is_gateway = matches!(response.status, 502..=504);
    let delay = delay.or(response.retry_after).map(|delay| delay.min(RETRY_PAUSE_MAX));
    let retry = match (delay, class) {
        (Some(delay), _) => Retry::After(delay),
        (None, Class::Busy) => Retry::Soon,
        (None, Class::Other) if is_gateway => Retry::Soon,
        _ => Retry::No,
    };

    let user_message = details.user_facing_message.map(|message| shorten(message.message));
    let text = if is_json { format!("{error} {message}") } else { "malformed error".to_owned() };
    let reason = format!("status {} {reason} {}", response.status, shorten(text));
    Failure { retry, error: class.error(endpoint, user_message), reason }
}

/// Meaning of an error for the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    NotFound,
    Disabled,
    RateLimit,
    Quota,
    /// An operation on the endpoint is running, and ends by itself.
    Busy,
    /// The endpoint is locked, for an unknown time.
    Locked,
    Other,
}

impl Class {
    /// Classifies by the reason in the reply, or else by the HTTP status.
    fn of(reason: &str, status: u16) -> Self {
        match reason {
            "RESOURCE_NOT_FOUND" | "PROJECT_NOT_FOUND" | "ENDPOINT_NOT_FOUND" | "BRANCH_NOT_FOUND" => {
                Self::NotFound
            }
            "ENDPOINT_DISABLED" | "ROLE_PROTECTED" | "WRONG_LSN_OR_TIMESTAMP" => Self::Disabled,
            "RATE_LIMIT_EXCEEDED" => Self::RateLimit,
            "ACTIVE_ENDPOINTS_LIMIT_EXCEEDED" => Self::Quota,
            "RUNNING_OPERATIONS"
            | "CONCURRENCY_LIMIT_REACHED"
            | "LOCK_ALREADY_TAKEN"
            | "ENDPOINT_IDLE"
            | "PROJECT_UNDER_MAINTENANCE" => Self::Busy,
            reason if reason.ends_with("_QUOTA_EXCEEDED") || reason.ends_with("_TIME_EXCEEDED") => {
                Self::Quota
            }
            "" => match status {
                404 => Self::NotFound,
                406 => Self::Disabled,
                422 | 423 => Self::Locked,
                429 => Self::RateLimit,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }

    fn error(self, endpoint: &EndpointName, user_message: Option<String>) -> ControlPlaneError {
        let refused = |sqlstate, default: &str| ControlPlaneError::Refused {
            sqlstate,
            message: user_message.clone().unwrap_or_else(|| format!("endpoint \"{endpoint}\" {default}")),
        };
        match self {
            Self::NotFound => ControlPlaneError::UnknownEndpoint(endpoint.clone()),
            Self::Disabled => refused(SqlState::INVALID_AUTHORIZATION, "is disabled"),
            Self::RateLimit => refused(SqlState::TOO_MANY_CONNECTIONS, "gets too many connections"),
            Self::Quota => refused(SqlState::CONFIGURATION_LIMIT_EXCEEDED, "is over its quota"),
            Self::Locked => refused(SqlState::CANNOT_CONNECT_NOW, "is temporarily unavailable"),
            Self::Busy => ControlPlaneError::Busy {
                message: user_message.unwrap_or_else(|| format!("endpoint \"{endpoint}\" is busy")),
            },
            Self::Other => match user_message {
                Some(message) => {
                    ControlPlaneError::Refused { sqlstate: SqlState::CONNECTION_FAILURE, message }
                }
                None => ControlPlaneError::Unavailable(endpoint.clone()),
            },
        }
    }
}

fn shorten(mut text: String) -> String {
    let end = (0..=MESSAGE_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    // Texts in a PostgreSQL message end with a zero byte.
    text.replace('\0', " ")
}
