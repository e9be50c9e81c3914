//! `holdfast status`: asks every program for its state. `attention` finds what an operator should look at.

mod attention;
mod tables;

use serde::Serialize;

use crate::answers::{FollowerAnswer, Identity, SessionsAnswer, TimelineAnswer, WalproposerAnswer};
use crate::cluster_file::{Cluster, Target};
use crate::http::{AskError, HttpClient, ask_all};
use crate::report::Report;

/// All programs; `--json` prints it as it is.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    safekeepers: Vec<SafekeeperRow>,
    walproposers: Vec<WalproposerRow>,
    proxies: Vec<ProxyRow>,
}

/// State of a program, as its HTTP port tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ProgramState {
    Ready,
    /// It runs and must not get new work, for the reason in the row.
    NotReady,
    /// It gave no usable answer, for the reason in the row.
    NoAnswer,
}

/// A safekeeper.
#[derive(Debug, Serialize)]
struct SafekeeperRow {
    id: u64,
    http: String,
    state: ProgramState,
    reason: Option<String>,
    /// The number that it answers with. It differs from `id` when the cluster file is wrong.
    answers_as: Option<u64>,
    version: Option<String>,
    disk_id: Option<String>,
    timelines: Option<usize>,
    /// Timelines that are not healthy.
    unhealthy: Vec<UnhealthyTimeline>,
}

/// A timeline that is not healthy on a safekeeper.
#[derive(Debug, Serialize)]
struct UnhealthyTimeline {
    tenant_id: String,
    timeline_id: String,
    health: String,
    error: Option<String>,
}

/// A walproposer, and the log that it serves.
#[derive(Debug, Serialize)]
struct WalproposerRow {
    name: String,
    http: String,
    state: ProgramState,
    reason: Option<String>,
    tenant_id: Option<String>,
    timeline_id: Option<String>,
    /// `waiting_for_primary`, `collecting`, `campaigning`, `checking` or `streaming`.
    leadership: Option<String>,
    term: Option<u64>,
    commit_lsn: Option<String>,
    primary_flush_lsn: Option<String>,
    /// Why commits wait, or are acknowledged without the quorum; none while all is well.
    blocked: Option<String>,
    /// Whether `blocked` names settings of the primary with which commits do not wait for the quorum, or may be lost.
    commits_at_risk: bool,
    /// Settings of the primary that the walproposer cannot read.
    unchecked_settings: Option<String>,
    generation: Option<u64>,
    members: Vec<MemberRow>,
    /// The members that do not follow are as many as a majority can do without.
    no_spare: bool,
    /// Why a change of the members is unsettled.
    unsettled_change: Option<String>,
}

/// A member of a log, as its walproposer sees it.
#[derive(Debug, Serialize)]
struct MemberRow {
    safekeeper: u64,
    state: String,
    lag_bytes: Option<u64>,
    last_error: Option<String>,
}

/// A proxy.
#[derive(Debug, Serialize)]
struct ProxyRow {
    name: String,
    http: String,
    state: ProgramState,
    reason: Option<String>,
    /// Connections that are open; none when their list was not answered.
    sessions: Option<usize>,
}

/// Asks all programs.
pub(crate) async fn run(cluster: &Cluster, http: &HttpClient) -> Report<Status> {
    let safekeepers = ask_all(&cluster.safekeepers, async |index| {
        let (id, target) = &cluster.safekeepers[index];
        ask_safekeeper(http, *id, target).await
    });
    let walproposers = ask_all(&cluster.walproposers, async |index| {
        ask_walproposer(http, &cluster.walproposers[index]).await
    });
    let proxies = ask_all(&cluster.proxies, async |index| ask_proxy(http, &cluster.proxies[index]).await);
    let (safekeepers, walproposers, proxies) = futures::join!(safekeepers, walproposers, proxies);

    let status = Status { safekeepers, walproposers, proxies };
    let attention = status.attention();
    Report::new(cluster, status.answered(), attention, status)
}

impl Status {
    fn states(&self) -> impl Iterator<Item = ProgramState> {
        let safekeepers = self.safekeepers.iter().map(|row| row.state);
        let walproposers = self.walproposers.iter().map(|row| row.state);
        safekeepers.chain(walproposers).chain(self.proxies.iter().map(|row| row.state))
    }

    fn answered(&self) -> usize {
        self.states().filter(|&state| state != ProgramState::NoAnswer).count()
    }
}

impl ProgramState {
    /// State and reason of a program that answered `readiness`.
    fn of(readiness: Option<String>) -> (Self, Option<String>) {
        (if readiness.is_none() { Self::Ready } else { Self::NotReady }, readiness)
    }
}

async fn ask_safekeeper(http: &HttpClient, id: u64, target: &Target) -> SafekeeperRow {
    let asked = async {
        futures::try_join!(
            http.readiness(target),
            http.get::<Identity>(target, "/v1/status"),
            http.get::<Vec<TimelineAnswer>>(target, "/v1/timelines"),
        )
    };
    let mut row = SafekeeperRow {
        id,
        http: target.http.text.clone(),
        state: ProgramState::NoAnswer,
        reason: None,
        answers_as: None,
        version: None,
        disk_id: None,
        timelines: None,
        unhealthy: Vec::new(),
    };
    match asked.await {
        Err(error) => row.reason = Some(error.to_string()),
        Ok((readiness, identity, timelines)) => {
            (row.state, row.reason) = ProgramState::of(readiness);
            row.answers_as = Some(identity.id);
            (row.version, row.disk_id) = (identity.version, identity.disk_id);
            row.timelines = Some(timelines.len());
            let unhealthy = timelines.into_iter().filter(|one| one.health != "healthy");
            row.unhealthy = unhealthy.map(UnhealthyTimeline::from).collect();
        }
    }
    row
}

impl From<TimelineAnswer> for UnhealthyTimeline {
    fn from(answer: TimelineAnswer) -> Self {
        let TimelineAnswer { tenant_id, timeline_id, health, error, .. } = answer;
        Self { tenant_id, timeline_id, health, error }
    }
}

async fn ask_walproposer(http: &HttpClient, target: &Target) -> WalproposerRow {
    let asked = async {
        futures::try_join!(http.readiness(target), http.get::<WalproposerAnswer>(target, "/v1/status"))
    };
    WalproposerRow::new(target, asked.await)
}

impl WalproposerRow {
    fn new(target: &Target, asked: Result<(Option<String>, WalproposerAnswer), AskError>) -> Self {
        let (readiness, answer, error) = match asked {
            Ok((readiness, answer)) => (readiness, Some(answer), None),
            Err(error) => (None, None, Some(error.to_string())),
        };
        let (state, reason) = match error {
            Some(error) => (ProgramState::NoAnswer, Some(error)),
            None => ProgramState::of(readiness),
        };
        let no_spare = answer.as_ref().is_some_and(WalproposerAnswer::has_no_spare);
        let change = answer.as_ref().and_then(|answer| answer.change.as_ref());
        let unsettled = change.filter(|change| change.state == "unsettled");
        let settings = answer.as_ref().and_then(|answer| answer.primary_settings.as_ref());
        let is_connected = answer.as_ref().is_some_and(|answer| answer.state != "waiting_for_primary");
        let member = |one: &FollowerAnswer| MemberRow {
            safekeeper: one.id,
            state: one.state.clone(),
            lag_bytes: one.lag_bytes,
            last_error: one.last_error.clone(),
        };
        let members = answer.iter().flat_map(|answer| answer.safekeepers.iter().filter(|one| one.member));

        Self {
            name: target.name.clone(),
            http: target.http.text.clone(),
            state,
            reason,
            members: members.map(member).collect(),
            no_spare,
            commits_at_risk: is_connected && settings.is_some_and(|settings| !settings.problems.is_empty()),
            unchecked_settings: settings.and_then(|settings| settings.unchecked.clone()),
            unsettled_change: unsettled.map(|change| change.error.clone().unwrap_or_default()),
            generation: answer.as_ref().and_then(|answer| Some(answer.configuration.as_ref()?.generation)),
            term: answer.as_ref().and_then(|answer| answer.term),
            leadership: answer.as_ref().map(|answer| answer.state.clone()),
            tenant_id: answer.as_ref().and_then(|answer| answer.tenant_id.clone()),
            timeline_id: answer.as_ref().and_then(|answer| answer.timeline_id.clone()),
            commit_lsn: answer.as_ref().and_then(|answer| answer.commit_lsn.clone()),
            primary_flush_lsn: answer.as_ref().and_then(|answer| answer.primary_flush_lsn.clone()),
            blocked: answer.and_then(|answer| answer.blocked),
        }
    }
}

async fn ask_proxy(http: &HttpClient, target: &Target) -> ProxyRow {
    let sessions = http.get::<SessionsAnswer>(target, "/v1/sessions");
    let (readiness, sessions) = futures::join!(http.readiness(target), sessions);
    let (state, reason) = match readiness {
        Ok(readiness) => ProgramState::of(readiness),
        Err(error) => (ProgramState::NoAnswer, Some(error.to_string())),
    };
    ProxyRow {
        name: target.name.clone(),
        http: target.http.text.clone(),
        state,
        reason,
        sessions: sessions.ok().map(|answer| answer.sessions.len()),
    }
}

#[cfg(test)]
mod tests;
