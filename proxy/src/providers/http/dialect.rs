//! Dialects of the control plane: parameters of the requests, and JSON of the replies. Two dialects are published;
//! both use `GET` and differ in names and in the fields of a reply.
//!
//! | | `2023` | `v1` |
//! |---|---|---|
//! | access rules | `proxy_get_role_secret?session_id&application_name&project&role` | `get_endpoint_access_control?session_id&application_name&endpointish&role` |
//! | wake, and address | `proxy_wake_compute?session_id&application_name&project` | `wake_compute?session_id&application_name&endpointish` |
//! | unknown endpoint or role | 404 of the first call: a role without a verifier | an error that names the endpoint, or an empty `role_secret` |
//!
//! The 2023 dialect does not distinguish an unknown endpoint from an unknown role, so each such pair costs a request.
//! Errors are in [`super::service_error`]. Pure: no stream, no clock.

use std::sync::Arc;

use form_urlencoded::byte_serialize;
use pq_proto::Text;
use serde::Deserialize;

use super::client::{Request, Response};
use super::service_error::{Failure, read_error};
use crate::control_plane::{Access, Address, LookupContext};
use crate::limits::allowlist::Allowlist;
use crate::route::EndpointName;

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

    /// Reads a reply to [`Self::access_request`]. A malformed `role_secret` is an error, so that it appears in the
    /// log: no client could log in with it.
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
