//! What is said on the wire: questions as query parameters, answers and errors as JSON. Two dialects are published; both
//! are `GET` and differ in names and in what an answer holds.
//!
//! | | `2023` | `v1` |
//! |---|---|---|
//! | who may come in | `proxy_get_role_secret?session_id&application_name&project&role` | `get_endpoint_access_control?session_id&application_name&endpointish&role` |
//! | where is it, awake | `proxy_wake_compute?session_id&application_name&project` | `wake_compute?session_id&application_name&endpointish` |
//! | no such endpoint or role | 404 for the first call is a role without a verifier | an error that says which, or an empty `role_secret` |
//!
//! In the 2023 dialect a made-up endpoint and an unknown role are one and the same, so each such pair costs a question.
//! An error is `{"error", "status": {"code", "message", "details": {"error_info": {"reason"}, "retry_info":
//! {"retry_delay_ms"}, "user_facing_message": {"message"}}}}`; all but `error` may be missing. Pure: no stream, no clock.

use std::sync::Arc;
use std::time::Duration;

use form_urlencoded::byte_serialize;
use pq_proto::{SqlState, Text};
use serde::Deserialize;

use super::client::{Request, Response};
use crate::control_plane::{Access, Address, ControlPlaneError, Wanted};
use crate::limits::allowlist::Allowlist;
use crate::route::EndpointName;

/// Longest text of the service's that a client is shown, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Longest pause between two tries that the service may name: the longest time limit of a question. A longer one means the
/// same, and would overflow the clock.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Which names are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum Dialect {
    #[serde(rename = "2023")]
    Year2023,
    #[default]
    #[serde(rename = "v1")]
    V1,
}

/// Where a compute is that runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Woken {
    pub(super) address: Address,
    /// For which name its certificate is; it does no TLS when `None`.
    pub(super) server_name: Option<String>,
}

/// A try that gave no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) retry: Retry,
    /// What everybody who waits gets, if this was the last try.
    pub(super) error: ControlPlaneError,
    /// For the log.
    pub(super) reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    No,
    Soon,
    After(Duration),
}

impl Failure {
    /// Nobody answered, or nothing that could be read.
    pub(super) fn transport(endpoint: &EndpointName, reason: String, passes_by_itself: bool) -> Self {
        let retry = if passes_by_itself { Retry::Soon } else { Retry::No };
        Self { retry, error: ControlPlaneError::Unavailable(endpoint.clone()), reason }
    }
}

#[derive(Deserialize)]
struct AccessAnswer {
    role_secret: String,
    #[serde(default)]
    allowed_ips: Option<Vec<String>>,
    #[serde(default)]
    project_id: Option<String>,
}

#[derive(Deserialize)]
struct WakeAnswer {
    address: String,
    #[serde(default)]
    server_name: Option<String>,
}

impl Dialect {
    pub(super) fn access_request(self, wanted: &Wanted, role: &Text) -> Request {
        let call = match self {
            Self::Year2023 => "proxy_get_role_secret",
            Self::V1 => "get_endpoint_access_control",
        };
        let mut query = self.query(wanted);
        push(&mut query, "role", role.as_bytes());
        Request { call, query }
    }

    pub(super) fn wake_request(self, wanted: &Wanted) -> Request {
        let call = match self {
            Self::Year2023 => "proxy_wake_compute",
            Self::V1 => "wake_compute",
        };
        Request { call, query: self.query(wanted) }
    }

    fn query(self, wanted: &Wanted) -> String {
        let mut query = format!("session_id={}", wanted.session.to_uuid());
        let application = wanted.application.as_ref().map(Text::as_bytes);
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
        push(&mut query, name, wanted.endpoint.as_str().as_bytes());
        query
    }

    /// Who may come in. A secret that is none is an error: nobody could log in, and somebody should look at it.
    pub(super) fn read_access(self, endpoint: &EndpointName, response: &Response) -> Result<Access, Failure> {
        if self == Self::Year2023 && response.status == 404 {
            return Ok(Access::default());
        }
        let answer: AccessAnswer = read(endpoint, response)?;
        let unusable = |error| {
            let reason = format!("the role_secret cannot be used: {error}");
            Failure::transport(endpoint, reason, false)
        };
        let secret = Some(answer.role_secret).filter(|secret| !secret.is_empty());
        let verifier = secret.map(|secret| secret.parse().map_err(unusable)).transpose()?;
        let allowlist = Allowlist::parse_lossy(answer.allowed_ips.iter().flatten().map(String::as_str));
        let project = answer.project_id.map(Arc::from);
        Ok(Access { verifier, allowlist: Arc::new(allowlist), project, may_wake: false })
    }

    pub(super) fn read_woken(self, endpoint: &EndpointName, response: &Response) -> Result<Woken, Failure> {
        let WakeAnswer { address, server_name } = read(endpoint, response)?;
        let address = address.parse().map_err(|error| {
            Failure::transport(endpoint, format!("the address {address:?} cannot be used: {error}"), false)
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
        // The library's text may repeat a value, and the value may be a secret: only where it is and what kind.
        let reason = format!("malformed answer: {:?} at column {}", error.classify(), error.column());
        Failure::transport(endpoint, reason, false)
    })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ErrorAnswer {
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
    let answer: Option<ErrorAnswer> = serde_json::from_slice(&response.body).ok();
    let is_json = answer.is_some();
    let ErrorAnswer { error, status } = answer.unwrap_or_default();
    let Status { message, details } = status.unwrap_or_default();
    let reason = details.error_info.map(|info| info.reason).unwrap_or_default();
    let class = Class::of(&reason, response.status);
    let delay = details.retry_info.map(|info| Duration::from_millis(info.retry_delay_ms));
    // A gateway in between knows nothing of the endpoint; what it says of the moment counts.
    let is_gateway = matches!(response.status, 502..=504);
    let delay = delay.or(response.retry_after).map(|delay| delay.min(RETRY_PAUSE_MAX));
    let retry = match (delay, class) {
        (Some(delay), _) => Retry::After(delay),
        (None, Class::Busy) => Retry::Soon,
        (None, Class::Other) if is_gateway => Retry::Soon,
        _ => Retry::No,
    };
    let words = details.user_facing_message.map(|message| shorten(message.message));
    let text = if is_json { format!("{error} {message}") } else { "malformed error".to_owned() };
    let reason = format!("status {} {reason} {}", response.status, shorten(text));
    Failure { retry, error: class.error(endpoint, words), reason }
}

/// What an error means for the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    NotFound,
    Disabled,
    RateLimit,
    Quota,
    /// Something is going on with it that ends by itself.
    Busy,
    /// It is there and cannot be had; nobody says for how long.
    Locked,
    Other,
}

impl Class {
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

    fn error(self, endpoint: &EndpointName, words: Option<String>) -> ControlPlaneError {
        let refused = |sqlstate, default: &str| ControlPlaneError::Refused {
            sqlstate,
            message: words.clone().unwrap_or_else(|| format!("endpoint \"{endpoint}\" {default}")),
        };
        match self {
            Self::NotFound => ControlPlaneError::UnknownEndpoint(endpoint.clone()),
            Self::Disabled => refused(SqlState::INVALID_AUTHORIZATION, "is disabled"),
            Self::RateLimit => refused(SqlState::TOO_MANY_CONNECTIONS, "gets too many connections"),
            Self::Quota => refused(SqlState::CONFIGURATION_LIMIT_EXCEEDED, "is over its quota"),
            Self::Locked => refused(SqlState::CANNOT_CONNECT_NOW, "is temporarily unavailable"),
            Self::Busy => ControlPlaneError::Busy {
                message: words.unwrap_or_else(|| format!("endpoint \"{endpoint}\" is busy")),
            },
            Self::Other => match words {
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
    // It goes into a message whose texts end with a zero byte.
    text.replace('\0', " ")
}
