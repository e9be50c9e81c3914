//! [`StatusBoard`]: what the driver last wrote about itself, for people and scrapers to read.
//!
//! The driver writes, everybody else reads a copy: no reader can hold the driver up. What blocks commits is derived
//! when it is asked for ([`StatusSnapshot::blocked`]), from nothing but the snapshot. Read by `http` and `metrics`, and by
//! `recover` to say what was missing.

mod blocked;
mod configuration;
mod response;

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use wal_types::{Lsn, NodeId, ProposerId, Term};

pub(crate) use self::configuration::{ChangeState, ChangeView, ConfigurationView};
pub(crate) use self::response::StatusResponse;
use crate::config::{Cluster, SafekeeperAddress};

/// Where the run cycle stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LeadershipState {
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
pub(crate) struct StatusSnapshot {
    /// Where the run cycle stands.
    pub(crate) state: LeadershipState,
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

/// Shares a [`StatusSnapshot`]; clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct StatusBoard(Arc<watch::Sender<StatusSnapshot>>);

impl StatusBoard {
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
        Self(Arc::new(watch::Sender::new(StatusSnapshot {
            state: LeadershipState::WaitingForPrimary,
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
    pub(crate) fn read(&self) -> StatusSnapshot {
        self.0.borrow().clone()
    }

    /// Changes some of it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut StatusSnapshot)) {
        self.0.send_modify(change);
    }

    /// Enters a state; the clock starts over only when it is another one.
    pub(crate) fn enter(&self, state: LeadershipState) {
        self.update(|snapshot| {
            if snapshot.state != state {
                snapshot.state = state;
                snapshot.since = Instant::now();
            }
        });
    }
}

impl StatusSnapshot {
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
