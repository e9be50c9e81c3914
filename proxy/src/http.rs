//! The operator's port: what every server has ([`telemetry::Admin`]), and what this one knows.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/sessions` | every open connection: where it goes, how far it is, how much it passed |
//! | `GET /v1/cache` | the addresses that are known, and how many computes are being woken |

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use telemetry::{Admin, LogLevel, Metrics as Registry};

use crate::activity::{Activities, View};
use crate::compute::Dial;
use crate::control_plane::Cached;
use crate::session::Services;

#[derive(Serialize)]
struct Sessions {
    sessions: Vec<View>,
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
) -> Router {
    let drain = Arc::clone(&services.drain);
    let ready = move || if drain.has_begun() { Err("draining".to_owned()) } else { Ok(()) };
    let admin = Admin { metrics, log_level, ready: Arc::new(ready) };
    let (activities, control_plane) = (Arc::clone(activities), Arc::clone(&services.control_plane));
    admin
        .router()
        .route("/v1/sessions", get(async move || Json(Sessions { sessions: activities.views() })))
        .route("/v1/cache", get(async move || Json(cache(&control_plane))))
}

fn cache(control_plane: &Cached) -> Cache {
    let mut addresses: Vec<Known> = control_plane
        .entries()
        .into_iter()
        .map(|(endpoint, address)| Known { endpoint: endpoint.to_string(), address })
        .collect();
    addresses.sort_by(|one, other| one.endpoint.cmp(&other.endpoint));
    Cache { addresses, waking: control_plane.waking() }
}
