//! [`Board`]: what the driver last wrote about itself, for people and scrapers to read.
//!
//! The driver writes, everybody else reads a copy: no reader can hold the driver up. What blocks commits is derived
//! when it is asked for ([`Snapshot::blocked`]), from nothing but the snapshot. Read by `http` and `metrics`, and by
//! `recover` to say what was missing.

mod blocked;
mod configuration;

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use wal_types::{Lsn, NodeId, ProposerId, Term};

pub(crate) use self::configuration::{ChangeState, ChangeView, ConfigurationView};
use self::configuration::{ChangeStatus, ConfigurationStatus};
use crate::config::{Cluster, SafekeeperAddress};

/// Where the run cycle stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// No usable connection to the primary.
    WaitingForPrimary,
    /// Asking the safekeepers for their positions.
    Collecting,
    /// Asking for votes.
    Campaigning,
    /// Comparing the primary's WAL with the log that won.
    Checking,
    /// Leading.
    Streaming,
}

/// How far one safekeeper has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LinkState {
    /// No connection.
    Offline,
    /// A connection is being opened, or nothing was answered on it yet.
    Connecting,
    /// It told its position or waits to be asked for a vote.
    Greeted,
    /// It answered the vote request.
    Voted,
    /// It reads WAL that is no longer buffered from another safekeeper.
    CatchingUp,
    /// It follows.
    Streaming,
}

/// One safekeeper.
#[derive(Clone, Debug)]
pub(crate) struct SafekeeperView {
    /// Which, and where.
    pub(crate) address: SafekeeperAddress,
    /// How far it is.
    pub(crate) state: LinkState,
    /// Flush position, zero when unknown.
    pub(crate) flush_lsn: Lsn,
    /// Persisted commit position, zero when unknown.
    pub(crate) commit_lsn: Lsn,
    /// Since when it leaves a message unanswered.
    pub(crate) unanswered_since: Option<Instant>,
    /// Why it is not connected, or what keeps it from following.
    pub(crate) last_error: Option<String>,
}

/// All that is shown.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// Where the run cycle stands.
    pub(crate) state: State,
    /// Since when.
    pub(crate) since: Instant,
    /// Term, once there is one.
    pub(crate) term: Option<Term>,
    /// The campaign.
    pub(crate) proposer_id: Option<ProposerId>,
    /// Where the term's own WAL begins; zero before the election.
    pub(crate) term_start_lsn: Lsn,
    /// Durable on a quorum; zero until that includes everything below the term's start.
    pub(crate) commit_lsn: Lsn,
    /// End of the primary's WAL as far as known.
    pub(crate) primary_flush_lsn: Lsn,
    /// What the primary was last told.
    pub(crate) reported_lsn: Lsn,
    /// Why there is no connection to the primary.
    pub(crate) primary_error: Option<String>,
    /// Why the last attempt to lead failed. Gone once the primary's WAL was compared successfully.
    pub(crate) refusal: Option<String>,
    /// Elections won since the start.
    pub(crate) elections: u64,
    /// Who votes and who may write, as the safekeepers told it.
    pub(crate) configuration: Option<ConfigurationView>,
    /// The last change that was asked for.
    pub(crate) change: Option<ChangeView>,
    /// By id.
    pub(crate) safekeepers: Vec<SafekeeperView>,
}

/// Shares a [`Snapshot`]; clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<watch::Sender<Snapshot>>);

impl Board {
    /// Nothing is known yet.
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let view = |address: &SafekeeperAddress| SafekeeperView {
            address: address.clone(),
            state: LinkState::Offline,
            flush_lsn: Lsn::INVALID,
            commit_lsn: Lsn::INVALID,
            unanswered_since: None,
            last_error: None,
        };
        let mut safekeepers: Vec<_> = cluster.safekeepers.iter().map(view).collect();
        safekeepers.sort_by_key(|safekeeper| safekeeper.address.id);
        Self(Arc::new(watch::Sender::new(Snapshot {
            state: State::WaitingForPrimary,
            since: Instant::now(),
            term: None,
            proposer_id: None,
            term_start_lsn: Lsn::INVALID,
            commit_lsn: Lsn::INVALID,
            primary_flush_lsn: Lsn::INVALID,
            reported_lsn: Lsn::INVALID,
            primary_error: None,
            refusal: None,
            elections: 0,
            configuration: None,
            change: None,
            safekeepers,
        })))
    }

    /// A copy.
    pub(crate) fn read(&self) -> Snapshot {
        self.0.borrow().clone()
    }

    /// Changes some of it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        self.0.send_modify(change);
    }

    /// Enters a state; the clock starts over only when it is another one.
    pub(crate) fn enter(&self, state: State) {
        self.update(|snapshot| {
            if snapshot.state != state {
                snapshot.state = state;
                snapshot.since = Instant::now();
            }
        });
    }
}

/// `GET /v1/status`.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    state: State,
    since_ms: u64,
    term: Option<u64>,
    proposer_id: Option<String>,
    term_start_lsn: String,
    commit_lsn: String,
    primary_flush_lsn: String,
    reported_lsn: String,
    blocked: Option<String>,
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
    /// None while its position is not known.
    lag_bytes: Option<u64>,
    last_error: Option<String>,
}

impl From<&Snapshot> for Status {
    fn from(snapshot: &Snapshot) -> Self {
        let voters = snapshot.voters();
        let safekeeper = |view: &SafekeeperView| SafekeeperStatus {
            id: view.address.id.0,
            address: view.address.to_string(),
            member: voters.iter().flatten().any(|&id| id == view.address.id),
            state: view.state,
            flush_lsn: view.flush_lsn.to_string(),
            commit_lsn: view.commit_lsn.to_string(),
            lag_bytes: snapshot.lag_bytes(view),
            last_error: view.last_error.clone(),
        };
        Self {
            state: snapshot.state,
            since_ms: u64::try_from(snapshot.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            term: snapshot.term.map(|term| term.0),
            proposer_id: snapshot.proposer_id.map(|id| id.to_string()),
            term_start_lsn: snapshot.term_start_lsn.to_string(),
            commit_lsn: snapshot.commit_lsn.to_string(),
            primary_flush_lsn: snapshot.primary_flush_lsn.to_string(),
            reported_lsn: snapshot.reported_lsn.to_string(),
            blocked: snapshot.blocked(),
            configuration: snapshot.configuration.as_ref().map(ConfigurationStatus::from),
            change: snapshot.change.as_ref().map(ChangeStatus::from),
            safekeepers: snapshot.safekeepers.iter().map(safekeeper).collect(),
        }
    }
}

impl Snapshot {
    /// The voting sets: the configuration's, or everybody where nothing else is known.
    pub(crate) fn voters(&self) -> Vec<Vec<NodeId>> {
        let listed = self.configuration.as_ref().map(|view| view.configuration.sets());
        let everybody = || vec![self.safekeepers.iter().map(|view| view.address.id).collect()];
        listed.filter(|sets| !sets.is_empty()).unwrap_or_else(everybody)
    }

    /// Leadership ended.
    pub(crate) fn lost_leadership(&mut self) {
        if let Some(change) = &mut self.change {
            change.interrupted();
        }
    }

    /// How far a safekeeper is behind the primary.
    pub(crate) fn lag_bytes(&self, view: &SafekeeperView) -> Option<u64> {
        view.flush_lsn.is_valid().then(|| self.primary_flush_lsn.bytes_since(view.flush_lsn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wal_types::{NodeId, TenantTimelineId};

    #[test]
    fn status_is_the_documented_json() {
        let safekeepers = vec![SafekeeperAddress { id: NodeId(1), host: "h".into(), port: 1 }];
        let cluster = Cluster { safekeepers, id: TenantTimelineId::default(), token: None };
        let mut snapshot = Board::new(&cluster).read();
        snapshot.state = State::Streaming;
        snapshot.commit_lsn = Lsn(0x20);
        snapshot.safekeepers[0].state = LinkState::CatchingUp;
        let json = serde_json::to_value(Status::from(&snapshot)).unwrap();
        assert_eq!(json["state"], "streaming");
        assert_eq!(json["commit_lsn"], "0/20");
        assert_eq!(json["safekeepers"][0]["state"], "catching_up");
        assert_eq!(json["safekeepers"][0]["lag_bytes"], serde_json::Value::Null);
        assert_eq!(json["term"], serde_json::Value::Null);
    }
}
