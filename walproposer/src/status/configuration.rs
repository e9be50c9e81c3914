//! Members, designated primary and the requested change: as the campaign writes them, and as JSON.

use consensus::{Configuration, Member};
use serde::Serialize;
use wal_types::{Generation, NodeId};

use crate::primary_name::PrimaryName;

/// The configuration that a campaign acts under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigurationView {
    pub(crate) configuration: Configuration,
    /// Whether a quorum holds the configuration under the present term.
    pub(crate) decided: bool,
}

/// Progress of a requested change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChangeState {
    /// New members receive the log; nothing is proposed yet.
    CatchingUp,
    /// The safekeepers are asked to accept the change.
    Proposed,
    /// A quorum holds the new configuration: no later proposer can miss it.
    Decided,
    /// The change was not proposed, and will not be.
    Failed,
    /// Leadership ended after the change was proposed: the next leader finishes it if enough safekeepers accepted it, and
    /// drops it otherwise.
    Unsettled,
}

/// The last change that was requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangeView {
    /// Generation of the configuration that the change ends with.
    pub(crate) generation: Generation,
    pub(crate) state: ChangeState,
    /// New members that lack a part of the log, and the bytes that each lacks, if known.
    pub(crate) waits_for: Vec<(NodeId, Option<u64>)>,
    /// Why the change failed or is unsettled.
    pub(crate) error: Option<String>,
}

impl ChangeView {
    /// Marks a change that is under way as failed or unsettled, because the leadership ended.
    pub(super) fn interrupt(&mut self) {
        let (state, error) = match self.state {
            ChangeState::CatchingUp => (
                ChangeState::Failed,
                "leadership ended while new members caught up, and nothing was changed: request the change again",
            ),
            ChangeState::Proposed => (
                ChangeState::Unsettled,
                "leadership ended before the change was decided: the next leader finishes it or drops it",
            ),
            ChangeState::Decided | ChangeState::Failed | ChangeState::Unsettled => return,
        };
        self.state = state;
        self.waits_for.clear();
        self.error = Some(error.to_owned());
    }
}

/// `configuration` of `GET /v1/status`.
#[derive(Debug, Serialize)]
pub(crate) struct ConfigurationStatus {
    generation: u32,
    decided: bool,
    /// Commits need a majority of both lists.
    joint: bool,
    members: Vec<MemberStatus>,
    new_members: Vec<MemberStatus>,
    /// The only primary whose WAL the log takes; none: any primary.
    primary: Option<String>,
}

#[derive(Debug, Serialize)]
struct MemberStatus {
    id: u64,
    host: String,
    port: u16,
}

/// `change` of `GET /v1/status`.
#[derive(Debug, Serialize)]
pub(crate) struct ChangeStatus {
    generation: u32,
    state: ChangeState,
    waits_for: Vec<WaitsFor>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct WaitsFor {
    id: u64,
    lag_bytes: Option<u64>,
}

impl From<&ConfigurationView> for ConfigurationStatus {
    fn from(view: &ConfigurationView) -> Self {
        let Configuration { generation, members, new_members, primary, .. } = &view.configuration;
        let all = |members: &[Member]| {
            let one = |member: &Member| MemberStatus {
                id: member.id.0,
                host: member.host.clone(),
                port: member.port,
            };
            members.iter().map(one).collect()
        };
        Self {
            generation: generation.0,
            decided: view.decided,
            joint: !new_members.is_empty(),
            members: all(members),
            new_members: all(new_members),
            primary: primary.map(|primary| PrimaryName(primary.name).to_string()),
        }
    }
}

impl From<&ChangeView> for ChangeStatus {
    fn from(view: &ChangeView) -> Self {
        let waits_for = view.waits_for.iter().map(|&(id, lag_bytes)| WaitsFor { id: id.0, lag_bytes });
        Self {
            generation: view.generation.0,
            state: view.state,
            waits_for: waits_for.collect(),
            error: view.error.clone(),
        }
    }
}
