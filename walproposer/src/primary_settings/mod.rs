//! [`PrimarySettings`]: settings of the primary that the promise of a quorum depends on, and what is wrong with them.
//!
//! Pure: the values come from `primary`, the verdict goes to `status`. A problem is one sentence that ends with what to
//! type. Sessions can still give up the promise for themselves (`SET synchronous_commit`), which no look from outside sees.

mod standby_names;

use serde::Serialize;

use self::standby_names::{StandbyNames, quoted};

/// Characters of a value that a sentence repeats.
const VALUE_CHARS_SHOWN_MAX: usize = 200;
/// Source in `pg_settings` of a value that ALTER SYSTEM cannot change.
const COMMAND_LINE: &str = "command line";

/// Value of a setting of the whole server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// As SHOW prints it.
    pub(crate) value: String,
    /// Whether it stands on the server's command line; false where that is unknown.
    pub(crate) on_command_line: bool,
}

/// `ALTER ROLE … SET synchronous_commit` or `ALTER DATABASE … SET synchronous_commit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommitOverride {
    /// Role, quoted as an identifier where that is necessary; `None`: all roles.
    pub(crate) role: Option<String>,
    /// Database, quoted likewise; `None`: all databases.
    pub(crate) database: Option<String>,
    /// As it was typed.
    pub(crate) value: String,
}

/// Settings of the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrimarySettings {
    pub(crate) synchronous_standby_names: Setting,
    /// `None` when the look that read the others could not see the server's own value.
    pub(crate) synchronous_commit: Option<Setting>,
    pub(crate) fsync: Setting,
    pub(crate) full_page_writes: Setting,
    /// `None` when they could not be read.
    pub(crate) overrides: Option<Vec<CommitOverride>>,
}

/// Setting that is wrong: a label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProblemReason {
    /// Commits do not wait for this standby, or not all of them.
    SynchronousStandbyNames,
    /// Commits of some sessions wait for no standby.
    SynchronousCommit,
    /// The primary may lose WAL when its machine crashes.
    Fsync,
    /// The primary may be unable to repair a torn page.
    FullPageWrites,
}

impl ProblemReason {
    /// All reasons.
    pub(crate) const ALL: [Self; 4] =
        [Self::SynchronousStandbyNames, Self::SynchronousCommit, Self::Fsync, Self::FullPageWrites];

    /// The name of the setting.
    pub(crate) const fn setting(self) -> &'static str {
        match self {
            Self::SynchronousStandbyNames => "synchronous_standby_names",
            Self::SynchronousCommit => "synchronous_commit",
            Self::Fsync => "fsync",
            Self::FullPageWrites => "full_page_writes",
        }
    }

    /// True when commits are acknowledged without the quorum.
    pub(crate) const fn skips_the_quorum(self) -> bool {
        matches!(self, Self::SynchronousStandbyNames | Self::SynchronousCommit)
    }
}

/// What is wrong with one setting, and what to type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub(crate) reason: ProblemReason,
    pub(crate) sentence: String,
}

impl Setting {
    /// A setting as `pg_settings` shows it.
    pub(crate) fn new(value: &str, source: Option<&str>) -> Self {
        Self { value: value.to_owned(), on_command_line: source == Some(COMMAND_LINE) }
    }

    /// What to type so that the setting has another value.
    fn remedy(&self, name: &str, value: &str) -> String {
        if self.on_command_line {
            format!("start the primary with -c {name}={value}")
        } else {
            format!("on the primary: ALTER SYSTEM SET {name} = {value}; SELECT pg_reload_conf();")
        }
    }
}

impl PrimarySettings {
    /// What is wrong, for a walproposer that the primary knows as `own_name`. Empty when each commit waits for it and the
    /// primary keeps its WAL.
    pub(crate) fn problems(&self, own_name: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |reason, sentence| problems.push(Problem { reason, sentence });

        if let Some(sentence) = self.standby_names_problem(own_name) {
            add(ProblemReason::SynchronousStandbyNames, sentence);
        }
        if let Some(setting) = &self.synchronous_commit
            && let Some(value) = skipping_value(&setting.value)
        {
            let remedy = setting.remedy("synchronous_commit", "on");
            add(
                ProblemReason::SynchronousCommit,
                format!("{WITHOUT}: synchronous_commit is {value} on the primary; {remedy}"),
            );
        }
        for over in self.overrides.iter().flatten() {
            if let Some(value) = skipping_value(&over.value) {
                add(ProblemReason::SynchronousCommit, over.sentence(value));
            }
        }

        if self.fsync.value != "on" {
            let remedy = self.fsync.remedy("fsync", "on");
            add(
                ProblemReason::Fsync,
                format!(
                    "fsync is off on the primary: after a crash its WAL could differ from the acknowledged WAL; {remedy}"
                ),
            );
        }
        if self.full_page_writes.value != "on" {
            let remedy = self.full_page_writes.remedy("full_page_writes", "on");
            add(
                ProblemReason::FullPageWrites,
                format!(
                    "full_page_writes is off on the primary: a torn page could not be repaired from WAL; {remedy}"
                ),
            );
        }
        problems
    }

    /// Settings that this look could not see, in one sentence.
    pub(crate) fn unchecked(&self) -> Option<&'static str> {
        if self.overrides.is_none() {
            Some("synchronous_commit of roles and databases was not read")
        } else if self.synchronous_commit.is_none() {
            Some(
                "synchronous_commit of the server is hidden by that of the walproposer's role or database: ALTER ROLE or \
                 ALTER DATABASE … RESET synchronous_commit",
            )
        } else {
            None
        }
    }

    fn standby_names_problem(&self, own: &str) -> Option<String> {
        let setting = &self.synchronous_standby_names;
        let value = &setting.value;
        let cause = match StandbyNames::parse(value) {
            Ok(Some(names)) if names.every_commit_waits_for(own) => return None,
            Ok(None) => "is empty".to_owned(),
            Ok(Some(names)) if names.lists(own) => format!(
                "is '{}', and the other standbys that it allows can release a commit in place of this one, {own}",
                shown(value)
            ),
            Ok(Some(_)) => format!("is '{}' and does not name this standby, {own}", shown(value)),
            Err(error) => format!("is '{}', which cannot be parsed ({error})", shown(value)),
        };

        let wanted = format!("'FIRST 1 ({})'", quoted(own).replace('\'', "''"));
        let remedy = setting.remedy("synchronous_standby_names", &wanted);
        Some(format!("{WITHOUT}: synchronous_standby_names {cause}; {remedy}"))
    }
}

/// Beginning of each sentence about commits that are acknowledged too early.
const WITHOUT: &str = "the primary acknowledges commits without the safekeepers";

impl CommitOverride {
    fn sentence(&self, value: &str) -> String {
        let (whom, command) = match (&self.role, &self.database) {
            (Some(role), Some(database)) => (
                format!("for role {role} in database {database}"),
                format!("ALTER ROLE {role} IN DATABASE {database}"),
            ),
            (Some(role), None) => (format!("for role {role}"), format!("ALTER ROLE {role}")),
            (None, Some(database)) => {
                (format!("in database {database}"), format!("ALTER DATABASE {database}"))
            }
            (None, None) => ("for all roles".to_owned(), "ALTER ROLE ALL".to_owned()),
        };
        format!(
            "{WITHOUT}: synchronous_commit is {value} {whom}; on the primary: {command} RESET synchronous_commit; and let \
             its sessions connect again"
        )
    }
}

/// The usual name of a value of `synchronous_commit` with which a commit waits for no standby. `remote_write` waits: this
/// standby reports WAL as written only when a quorum has flushed it.
fn skipping_value(value: &str) -> Option<&'static str> {
    let is_one_of = |names: &[&str]| names.iter().any(|name| value.eq_ignore_ascii_case(name));
    if is_one_of(&["off", "false", "no", "0"]) {
        Some("off")
    } else {
        is_one_of(&["local"]).then_some("local")
    }
}

/// The beginning of a value.
fn shown(value: &str) -> &str {
    let end = value.char_indices().nth(VALUE_CHARS_SHOWN_MAX);
    end.map_or(value, |(end, _)| &value[..end])
}

#[cfg(test)]
mod tests;
