//! Routes of the walproposer's HTTP port, beside those of every program ([`telemetry::Admin`]).
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/status` | leadership, safekeepers, configuration, and what blocks commits |
//! | `PUT /v1/members` | body: a list of `{"id", "host", "port"}`; replaces the members that vote |
//! | `DELETE /v1/members/change` | gives up the change of the members that is under way |
//! | `PUT /v1/primary` | body: `{"primary": NAME}`; the only primary whose WAL the log takes from now on |
//!
//! | code of a change | meaning |
//! |---|---|
//! | 202 | the change has begun; `generation` is its last one, and `change` in the status shows its progress |
//! | 200 | the configuration is as requested already |
//! | 400 | the body is not a valid configuration |
//! | 401 | the token of `--auth-token-file` is missing or wrong |
//! | 409 | this process does not lead, or another change is under way |

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use axum::{Json, Router};
use consensus::{ChangeRefused, ConfigurationChange, Member, Primary};
use serde::{Deserialize, Serialize};
use telemetry::{Admin, ApiError, LogLevel};
use wal_types::{NodeId, ReplicaId};

use crate::admin_requests::{AdminRequestError, AdminRequests};
use crate::change_result::{ChangeAccepted, ChangeError};
use crate::metrics;
use crate::primary_name::PrimaryName;
use crate::status::StatusBoard;
use crate::status::response::StatusResponse;

/// Longest body in bytes: a list of members needs a tenth.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// State of the routes that change the configuration.
#[derive(Clone)]
struct ChangeRoutes {
    requests: AdminRequests,
    token: Option<Arc<str>>,
}

/// All routes of the HTTP port. With a token, requests that change anything must show it.
pub(crate) fn router(
    board: &StatusBoard,
    log_level: LogLevel,
    requests: AdminRequests,
    token: Option<String>,
) -> Router {
    let ready = board.clone();
    let admin = Admin {
        metrics: Arc::new(metrics::registry(board)),
        log_level,
        ready: Arc::new(move || ready.read().ready()),
    };
    let status = board.clone();
    let own = Router::new()
        .route("/v1/status", get(async move || Json(StatusResponse::from(&status.read()))))
        .route("/v1/members", put(set_members))
        .route("/v1/members/change", delete(abandon_change))
        .route("/v1/primary", put(set_primary));
    let routes = ChangeRoutes { requests, token: token.map(Into::into) };
    admin.router().merge(own.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(routes))
}

/// One entry of the body of `PUT /v1/members`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberBody {
    id: u64,
    host: String,
    port: u16,
}

/// Body of `PUT /v1/primary`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrimaryBody {
    primary: String,
}

async fn set_members(
    State(routes): State<ChangeRoutes>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    routes.authorize(&headers)?;
    let members: Vec<MemberBody> = serde_json::from_slice(&body).map_err(ApiError::bad_request)?;
    // Which copy is meant, the campaign learns from the safekeeper itself.
    let member = |body: MemberBody| Member {
        id: NodeId(body.id),
        host: body.host,
        port: body.port,
        replica: ReplicaId::default(),
    };
    routes.submit(ConfigurationChange::Members(members.into_iter().map(member).collect())).await
}

async fn abandon_change(
    State(routes): State<ChangeRoutes>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    routes.authorize(&headers)?;
    routes.submit(ConfigurationChange::Abandon).await
}

async fn set_primary(
    State(routes): State<ChangeRoutes>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    routes.authorize(&headers)?;
    let body: PrimaryBody = serde_json::from_slice(&body).map_err(ApiError::bad_request)?;
    let name: PrimaryName = body.primary.parse().map_err(ApiError::bad_request)?;
    routes.submit(ConfigurationChange::Primary(Primary::named(name.0))).await
}

impl ChangeRoutes {
    async fn submit(&self, change: ConfigurationChange) -> Result<Response, ApiError> {
        #[derive(Serialize)]
        struct Body {
            generation: u32,
        }
        let (status, generation) = match self.requests.submit(change).await? {
            ChangeAccepted::Begun(generation) => (StatusCode::ACCEPTED, generation),
            ChangeAccepted::Already(generation) => (StatusCode::OK, generation),
        };
        Ok((status, Json(Body { generation: generation.0 })).into_response())
    }

    /// Checks the token. A client that may act as a walproposer towards the safekeepers may also change the members, so it
    /// is the same token.
    fn authorize(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(token) = &self.token else { return Ok(()) };
        let shown = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
        let shown = shown.split_at_checked("bearer ".len());
        let matches = shown.is_some_and(|(scheme, shown)| {
            scheme.eq_ignore_ascii_case(b"bearer ") && equal_in_constant_time(shown, token.as_bytes())
        });
        let refusal = "send the token of --auth-token-file as Authorization: Bearer";
        if matches { Ok(()) } else { Err(ApiError::new(StatusCode::UNAUTHORIZED, refusal)) }
    }
}

/// Compares two tokens. The time does not depend on which byte differs.
fn equal_in_constant_time(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |found, (one, other)| found | (one ^ other));
    one.len() == other.len() && std::hint::black_box(difference) == 0
}

impl From<AdminRequestError> for ApiError {
    fn from(refused: AdminRequestError) -> Self {
        let status = match &refused {
            AdminRequestError::Change(
                ChangeError::Refused(ChangeRefused::NoMembers | ChangeRefused::Invalid(_))
                | ChangeError::Address(_)
                | ChangeError::TooManyFollowers,
            ) => StatusCode::BAD_REQUEST,
            AdminRequestError::Change(_) | AdminRequestError::NotLeading(_) => StatusCode::CONFLICT,
        };
        Self::new(status, refused.to_string())
    }
}
