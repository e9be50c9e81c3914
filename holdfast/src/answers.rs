//! Answers of the programs, as their HTTP ports are documented in the README of each. Fields that no command shows are left
//! out; a field that an older program does not have is unknown.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A safekeeper's `GET /v1/status`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Identity {
    pub(crate) id: u64,
    pub(crate) disk_id: Option<String>,
    pub(crate) version: Option<String>,
}

/// One entry of a safekeeper's `GET /v1/timelines`. A timeline that is not served has ids, health and error only.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct TimelineAnswer {
    pub(crate) tenant_id: String,
    pub(crate) timeline_id: String,
    pub(crate) health: String,
    pub(crate) error: Option<String>,
    pub(crate) term: Option<u64>,
    pub(crate) last_log_term: Option<u64>,
    pub(crate) flush_lsn: Option<String>,
    pub(crate) commit_lsn: Option<String>,
    pub(crate) oldest_lsn: Option<String>,
    #[serde(default)]
    pub(crate) members: Vec<Member>,
    pub(crate) wal_receivers: Option<u64>,
    pub(crate) wal_senders: Option<u64>,
}

/// A member of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A walproposer's `GET /v1/status`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct WalproposerAnswer {
    pub(crate) tenant_id: Option<String>,
    pub(crate) timeline_id: Option<String>,
    pub(crate) state: String,
    pub(crate) term: Option<u64>,
    pub(crate) commit_lsn: Option<String>,
    pub(crate) primary_flush_lsn: Option<String>,
    pub(crate) blocked: Option<String>,
    pub(crate) primary_settings: Option<SettingsAnswer>,
    pub(crate) configuration: Option<ConfigurationAnswer>,
    pub(crate) change: Option<ChangeAnswer>,
    #[serde(default)]
    pub(crate) safekeepers: Vec<FollowerAnswer>,
}

/// `primary_settings` of a walproposer: what the last look at the primary's settings saw.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SettingsAnswer {
    /// Settings with which commits do not wait for the quorum, or may be lost.
    pub(crate) problems: Vec<serde_json::Value>,
    /// Settings that the walproposer cannot read, and why.
    pub(crate) unchecked: Option<String>,
}

/// `configuration` of a walproposer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ConfigurationAnswer {
    pub(crate) generation: u64,
    pub(crate) decided: bool,
    /// Commits need a majority of both lists.
    pub(crate) joint: bool,
    pub(crate) members: Vec<Member>,
    #[serde(default)]
    pub(crate) new_members: Vec<Member>,
    /// The only primary whose WAL the log takes; none: any primary.
    pub(crate) primary: Option<String>,
}

/// `change` of a walproposer: the last change of the configuration that was requested.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChangeAnswer {
    pub(crate) generation: u64,
    /// `catching_up`, `proposed`, `decided`, `failed` or `unsettled`.
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) waits_for: Vec<WaitsFor>,
    pub(crate) error: Option<String>,
}

/// A new member that lacks a part of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WaitsFor {
    pub(crate) id: u64,
    pub(crate) lag_bytes: Option<u64>,
}

/// A safekeeper as a walproposer sees it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct FollowerAnswer {
    pub(crate) id: u64,
    pub(crate) address: String,
    /// Whether it votes, now or in the next configuration.
    pub(crate) member: bool,
    /// `offline`, `connecting`, `greeted`, `voted`, `catching_up` or `streaming`.
    pub(crate) state: String,
    pub(crate) flush_lsn: Option<String>,
    pub(crate) lag_bytes: Option<u64>,
    pub(crate) last_error: Option<String>,
}

/// One entry of a safekeeper's `GET /v1/timelines/{tenant}/{timeline}/slots`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SlotAnswer {
    pub(crate) name: String,
    /// Random id: a slot that is created anew under the same name has another one.
    pub(crate) id: Option<String>,
    /// The user that created it.
    pub(crate) owner: Option<String>,
    /// Whether it ends with the connection that created it.
    pub(crate) temporary: Option<bool>,
    pub(crate) created_unix_seconds: Option<u64>,
    pub(crate) last_active_unix_seconds: Option<u64>,
    /// WAL is kept from here on.
    pub(crate) restart_lsn: Option<String>,
    pub(crate) restart_tli: Option<u32>,
    /// `unreserved`, `reserved` or `lost`.
    pub(crate) wal_status: String,
    /// WAL that the slot needs and the safekeeper has.
    pub(crate) held_bytes: Option<u64>,
    /// WAL that may still be written before the slot is lost.
    pub(crate) safe_bytes: Option<u64>,
    /// Name of the reader that has it.
    pub(crate) active_by: Option<String>,
}

/// A proxy's `GET /v1/sessions`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SessionsAnswer {
    pub(crate) sessions: Vec<serde::de::IgnoredAny>,
}

impl FollowerAnswer {
    pub(crate) fn follows(&self) -> bool {
        self.state == "streaming"
    }
}

impl WalproposerAnswer {
    /// Whether a member does not follow, and commits wait as soon as one more does not.
    pub(crate) fn has_no_spare(&self) -> bool {
        let sets = self.configuration.iter().flat_map(|one| [&one.members, &one.new_members]);
        let following: BTreeSet<u64> =
            self.safekeepers.iter().filter(|one| one.follows()).map(|one| one.id).collect();
        sets.filter(|set| set.len() > 1).any(|set| {
            let present = set.iter().filter(|member| following.contains(&member.id)).count();
            present < set.len() && present == set.len() / 2 + 1
        })
    }
}
