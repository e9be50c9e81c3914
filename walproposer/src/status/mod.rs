//! [`StatusBoard`]: the state of this process, for operators and scrapers to read.
//!
//! The leadership and its campaign write; readers receive a copy. The sentence on what blocks commits is derived on demand ([`StatusSnapshot::blocked`]) from the snapshot alone. Read by `http`,
//! `metrics` and `admin_requests`, and by `recover` to name the safekeepers that were missing.

mod blocked;
mod commit_histograms;
mod configuration;
pub(crate) mod response;
mod settings;

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use wal_types::{Lsn, NodeId, ProposerId, TenantTimelineId, Term};

pub(crate) use self::commit_histograms::CommitHistograms;
pub(crate) use self::configuration::{ChangeState, ChangeView, ConfigurationView};
pub(crate) use self::settings::SettingsView;
use crate::config::{Cluster, SafekeeperAddress};

/// Stage of the leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LeadershipState {
    /// There is no connection to the primary, or the last leadership has ended and the next one has not begun.
    WaitingForPrimary,
    /// The safekeepers are asked for their positions.
    Collecting,
    /// The safekeepers are asked for their votes.
    Campaigning,
    /// The primary's WAL is compared with the log that won the election.
    Checking,
    /// This process leads.
    Streaming,
}

/// State of the connection to one safekeeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LinkState {
    /// There is no connection.
    Offline,
    /// A connection is being opened, or nothing was answered on it yet.
    Connecting,
    /// The safekeeper answered the greeting, and not yet the vote request.
    Greeted,
    /// The safekeeper answered the vote request, and does not follow yet or cannot follow.
    Voted,
    /// The safekeeper receives WAL that is no longer buffered, read from a donor.
    CatchingUp,
    /// The safekeeper follows.
    Streaming,
}

/// One safekeeper.
#[derive(Clone, Debug)]
pub(crate) struct SafekeeperView {
    pub(crate) address: SafekeeperAddress,
    pub(crate) state: LinkState,
    /// Flush position; zero when unknown.
    pub(crate) flush_lsn: Lsn,
    /// Persisted commit position; zero when unknown.
    pub(crate) commit_lsn: Lsn,
    /// Time at which the oldest message that may still be unanswered was queued.
    pub(crate) unanswered_since: Option<Instant>,
    /// Time since which the safekeeper has written nothing of the WAL that it was sent.
    pub(crate) stands_still_since: Option<Instant>,
    /// The safekeeper lacks WAL that no other one has: it must be re-seeded.
    pub(crate) needs_reseed: bool,
    /// The safekeeper has lost WAL that it acknowledged, and does not vote.
    pub(crate) lost: bool,
    /// Why the safekeeper is not connected, or cannot follow.
    pub(crate) last_error: Option<String>,
}

/// Copy of everything on the board.
#[derive(Clone, Debug)]
pub(crate) struct StatusSnapshot {
    /// The log that this process serves.
    pub(crate) id: TenantTimelineId,
    pub(crate) state: LeadershipState,
    /// When the state was entered.
    pub(crate) since: Instant,
    /// Term of the campaign, once it has one.
    pub(crate) term: Option<Term>,
    /// The campaign.
    pub(crate) proposer_id: Option<ProposerId>,
    /// First position of the term's own WAL; zero before the election.
    pub(crate) term_start_lsn: Lsn,
    /// Position up to which WAL is durable on a quorum; zero until that includes everything below the term's start.
    pub(crate) commit_lsn: Lsn,
    /// End of the primary's WAL as far as known.
    pub(crate) primary_flush_lsn: Lsn,
    /// Position last acknowledged to the primary.
    pub(crate) reported_lsn: Lsn,
    /// Why there is no connection to the primary.
    pub(crate) primary_error: Option<String>,
    /// Why the last leadership ended or did not begin. Cleared when the primary's WAL was compared successfully.
    pub(crate) refusal: Option<String>,
    /// What the last look at the primary's settings saw; `None` before the first one.
    pub(crate) settings: Option<SettingsView>,
    /// End of the time for which the primary, which has other WAL than the log, stays away.
    pub(crate) away_until: Option<Instant>,
    /// Elections won since the start of the process.
    pub(crate) elections: u64,
    /// Members and designated primary, as the campaign knows them from the safekeepers.
    pub(crate) configuration: Option<ConfigurationView>,
    /// The last change that was requested.
    pub(crate) change: Option<ChangeView>,
    /// Ordered by id.
    pub(crate) safekeepers: Vec<SafekeeperView>,
}

/// Shares a [`StatusSnapshot`] between one writer and its readers. Clones are the same board.
#[derive(Clone, Debug)]
pub(crate) struct StatusBoard {
    snapshot: Arc<Mutex<StatusSnapshot>>,
    histograms: CommitHistograms,
}

impl StatusBoard {
    /// A board on which nothing is known yet but the addresses of the safekeepers.
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let view = |address: &SafekeeperAddress| SafekeeperView {
            address: address.clone(),
            state: LinkState::Offline,
            flush_lsn: Lsn::INVALID,
            commit_lsn: Lsn::INVALID,
            unanswered_since: None,
            stands_still_since: None,
            needs_reseed: false,
            lost: false,
            last_error: None,
        };
        let mut safekeepers: Vec<_> = cluster.safekeepers.iter().map(view).collect();
        safekeepers.sort_by_key(|safekeeper| safekeeper.address.id);

        let snapshot = StatusSnapshot {
            id: cluster.id,
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
            settings: None,
            away_until: None,
            elections: 0,
            configuration: None,
            change: None,
            safekeepers,
        };
        Self { snapshot: Arc::new(Mutex::new(snapshot)), histograms: CommitHistograms::default() }
    }

    /// A copy of the present state.
    pub(crate) fn read(&self) -> StatusSnapshot {
        self.snapshot.lock().clone()
    }

    /// Changes a part of the state.
    pub(crate) fn update(&self, change: impl FnOnce(&mut StatusSnapshot)) {
        change(&mut self.snapshot.lock());
    }

    /// The histograms of all leaderships of this process.
    pub(crate) const fn histograms(&self) -> &CommitHistograms {
        &self.histograms
    }

    /// Enters a stage; its clock starts over only when the stage is another one.
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
    /// The voting sets: those of the configuration, or all safekeepers as one set when no configuration is known.
    pub(crate) fn voters(&self) -> Vec<Vec<NodeId>> {
        let listed = self.configuration.as_ref().map(|view| view.configuration.sets());
        let all = || vec![self.safekeepers.iter().map(|view| view.address.id).collect()];
        listed.filter(|sets| !sets.is_empty()).unwrap_or_else(all)
    }

    /// Marks a change that is under way as interrupted, because the leadership ended.
    pub(crate) fn interrupt_change(&mut self) {
        if let Some(change) = &mut self.change {
            change.interrupt();
        }
    }

    /// Bytes that a safekeeper is behind the primary; none while its position is unknown.
    pub(crate) fn lag_bytes(&self, view: &SafekeeperView) -> Option<u64> {
        view.flush_lsn.is_valid().then(|| self.primary_flush_lsn.bytes_since(view.flush_lsn))
    }
}
