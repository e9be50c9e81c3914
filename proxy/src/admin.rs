//! Admin HTTP port: the routes of every server ([`telemetry::Admin`]), and those of the proxy. Called by `server`.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/sessions` | all open connections with destination, stage and bytes; those of replaced processes too |
//! | `GET /v1/cache` | the cached addresses, and the number of computes that are being woken |
//! | `POST /v1/invalidate` | drops the cache entries of an endpoint, a project or a role, and answers with their numbers |

use std::sync::Arc;

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use telemetry::{Admin, LogLevel, Metrics as Registry};

use crate::compute::Dial;
use crate::control_plane::{CachingControlPlane, Dropped, Invalidation};
use crate::observe::activity::{Activities, View};
use crate::peers::Peers;
use crate::session::Services;

#[derive(Serialize)]
struct Sessions {
    sessions: Vec<Session>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Session {
    Own(View),
    /// Session of a peer process, as that process describes it.
    Other(serde_json::Value),
}

#[derive(Serialize)]
struct Cache {
    addresses: Vec<Known>,
    waking: usize,
}

#[derive(Serialize)]
struct Known {
    endpoint: String,
    address: String,
}

pub(crate) fn router<D: Dial>(
    services: &Arc<Services<D>>,
    activities: &Arc<Activities>,
    metrics: Arc<Registry>,
    log_level: LogLevel,
    peers: Option<Peers>,
) -> Router {
    let drain = Arc::clone(&services.drain);
    let listed = (Arc::clone(&drain), Arc::clone(activities), peers);
    let ready = move || if drain.has_begun() { Err("draining".to_owned()) } else { Ok(()) };
    let admin = Admin { metrics, log_level, ready: Arc::new(ready) };
    let control_plane = Arc::clone(&services.control_plane);
    let invalidated = Arc::clone(&control_plane);
    admin
        .router()
        .route(
            "/v1/sessions",
            get(async move || {
                let (drain, activities, peers) = listed;
                Json(sessions(&activities, drain.has_begun(), peers).await)
            }),
        )
        .route("/v1/cache", get(async move || Json(cache(&control_plane))))
        .route(
            "/v1/invalidate",
            post(async move |Json(which): Json<Invalidation>| invalidate(&invalidated, &which)),
        )
}

async fn sessions(activities: &Activities, is_draining: bool, peers: Option<Peers>) -> Sessions {
    let others = match peers {
        Some(peers) => peers.sessions().await,
        None => Vec::new(),
    };
    let own = activities.views(is_draining).into_iter().map(Session::Own);
    Sessions { sessions: own.chain(others.into_iter().map(Session::Other)).collect() }
}

fn cache(control_plane: &CachingControlPlane) -> Cache {
    let mut addresses: Vec<Known> = control_plane
        .entries()
        .into_iter()
        .map(|(endpoint, address)| Known { endpoint: endpoint.to_string(), address })
        .collect();
    addresses.sort_by(|one, other| one.endpoint.cmp(&other.endpoint));
    Cache { addresses, waking: control_plane.waking() }
}

fn invalidate(
    control_plane: &CachingControlPlane,
    which: &Invalidation,
) -> Result<Json<Dropped>, (StatusCode, String)> {
    let dropped = control_plane.invalidate(which);
    let dropped = dropped.map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, format!("{error}\n")))?;
    tracing::info!(?which, ?dropped, "invalidated");
    Ok(Json(dropped))
}
