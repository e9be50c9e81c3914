//! [`SettingsView`]: what the last look at the primary's settings saw, on the board and as JSON.

use serde::Serialize;
use tokio::time::Instant;

use crate::primary_settings::{PrimarySettings, Problem, ProblemReason};

/// Problems that one sentence names; the rest are counted.
const PROBLEMS_SHOWN_MAX: usize = 8;

/// What the last look at the primary's settings saw.
#[derive(Clone, Debug)]
pub(crate) struct SettingsView {
    pub(crate) settings: PrimarySettings,
    /// Empty when each commit waits for the quorum and the primary keeps its WAL.
    pub(crate) problems: Vec<Problem>,
    /// When the settings were read.
    pub(crate) read_at: Instant,
    /// Why the last attempt to read them failed, or read a part only.
    pub(crate) error: Option<String>,
}

impl SettingsView {
    /// Settings that were read now, for a standby that the primary knows as `own_name`.
    pub(crate) fn new(settings: PrimarySettings, own_name: &str, error: Option<String>) -> Self {
        let problems = settings.problems(own_name);
        Self { settings, problems, read_at: Instant::now(), error }
    }

    /// All problems in one sentence.
    pub(super) fn sentence(&self) -> Option<String> {
        let shown = self.problems.iter().take(PROBLEMS_SHOWN_MAX).map(|problem| problem.sentence.as_str());
        let mut sentence = shown.collect::<Vec<_>>().join(" | ");
        if let Some(more) = self.problems.len().checked_sub(PROBLEMS_SHOWN_MAX).filter(|&more| more > 0) {
            sentence.push_str(&format!(" | and {more} more"));
        }
        (!sentence.is_empty()).then_some(sentence)
    }

    /// True when something is wrong with this setting.
    pub(crate) fn has(&self, reason: ProblemReason) -> bool {
        self.problems.iter().any(|problem| problem.reason == reason)
    }
}

/// `primary_settings` of `GET /v1/status`.
#[derive(Debug, Serialize)]
pub(crate) struct SettingsStatus {
    /// False when commits are acknowledged without the quorum.
    commits_wait_for_quorum: bool,
    synchronous_standby_names: String,
    /// Of the server; none when it could not be seen.
    synchronous_commit: Option<String>,
    fsync: String,
    full_page_writes: String,
    problems: Vec<Problem>,
    /// Time since the settings were read.
    age_ms: u64,
    /// Settings that were not checked, and why.
    unchecked: Option<String>,
}

impl From<&SettingsView> for SettingsStatus {
    fn from(view: &SettingsView) -> Self {
        let SettingsView { settings, problems, read_at, error } = view;
        let unchecked = match (settings.unchecked(), error) {
            (Some(unchecked), Some(error)) => Some(format!("{unchecked}: {error}")),
            (Some(unchecked), None) => Some(unchecked.to_owned()),
            (None, Some(error)) => Some(format!("the last look failed: {error}")),
            (None, None) => None,
        };
        Self {
            commits_wait_for_quorum: !problems.iter().any(|problem| problem.reason.skips_the_quorum()),
            synchronous_standby_names: settings.synchronous_standby_names.value.clone(),
            synchronous_commit: settings.synchronous_commit.as_ref().map(|setting| setting.value.clone()),
            fsync: settings.fsync.value.clone(),
            full_page_writes: settings.full_page_writes.value.clone(),
            problems: problems.clone(),
            age_ms: u64::try_from(read_at.elapsed().as_millis()).unwrap_or(u64::MAX),
            unchecked,
        }
    }
}
