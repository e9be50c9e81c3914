//! JSON body of `GET /v1/status`. The names of its fields are read by tools outside of this repository.

use serde::Serialize;

use super::configuration::{ChangeStatus, ConfigurationStatus};
use super::settings::SettingsStatus;
use super::{LeadershipState, LinkState, SafekeeperView, StatusSnapshot};

/// Body of `GET /v1/status`. Positions are PostgreSQL's text form, `0/0` when unknown.
#[derive(Debug, Serialize)]
pub(crate) struct StatusResponse {
    tenant_id: String,
    timeline_id: String,
    state: LeadershipState,
    since_ms: u64,
    term: Option<u64>,
    proposer_id: Option<String>,
    term_start_lsn: String,
    commit_lsn: String,
    primary_flush_lsn: String,
    reported_lsn: String,
    blocked: Option<String>,
    primary_settings: Option<SettingsStatus>,
    /// Seconds for which a primary with other WAL than the log still stays away; none when it does not.
    stays_away_s: Option<u64>,
    configuration: Option<ConfigurationStatus>,
    change: Option<ChangeStatus>,
    safekeepers: Vec<SafekeeperStatus>,
}

#[derive(Debug, Serialize)]
struct SafekeeperStatus {
    id: u64,
    address: String,
    /// Whether it votes, now or in the next configuration.
    member: bool,
    state: LinkState,
    flush_lsn: String,
    commit_lsn: String,
    /// None while the position is unknown.
    lag_bytes: Option<u64>,
    /// It answers, and has written nothing of the WAL that it was sent for some seconds: its disk is full.
    no_room: bool,
    /// It lacks WAL that no other safekeeper has. The others go on without it.
    needs_reseed: bool,
    /// It has lost WAL that it acknowledged, and does not vote.
    lost: bool,
    last_error: Option<String>,
}

impl From<&StatusSnapshot> for StatusResponse {
    fn from(snapshot: &StatusSnapshot) -> Self {
        let voters = snapshot.voters();
        let safekeeper = |view: &SafekeeperView| SafekeeperStatus {
            id: view.address.id.0,
            address: view.address.to_string(),
            member: voters.iter().flatten().any(|&id| id == view.address.id),
            state: view.state,
            flush_lsn: view.flush_lsn.to_string(),
            commit_lsn: view.commit_lsn.to_string(),
            lag_bytes: snapshot.lag_bytes(view),
            no_room: view.has_no_room(),
            needs_reseed: view.needs_reseed,
            lost: view.lost,
            last_error: view.last_error.clone(),
        };

        Self {
            tenant_id: snapshot.id.tenant.to_string(),
            timeline_id: snapshot.id.timeline.to_string(),
            state: snapshot.state,
            since_ms: u64::try_from(snapshot.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            term: snapshot.term.map(|term| term.0),
            proposer_id: snapshot.proposer_id.map(|id| id.to_string()),
            term_start_lsn: snapshot.term_start_lsn.to_string(),
            commit_lsn: snapshot.commit_lsn.to_string(),
            primary_flush_lsn: snapshot.primary_flush_lsn.to_string(),
            reported_lsn: snapshot.reported_lsn.to_string(),
            blocked: snapshot.blocked(),
            primary_settings: snapshot.settings.as_ref().map(SettingsStatus::from),
            stays_away_s: snapshot.stays_away().map(|left| left.as_secs()),
            configuration: snapshot.configuration.as_ref().map(ConfigurationStatus::from),
            change: snapshot.change.as_ref().map(ChangeStatus::from),
            safekeepers: snapshot.safekeepers.iter().map(safekeeper).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cluster, SafekeeperAddress};
    use crate::status::StatusBoard;
    use wal_types::{Lsn, NodeId, TenantTimelineId};

    #[test]
    fn status_response_has_documented_json_fields() {
        let safekeepers = vec![SafekeeperAddress { id: NodeId(1), host: "h".into(), port: 1 }];
        let cluster = Cluster { safekeepers, id: TenantTimelineId::default(), token: None };
        let mut snapshot = StatusBoard::new(&cluster).read();
        snapshot.state = LeadershipState::Streaming;
        snapshot.commit_lsn = Lsn(0x20);
        snapshot.safekeepers[0].state = LinkState::CatchingUp;
        let json = serde_json::to_value(StatusResponse::from(&snapshot)).unwrap();
        assert_eq!(json["timeline_id"], "0".repeat(32));
        assert_eq!(json["state"], "streaming");
        assert_eq!(json["commit_lsn"], "0/20");
        assert_eq!(json["safekeepers"][0]["state"], "catching_up");
        assert_eq!(json["safekeepers"][0]["lag_bytes"], serde_json::Value::Null);
        assert_eq!(json["term"], serde_json::Value::Null);
    }
}
