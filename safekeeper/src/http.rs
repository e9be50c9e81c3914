//! The HTTP port: what an operator sees, and how timelines come into being.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/status` | number, version, count of timelines |
//! | `GET /v1/timelines` | all of them |
//! | `POST /v1/timelines` | creates one: 201; 200 when the same is there, 409 when another one is |
//! | `GET /v1/timelines/{tenant}/{timeline}` | one |
//!
//! beside the routes that every program has ([`telemetry::admin`]). With a token, everything under `/v1` asks for it.

use std::fmt;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use consensus::{Configuration, Dialect, Lineage, Member};
use serde::{Deserialize, Serialize};
use telemetry::ApiError;
use wal_store::Health;
use wal_types::{Generation, Lsn, NodeId, SegmentSize, SystemId, TenantTimelineId, TimelineId, Tli};

use crate::auth::Token;
use crate::timeline::{CreateError, Created, NewTimeline, NotServed, Timeline, Timelines};

/// Longest body in bytes: a list of members needs a tenth.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What the routes show.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) node: NodeId,
    pub(crate) pg_advertise: Option<String>,
    pub(crate) timelines: Arc<Timelines>,
}

/// The routes, without those that every program has.
pub(crate) fn router(shown: Shown) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/timelines", get(list).post(create))
        .route("/v1/timelines/{tenant}/{timeline}", get(show))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shown)
}

/// Puts the token before everything under `/v1`; without a token everybody is trusted.
pub(crate) fn guarded(router: Router, token: Option<Arc<Token>>) -> Router {
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
    (StatusCode::UNAUTHORIZED, challenge, "send the token as Authorization: Bearer\n").into_response()
}

/// What a dialect is called in HTTP and in messages.
pub(crate) const fn dialect_name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Neon => "neon",
        Dialect::Holdfast => "holdfast",
    }
}

const fn health_name(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Full => "full",
        Health::Failed => "poisoned",
        Health::Lost => "lost",
        Health::Corrupt => "corrupt",
    }
}

#[derive(Serialize)]
struct Status {
    id: u64,
    /// Names the disk: a creation that carries it is refused after the disk was wiped or exchanged.
    disk_id: String,
    version: &'static str,
    timelines: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pg_advertise: Option<String>,
}

async fn status(State(shown): State<Shown>) -> Json<Status> {
    Json(Status {
        id: shown.node.0,
        disk_id: TimelineId(shown.timelines.identity().disk).to_string(),
        version: env!("CARGO_PKG_VERSION"),
        timelines: shown.timelines.all().len(),
        pg_advertise: shown.pg_advertise,
    })
}

/// A timeline. One that cannot be opened has only a name and the reason; its health says whether that may pass.
#[derive(Serialize)]
#[serde(untagged)]
enum TimelineStatus {
    Served(Box<Served>),
    NotServed { tenant_id: String, timeline_id: String, health: &'static str, error: String },
}

#[derive(Serialize)]
struct Served {
    tenant_id: String,
    timeline_id: String,
    dialect: &'static str,
    health: &'static str,
    term: u64,
    last_log_term: u64,
    write_lsn: String,
    flush_lsn: String,
    commit_lsn: String,
    persisted_commit_lsn: String,
    start_lsn: String,
    oldest_lsn: String,
    history: Vec<HistoryEntry>,
    system_id: String,
    pg_version: u32,
    wal_segment_size: u32,
    members: Vec<MemberAddress>,
    /// Set while acknowledged WAL is missing: up to where, and the term when that was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<Lost>,
    /// Damaged files that were put aside, in the timeline's directory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    quarantined: Vec<String>,
    truncations: u64,
    wal_receivers: usize,
    wal_senders: usize,
}

#[derive(Serialize)]
struct Lost {
    term: u64,
    acked_upto: String,
}

#[derive(Serialize)]
struct HistoryEntry {
    term: u64,
    start_lsn: String,
    tli: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberAddress {
    id: u64,
    host: String,
    port: u16,
    /// In a creation: the disk that the member is known to have, as its `/v1/status` tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk_id: Option<String>,
}

impl TimelineStatus {
    fn new(id: TenantTimelineId, timeline: &Result<Arc<Timeline>, NotServed>) -> Self {
        match timeline {
            Ok(timeline) => Self::Served(Box::new(Served::new(timeline))),
            Err(why) => Self::NotServed {
                tenant_id: id.tenant.to_string(),
                timeline_id: id.timeline.to_string(),
                health: health_name(why.health),
                error: why.reason.to_string(),
            },
        }
    }
}

impl Served {
    fn new(timeline: &Timeline) -> Self {
        let snapshot = timeline.snapshot();
        let lineage = &snapshot.lineage;
        let entry = |entry: &consensus::TermStart| HistoryEntry {
            term: entry.term.0,
            start_lsn: entry.start.to_string(),
            tli: entry.tli.0,
        };
        let member = |member: &Member| MemberAddress {
            id: member.id.0,
            host: member.host.clone(),
            port: member.port,
            disk_id: None,
        };
        Self {
            tenant_id: lineage.id.tenant.to_string(),
            timeline_id: lineage.id.timeline.to_string(),
            dialect: dialect_name(lineage.dialect),
            health: health_name(snapshot.health),
            term: snapshot.term.0,
            last_log_term: snapshot.last_log_term.0,
            write_lsn: snapshot.write_lsn.to_string(),
            flush_lsn: snapshot.flush_lsn.to_string(),
            commit_lsn: snapshot.commit_lsn.to_string(),
            persisted_commit_lsn: snapshot.persisted_commit_lsn.to_string(),
            start_lsn: lineage.start_lsn.to_string(),
            oldest_lsn: snapshot.oldest_lsn.to_string(),
            history: snapshot.history.entries().iter().map(entry).collect(),
            system_id: lineage.system_id.to_string(),
            pg_version: lineage.pg_version,
            wal_segment_size: lineage.segment_size.bytes(),
            members: snapshot.configuration.members.iter().map(member).collect(),
            lost: snapshot
                .lost
                .map(|lost| Lost { term: lost.term.0, acked_upto: lost.acked_upto.to_string() }),
            quarantined: snapshot.quarantined.to_vec(),
            truncations: snapshot.truncations,
            wal_receivers: timeline.proposers(),
            wal_senders: timeline.readers.count(),
        }
    }
}

async fn list(State(shown): State<Shown>) -> Json<Vec<TimelineStatus>> {
    let all = shown.timelines.all();
    Json(all.iter().map(|(id, timeline)| TimelineStatus::new(*id, timeline)).collect())
}

async fn show(
    State(shown): State<Shown>,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<TimelineStatus>, ApiError> {
    let id = TenantTimelineId {
        tenant: tenant.parse().map_err(|error| bad("tenant", error))?,
        timeline: timeline.parse().map_err(|error| bad("timeline", error))?,
    };
    let Some(timeline) = shown.timelines.find(id) else {
        return Err(ApiError::new(StatusCode::NOT_FOUND, format!("there is no timeline {id} here")));
    };
    Ok(Json(TimelineStatus::new(id, &timeline)))
}

/// Body of a creation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTimelineBody {
    tenant_id: String,
    timeline_id: String,
    start_lsn: String,
    system_id: String,
    pg_version: u32,
    wal_segment_size: u32,
    dialect: String,
    members: Vec<MemberAddress>,
    /// PostgreSQL's timeline number at `start_lsn`, for a cluster that was promoted before.
    start_tli: Option<u32>,
}

async fn create(
    State(shown): State<Shown>,
    body: Bytes,
) -> Result<(StatusCode, Json<TimelineStatus>), ApiError> {
    let body: NewTimelineBody = serde_json::from_slice(&body).map_err(|error| bad("body", error))?;
    let new = body.validate(shown.node)?;
    let id = new.lineage.id;
    let created = shown.timelines.create(new).await?;
    let Some(timeline) = shown.timelines.find(id) else {
        return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("timeline {id} is gone again")));
    };
    let status = match created {
        Created::Now => StatusCode::CREATED,
        Created::Before => StatusCode::OK,
    };
    Ok((status, Json(TimelineStatus::new(id, &timeline))))
}

impl NewTimelineBody {
    fn validate(self, node: NodeId) -> Result<NewTimeline, ApiError> {
        let start_lsn: Lsn = self.start_lsn.parse().map_err(|error| bad("start_lsn", error))?;
        let segment_size =
            SegmentSize::new(self.wal_segment_size).map_err(|error| bad("wal_segment_size", error))?;
        if start_lsn == Lsn::INVALID || segment_size.offset_of(start_lsn) != 0 {
            return Err(bad("start_lsn", format!("{start_lsn} is not the start of a segment")));
        }
        let dialect = [Dialect::Neon, Dialect::Holdfast]
            .into_iter()
            .find(|dialect| dialect_name(*dialect) == self.dialect);
        let dialect = dialect.ok_or_else(|| bad("dialect", "expected \"holdfast\" or \"neon\""))?;
        let start_tli = match self.start_tli {
            None | Some(1) => Tli::FIRST,
            Some(tli @ 2..) if dialect == Dialect::Holdfast => Tli(tli),
            Some(tli) => return Err(bad("start_tli", format!("{tli} is not possible"))),
        };
        let lineage = Lineage {
            id: TenantTimelineId {
                tenant: self.tenant_id.parse().map_err(|error| bad("tenant_id", error))?,
                timeline: self.timeline_id.parse().map_err(|error| bad("timeline_id", error))?,
            },
            dialect,
            system_id: SystemId(
                self.system_id
                    .parse()
                    .map_err(|_| bad("system_id", "expected a decimal number in quotes"))?,
            ),
            pg_version: self.pg_version,
            segment_size,
            start_lsn,
            start_tli,
        };
        let own = self.members.iter().find(|member| member.id == node.0);
        let disk = own.and_then(|own| own.disk_id.as_deref()).map(str::parse::<TimelineId>).transpose();
        let disk = disk.map_err(|_| bad("disk_id", "expected 32 hexadecimal digits"))?;
        let disk = disk.map(|disk| disk.0);
        Ok(NewTimeline { lineage, configuration: configuration(self.members, node)?, disk })
    }
}

/// The members as the operator writes them down: generation zero, "not managed".
fn configuration(members: Vec<MemberAddress>, node: NodeId) -> Result<Configuration, ApiError> {
    let members = members.into_iter();
    let members: Vec<_> = members
        .map(|member| Member { id: NodeId(member.id), host: member.host, port: member.port })
        .collect();
    if !members.iter().any(|member| member.id == node) {
        return Err(bad("members", format!("this safekeeper, number {node}, is not among them")));
    }
    let longest = consensus::codec::HOST_BYTES_MAX;
    if let Some(unusable) = members.iter().find(|member| {
        member.host.is_empty()
            || member.host.len() > longest
            || member.host.contains('\0')
            || member.port == 0
    }) {
        return Err(bad("members", format!("number {} has no usable host and port", unusable.id)));
    }
    let configuration = Configuration { generation: Generation(0), members, ..Configuration::default() };
    configuration.validate().map_err(|error| bad("members", error))?;
    Ok(configuration)
}

/// 400: `field` of the request is wrong.
fn bad(field: &str, error: impl fmt::Display) -> ApiError {
    ApiError::bad_request(format_args!("{field}: {error}"))
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        let status = match &error {
            CreateError::NotServed { why, .. } if why.is_retried() => StatusCode::SERVICE_UNAVAILABLE,
            CreateError::Different { .. } | CreateError::OtherDisk { .. } | CreateError::NotServed { .. } => {
                StatusCode::CONFLICT
            }
            CreateError::Store { error: wal_store::StoreError::Full { .. }, .. } => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            CreateError::Store { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            CreateError::Ending { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}
