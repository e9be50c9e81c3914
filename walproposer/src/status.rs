//! [`Board`]: what the driver last wrote about itself, for people and scrapers to read.
//!
//! The driver writes, everybody else reads a copy: no reader can hold the driver up. What blocks commits is derived
//! when it is asked for ([`Snapshot::blocked`]), from nothing but the snapshot. Read by `http` and `metrics`, and by
//! `recover` to say what was missing.

use std::sync::Arc;
use std::time::Duration;

use consensus::quorum::majority;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use wal_types::{Lsn, NodeId, ProposerId, Term};

use crate::config::{Cluster, SafekeeperAddress};

/// A safekeeper that follows but answers nothing for this long is called stalled.
const STALL_AFTER: Duration = Duration::from_secs(3);

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

impl Snapshot {
    /// One sentence on what keeps commits from being acknowledged now; `None` when nothing does.
    pub(crate) fn blocked(&self) -> Option<String> {
        match self.state {
            State::WaitingForPrimary => Some(match (&self.primary_error, &self.refusal) {
                (Some(error), _) => format!("primary is down: {error}"),
                (None, Some(refusal)) => refusal.clone(),
                (None, None) => "no connection to the primary yet".to_owned(),
            }),
            State::Collecting | State::Campaigning | State::Checking => Some(
                self.quorum_missing()
                    .or_else(|| self.refusal.clone())
                    .unwrap_or_else(|| self.under_way().to_owned()),
            ),
            State::Streaming => self.stream_blocked(),
        }
    }

    /// `Ok` when commits are acknowledged; else what [`Snapshot::blocked`] says.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.blocked().map_or(Ok(()), Err)
    }

    const fn under_way(&self) -> &'static str {
        match self.state {
            State::WaitingForPrimary => "no connection to the primary yet",
            State::Collecting => "the safekeepers are being asked for their positions",
            State::Campaigning => "an election is under way",
            State::Checking => "the primary's WAL is being compared with the safekeepers'",
            State::Streaming => "WAL is being streamed",
        }
    }

    fn stream_blocked(&self) -> Option<String> {
        let following = |view: &&SafekeeperView| view.state == LinkState::Streaming && !view.is_stalled();
        let settled = self.commit_lsn.is_valid();
        if settled && self.safekeepers.iter().filter(following).count() >= majority(self.safekeepers.len()) {
            return None;
        }
        Some(self.quorum_missing().or_else(|| self.stall()).or_else(|| self.catch_up()).unwrap_or_else(
            || {
                format!(
                    "a majority of the safekeepers has yet to write the log up to {}",
                    self.term_start_lsn
                )
            },
        ))
    }

    fn quorum_missing(&self) -> Option<String> {
        let away = |view: &&SafekeeperView| matches!(view.state, LinkState::Offline | LinkState::Connecting);
        let missing: Vec<&SafekeeperView> = self.safekeepers.iter().filter(away).collect();
        let (all, present) = (self.safekeepers.len(), self.safekeepers.len() - missing.len());
        let needed = majority(all).checked_sub(present).filter(|&needed| needed > 0)?;
        let which = ids(missing.iter().map(|view| view.address.id));
        let needed = if needed == 1 { "one".to_owned() } else { needed.to_string() };
        let verb = if missing.len() == 1 { "is" } else { "are" };
        let mut sentence = format!(
            "{} of {all} safekeepers {verb} unreachable ({which}): commits wait for {needed} of them",
            missing.len()
        );
        for view in missing {
            if let Some(error) = &view.last_error {
                sentence.push_str(&format!("; {}: {error}", view.address.id));
            }
        }
        Some(sentence)
    }

    fn stall(&self) -> Option<String> {
        let which = ids(self.safekeepers.iter().filter(|view| view.is_stalled()).map(|view| view.address.id));
        (!which.is_empty()).then(|| {
            format!(
                "safekeepers {which} have answered nothing for {} s: commits wait until a majority does",
                STALL_AFTER.as_secs()
            )
        })
    }

    fn catch_up(&self) -> Option<String> {
        let behind = self.safekeepers.iter().filter(|view| view.state == LinkState::CatchingUp);
        let which = ids(behind.map(|view| view.address.id));
        (!which.is_empty())
            .then(|| format!("safekeepers {which} are catching up: commits wait until a majority follows"))
    }
}

impl SafekeeperView {
    /// A slow disk, or a network that takes bytes and returns none.
    fn is_stalled(&self) -> bool {
        self.unanswered_since.is_some_and(|since| since.elapsed() > STALL_AFTER)
    }
}

fn ids(nodes: impl Iterator<Item = NodeId>) -> String {
    nodes.map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
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
    safekeepers: Vec<SafekeeperStatus>,
}

#[derive(Debug, Serialize)]
struct SafekeeperStatus {
    id: u64,
    address: String,
    state: LinkState,
    flush_lsn: String,
    commit_lsn: String,
    /// None while its position is not known.
    lag_bytes: Option<u64>,
    last_error: Option<String>,
}

impl From<&Snapshot> for Status {
    fn from(snapshot: &Snapshot) -> Self {
        let safekeeper = |view: &SafekeeperView| SafekeeperStatus {
            id: view.address.id.0,
            address: view.address.to_string(),
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
            safekeepers: snapshot.safekeepers.iter().map(safekeeper).collect(),
        }
    }
}

impl Snapshot {
    /// How far a safekeeper is behind the primary.
    pub(crate) fn lag_bytes(&self, view: &SafekeeperView) -> Option<u64> {
        view.flush_lsn.is_valid().then(|| self.primary_flush_lsn.bytes_since(view.flush_lsn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LinkState::{CatchingUp, Connecting, Greeted, Offline, Streaming, Voted};

    fn snapshot(state: State, links: &[LinkState], commit: u64) -> Snapshot {
        let address =
            |id| SafekeeperAddress { id: NodeId(id), host: "h".into(), port: u16::try_from(id).unwrap() };
        let cluster = Cluster {
            safekeepers: (1..=links.len() as u64).map(address).collect(),
            id: wal_types::TenantTimelineId::default(),
            token: None,
        };
        let mut snapshot = Board::new(&cluster).read();
        snapshot.state = state;
        snapshot.commit_lsn = Lsn(commit);
        snapshot.term_start_lsn = Lsn(0x100);
        for (view, &link) in snapshot.safekeepers.iter_mut().zip(links) {
            view.state = link;
        }
        snapshot
    }

    #[test]
    fn what_blocks_commits_is_one_sentence() {
        let table: &[(State, &[LinkState], u64, Option<&str>)] = &[
            (State::Streaming, &[Streaming, Streaming, Streaming], 9, None),
            (State::Streaming, &[Streaming, Offline, Streaming], 9, None),
            (State::Streaming, &[Streaming, CatchingUp, Streaming], 9, None),
            (
                State::Streaming,
                &[Streaming, Offline, Connecting],
                9,
                Some("2 of 3 safekeepers are unreachable (2, 3): commits wait for one of them"),
            ),
            (
                State::Streaming,
                &[Streaming, Offline, CatchingUp],
                9,
                Some("safekeepers 3 are catching up: commits wait until a majority follows"),
            ),
            (
                State::Streaming,
                &[Streaming, Streaming, Streaming],
                0,
                Some("a majority of the safekeepers has yet to write the log up to 0/100"),
            ),
            (
                State::Streaming,
                &[Offline],
                9,
                Some("1 of 1 safekeepers is unreachable (1): commits wait for one of them"),
            ),
            (
                State::Collecting,
                &[Offline, Offline, Offline],
                0,
                Some("3 of 3 safekeepers are unreachable (1, 2, 3): commits wait for 2 of them"),
            ),
            (State::Campaigning, &[Greeted, Voted, Offline], 0, Some("an election is under way")),
            (State::WaitingForPrimary, &[Offline], 0, Some("no connection to the primary yet")),
        ];
        for &(state, links, commit, expected) in table {
            assert_eq!(snapshot(state, links, commit).blocked().as_deref(), expected, "{state:?} {links:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_majority_that_answers_nothing_blocks() {
        let mut stalled = snapshot(State::Streaming, &[Streaming, Streaming, Streaming], 0x200);
        stalled.safekeepers[0].unanswered_since = Some(Instant::now());
        stalled.safekeepers[2].unanswered_since = Some(Instant::now());
        tokio::time::advance(STALL_AFTER).await;
        assert_eq!(stalled.blocked(), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(stalled.blocked().unwrap().starts_with("safekeepers 1, 3 have answered nothing for 3 s"));
        stalled.safekeepers[2].unanswered_since = None;
        assert_eq!(stalled.blocked(), None);
    }

    #[test]
    fn a_refusal_is_shown_until_it_is_overcome() {
        let mut refused = snapshot(State::Collecting, &[Greeted, Greeted], 0);
        refused.refusal = Some("fsync is off".into());
        assert_eq!(refused.blocked().as_deref(), Some("fsync is off"));
        refused.state = State::WaitingForPrimary;
        assert_eq!(refused.blocked().as_deref(), Some("fsync is off"));
        refused.primary_error = Some("connection refused".into());
        assert_eq!(refused.blocked().as_deref(), Some("primary is down: connection refused"));
    }

    #[test]
    fn the_reason_of_a_safekeeper_that_is_away_is_told() {
        let mut away = snapshot(State::Collecting, &[Offline], 0);
        away.safekeepers[0].last_error = Some("no such timeline".into());
        assert!(away.blocked().unwrap().ends_with("commits wait for one of them; 1: no such timeline"));
    }

    #[test]
    fn status_is_the_documented_json() {
        let json =
            serde_json::to_value(Status::from(&snapshot(State::Streaming, &[Streaming], 0x20))).unwrap();
        assert_eq!(json["state"], "streaming");
        assert_eq!(json["commit_lsn"], "0/20");
        assert_eq!(json["safekeepers"][0]["state"], "streaming");
        assert_eq!(json["safekeepers"][0]["lag_bytes"], serde_json::Value::Null);
        assert_eq!(json["term"], serde_json::Value::Null);
    }
}
