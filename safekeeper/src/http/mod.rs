//! Admin HTTP port: shows the safekeeper and its timelines to the operator, and creates timelines.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/status` | number, id of the disk, version, count of timelines, room on the disk |
//! | `GET /v1/timelines` | all timelines |
//! | `POST /v1/timelines` | creates a timeline: 201; 200 when the same one exists, 409 when another one does |
//! | `GET /v1/timelines/{tenant}/{timeline}` | one timeline; 404 when it does not exist |
//! | `GET /v1/timelines/{tenant}/{timeline}/slots` | its replication slots; `slot_status` has the fields |
//! | `PUT /v1/timelines/{tenant}/{timeline}/bootstrap` | tells a new copy the first members; 409 when it has others |
//!
//! These routes stand beside those that every program has ([`telemetry::admin`]). With a token, every route under `/v1`
//! asks for it. Errors are JSON: `{"error": "…"}`.

mod new_timeline;
mod slot_status;
mod timeline_status;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use consensus::BootstrapRefused;
use serde::Serialize;
use telemetry::ApiError;
use utils::{DescriptorBudget, Handshakes};
use wal_types::{NodeId, TenantTimelineId, TimelineId};

use crate::auth::Token;
use crate::disk::DiskState;
use crate::timeline::{BootstrapError, CreateError, Creation, NotServedCause, Timelines};
use new_timeline::{BootstrapBody, NewTimelineBody, bad_field};
use slot_status::SlotStatus;
use timeline_status::TimelineStatus;

/// Longest body in bytes: a list of members needs a tenth.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What the routes need.
#[derive(Clone)]
pub(crate) struct HttpState {
    pub(crate) node: NodeId,
    pub(crate) pg_advertise: Option<String>,
    pub(crate) timelines: Arc<Timelines>,
    pub(crate) handshakes: Arc<Handshakes>,
    pub(crate) budget: DescriptorBudget,
    /// Limit of the WAL that a slot holds, in bytes.
    pub(crate) slot_keep_bytes_max: u64,
    pub(crate) disk: Arc<DiskState>,
}

/// The routes of this file, without those that every program has.
pub(crate) fn router(state: HttpState) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/timelines", get(list).post(create))
        .route("/v1/timelines/{tenant}/{timeline}", get(show))
        .route("/v1/timelines/{tenant}/{timeline}/slots", get(list_slots))
        .route("/v1/timelines/{tenant}/{timeline}/bootstrap", put(bootstrap))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

/// Requires the token for every route under `/v1`. Without a token every client is trusted.
pub(crate) fn require_token(router: Router, token: Option<Arc<Token>>) -> Router {
    match token {
        Some(token) => router.layer(from_fn_with_state(token, check_token)),
        None => router,
    }
}

async fn check_token(State(token): State<Arc<Token>>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    if !request.uri().path().starts_with("/v1/") || token.matches_bearer(header.map(|value| value.as_bytes()))
    {
        return next.run(request).await;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    let message = "this request needs the token of --auth-token-file as Authorization: Bearer TOKEN\n";
    (StatusCode::UNAUTHORIZED, challenge, message).into_response()
}

#[derive(Serialize)]
struct SafekeeperStatus {
    id: u64,
    /// Names the disk: a data directory that was copied elsewhere is not served there.
    disk_id: String,
    version: &'static str,
    timelines: usize,
    disk: DiskStatus,
    descriptors: DescriptorStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pg_advertise: Option<String>,
}

/// Room on the file system of the data directory. Zeros before the first measurement.
#[derive(Serialize)]
struct DiskStatus {
    /// `normal`; `high`: old WAL is given up that readers and members lack; `stop`: also what slots need.
    level: &'static str,
    total_bytes: u64,
    free_bytes: u64,
    /// Seconds until appends pause, at the rate of the last ten minutes; null while that is not in sight.
    seconds_to_pause: Option<u64>,
    /// Files of the reserve that are there, and that should be.
    reserve_files: usize,
    reserve_files_wanted: usize,
}

impl DiskStatus {
    fn new(state: &HttpState) -> Self {
        let (total_bytes, free_bytes) = state.disk.total_and_free();
        let (reserve_files, reserve_files_wanted) = state.timelines.reserve_files();
        Self {
            level: state.disk.level().label(),
            total_bytes,
            free_bytes,
            seconds_to_pause: state.disk.seconds_to_full(),
            reserve_files,
            reserve_files_wanted,
        }
    }
}

/// Shares of the open files.
#[derive(Serialize)]
struct DescriptorStatus {
    /// Soft limit of the process (RLIMIT_NOFILE).
    limit: usize,
    connections_max: usize,
    handshakes_max: usize,
    handshakes_per_address_max: usize,
    /// Clients that have not authenticated yet.
    handshakes: usize,
    /// Descriptors that only the disk may use.
    disk_reserve: usize,
    /// Times that the disk found no free descriptor since the start.
    disk_shortages: u64,
}

async fn status(State(state): State<HttpState>) -> Json<SafekeeperStatus> {
    Json(SafekeeperStatus {
        id: state.node.0,
        disk_id: TimelineId(state.timelines.identity().disk).to_string(),
        version: env!("CARGO_PKG_VERSION"),
        timelines: state.timelines.all().len(),
        disk: DiskStatus::new(&state),
        descriptors: DescriptorStatus {
            limit: state.budget.limit,
            connections_max: state.budget.connections,
            handshakes_max: state.budget.handshakes,
            handshakes_per_address_max: state.budget.handshakes_per_address,
            handshakes: state.handshakes.open(),
            disk_reserve: wal_store::HANDLES_RESERVED,
            disk_shortages: wal_store::handle_shortages(),
        },
        pg_advertise: state.pg_advertise,
    })
}

async fn list(State(state): State<HttpState>) -> Json<Vec<TimelineStatus>> {
    let all = state.timelines.all();
    Json(all.iter().map(|(id, timeline)| TimelineStatus::new(*id, timeline)).collect())
}

async fn show(
    State(state): State<HttpState>,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<TimelineStatus>, ApiError> {
    let id = parse_id(&tenant, &timeline)?;
    state.timelines.opened(id).await;
    let timeline = state.timelines.find(id).ok_or_else(|| missing(id))?;
    Ok(Json(TimelineStatus::new(id, &timeline)))
}

async fn list_slots(
    State(state): State<HttpState>,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<Vec<SlotStatus>>, ApiError> {
    let id = parse_id(&tenant, &timeline)?;
    let timeline = state.timelines.find(id).ok_or_else(|| missing(id))?;
    let timeline = timeline.map_err(|why| {
        let message = format!("timeline {id} is not served: {}", why.reason);
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    Ok(Json(SlotStatus::of_timeline(&timeline, state.slot_keep_bytes_max)))
}

async fn bootstrap(
    State(state): State<HttpState>,
    Path((tenant, timeline)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<TimelineStatus>, ApiError> {
    let id = parse_id(&tenant, &timeline)?;
    let body: BootstrapBody = serde_json::from_slice(&body).map_err(|error| bad_field("body", error))?;
    let members = body.validate()?;
    state.timelines.opened(id).await;
    let timeline = state.timelines.find(id).ok_or_else(|| missing(id))?;
    match &timeline {
        Ok(timeline) => timeline.bootstrap(members).await?,
        Err(why) => return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why.reason.to_string())),
    }
    Ok(Json(TimelineStatus::new(id, &timeline)))
}

fn parse_id(tenant: &str, timeline: &str) -> Result<TenantTimelineId, ApiError> {
    Ok(TenantTimelineId {
        tenant: tenant.parse().map_err(|error| bad_field("tenant", error))?,
        timeline: timeline.parse().map_err(|error| bad_field("timeline", error))?,
    })
}

fn missing(id: TenantTimelineId) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("timeline {id} does not exist on this safekeeper"))
}

async fn create(
    State(state): State<HttpState>,
    body: Bytes,
) -> Result<(StatusCode, Json<TimelineStatus>), ApiError> {
    let body: NewTimelineBody = serde_json::from_slice(&body).map_err(|error| bad_field("body", error))?;
    let new = body.validate()?;
    let id = new.lineage.id;

    let creation = state.timelines.create(new).await?;
    let Some(timeline) = state.timelines.find(id) else {
        let message = format!("timeline {id} disappeared after its creation");
        return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message));
    };
    let status = match creation {
        Creation::Created => StatusCode::CREATED,
        Creation::AlreadyExists => StatusCode::OK,
    };
    Ok((status, Json(TimelineStatus::new(id, &timeline))))
}

impl From<BootstrapError> for ApiError {
    fn from(error: BootstrapError) -> Self {
        let status = match &error {
            BootstrapError::Refused(
                BootstrapRefused::Configured(_) | BootstrapRefused::OtherBirth { .. },
            ) => StatusCode::CONFLICT,
            BootstrapError::Refused(_) => StatusCode::BAD_REQUEST,
            BootstrapError::Failed(_) | BootstrapError::ShardEnded(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        let status = match &error {
            CreateError::NotServed { why, .. } => match why.cause {
                NotServedCause::Opening
                | NotServedCause::DiskFull
                | NotServedCause::DiskFailed
                | NotServedCause::ShardEnded => StatusCode::SERVICE_UNAVAILABLE,
                NotServedCause::Quarantined => StatusCode::CONFLICT,
            },
            CreateError::Different { .. } => StatusCode::CONFLICT,
            CreateError::Store { error: wal_store::StoreError::Full { .. }, .. } => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            CreateError::Store { error: wal_store::StoreError::OutOfHandles { .. }, .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            CreateError::Store { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            CreateError::ShuttingDown { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}
