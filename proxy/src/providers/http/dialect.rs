//! Dialects of the control plane: request parameters, and JSON replies and errors. Two dialects are published; both use
//! `GET` and differ in names and in the fields of a reply.
//!
//! | | `2023` | `v1` |
//! |---|---|---|
//! | access rules | `proxy_get_role_secret?session_id&application_name&project&role` | `get_endpoint_access_control?session_id&application_name&endpointish&role` |
//! | wake, and address | `proxy_wake_compute?session_id&application_name&project` | `wake_compute?session_id&application_name&endpointish` |
//! | unknown endpoint or role | 404 of the first call: a role without a verifier | an error that names the endpoint, or an empty `role_secret` |
//!
//! The 2023 dialect does not distinguish an unknown endpoint from an unknown role, so each such pair costs a request.
//! An error is `{"error", "status": {"code", "message", "details": {"error_info": {"reason"}, "retry_info":
//! {"retry_delay_ms"}, "user_facing_message": {"message"}}}}`; all but `error` may be missing. Pure: no stream, no clock.

use std::sync::Arc;
use std::time::Duration;

use form_urlencoded::byte_serialize;
use pq_proto::{SqlState, Text};
use serde::Deserialize;

use super::client::{Request, Response};
use crate::control_plane::{Access, Address, ControlPlaneError, LookupContext};
use crate::limits::allowlist::Allowlist;
use crate::route::EndpointName;

/// Longest text of the service that a client sees, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Longest pause between two tries that the service may name: the longest time limit of a question. A longer one means the
/// same, and would overflow the clock.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Dialect of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum Dialect {
    #[serde(rename = "2023")]
    Year2023,
    #[default]
    #[serde(rename = "v1")]
    V1,
}

/// Reply to a wake: a running compute.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Woken {
    pub(super) address: Address,
    /// Name in the certificate of the compute. `None` when it does not do TLS.
    pub(super) server_name: Option<String>,
}

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

#[derive(Deserialize)]
struct AccessReply {
    role_secret: String,
    #[serde(default)]
    allowed_ips: Option<Vec<String>>,
    #[serde(default)]
    project_id: Option<String>,
}

#[derive(Deserialize)]
struct WakeReply {
    address: String,
    #[serde(default)]
    server_name: Option<String>,
}

impl Dialect {
    /// Request for the access rules of an endpoint and the verifier of a role.
    pub(super) fn access_request(self, context: &LookupContext, role: &Text) -> Request {
        let call = match self {
            Self::Year2023 => "proxy_get_role_secret",
            Self::V1 => "get_endpoint_access_control",
        };
        let mut query = self.query(context);
        push(&mut query, "role", role.as_bytes());
        Request { call, query }
    }

    /// Request to wake a compute and to return its address.
    pub(super) fn wake_request(self, context: &LookupContext) -> Request {
        let call = match self {
            Self::Year2023 => "proxy_wake_compute",
            Self::V1 => "wake_compute",
        };
        Request { call, query: self.query(context) }
    }

    fn query(self, context: &LookupContext) -> String {
        let mut query = format!("session_id={}", context.session.to_uuid());
        let application = context.application.as_ref().map(Text::as_bytes);
        match (self, application) {
            (Self::Year2023, None) => {}
            (Self::Year2023, Some(name)) => push(&mut query, "application_name", name),
            (Self::V1, name) => {
                push(&mut query, "application_name", &[name.unwrap_or_default(), b"/tcp"].concat());
            }
        }

        let name = match self {
            Self::Year2023 => "project",
            Self::V1 => "endpointish",
        };
        push(&mut query, name, context.endpoint.as_str().as_bytes());
        query
    }

    /// Reads a reply to [`Self::access_request`]. A malformed `role_secret` is an error, so that it appears in the log: no
    /// client could log in with it.
    pub(super) fn read_access(self, endpoint: &EndpointName, response: &Response) -> Result<Access, Failure> {
        if self == Self::Year2023 && response.status == 404 {
            return Ok(Access::default());
        }
        let answer: AccessReply = read(endpoint, response)?;
        let unusable = |error| {
            let reason = format!("malformed role_secret: {error}");
            Failure::transport(endpoint, reason, false)
        };

        let secret = Some(answer.role_secret).filter(|secret| !secret.is_empty());
        let verifier = secret.map(|secret| secret.parse().map_err(unusable)).transpose()?;
        let allowlist = Allowlist::parse_lossy(answer.allowed_ips.iter().flatten().map(String::as_str));
        let project = answer.project_id.map(Arc::from);
        Ok(Access { verifier, allowlist: Arc::new(allowlist), project, may_wake: false })
    }

    /// Reads a reply to [`Self::wake_request`].
    pub(super) fn read_woken(self, endpoint: &EndpointName, response: &Response) -> Result<Woken, Failure> {
        let WakeReply { address, server_name } = read(endpoint, response)?;
        let address = address.parse().map_err(|error| {
            Failure::transport(endpoint, format!("malformed address {address:?}: {error}"), false)
        })?;
        Ok(Woken { address, server_name: server_name.filter(|name| !name.is_empty()) })
    }
}

fn push(query: &mut String, name: &str, value: &[u8]) {
    query.extend(["&", name, "="]);
    query.extend(byte_serialize(value));
}

fn read<'r, T: Deserialize<'r>>(endpoint: &EndpointName, response: &'r Response) -> Result<T, Failure> {
    if response.status != 200 {
        return Err(read_error(endpoint, response));
    }
    serde_json::from_slice(&response.body).map_err(|error| {
        // The library's text may repeat a value, which may be a secret: only the kind and the place of the error.
        let reason = format!("malformed reply: {:?} at column {}", error.classify(), error.column());
        Failure::transport(endpoint, reason, false)
    })
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

fn read_error(endpoint: &EndpointName, response: &Response) -> Failure {
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
