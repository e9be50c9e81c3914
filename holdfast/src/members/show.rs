//! `holdfast members show`: the members of each log, as its walproposer tells.

use clap::Args;
use serde::Serialize;

use super::address::typed;
use crate::answers::{ChangeAnswer, ConfigurationAnswer, FollowerAnswer, Member, WalproposerAnswer};
use crate::cluster_file::{Cluster, Target};
use crate::http::{AskError, HttpClient, ask_all};
use crate::report::{Body, Report};
use crate::table::{Table, UNKNOWN, known, size};

/// Flags of `members show`.
#[derive(Debug, Default, Args)]
pub(super) struct ShowFlags {
    /// Only the log of this walproposer, by its name in the cluster file
    #[arg(long, value_name = "NAME")]
    walproposer: Option<String>,
}

/// All logs; `--json` prints it as it is.
#[derive(Debug, Serialize)]
pub(super) struct Members {
    walproposers: Vec<LogRow>,
}

/// A log and its walproposer.
#[derive(Debug, Serialize)]
struct LogRow {
    name: String,
    http: String,
    /// Why the walproposer gave no usable answer.
    error: Option<String>,
    tenant_id: Option<String>,
    timeline_id: Option<String>,
    /// None until a safekeeper has told it.
    configuration: Option<ConfigurationAnswer>,
    /// The last change that was requested of this walproposer.
    change: Option<ChangeAnswer>,
    safekeepers: Vec<SafekeeperRow>,
}

/// Part of a safekeeper in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    Member,
    /// A member only after the change that is under way.
    Joining,
    /// A member only until the change that is under way is done.
    Leaving,
    /// The walproposer sends WAL to it, and it does not vote.
    NotMember,
}

/// A safekeeper, as the walproposer sees it.
#[derive(Debug, Serialize)]
struct SafekeeperRow {
    id: u64,
    address: String,
    role: Role,
    state: String,
    flush_lsn: Option<String>,
    lag_bytes: Option<u64>,
    last_error: Option<String>,
}

/// Asks the walproposers.
pub(super) async fn run(cluster: &Cluster, http: &HttpClient, flags: &ShowFlags) -> Report<Members> {
    let chosen = |target: &&Target| flags.walproposer.as_ref().is_none_or(|name| *name == target.name);
    let targets: Vec<&Target> = cluster.walproposers.iter().filter(chosen).collect();
    let walproposers = ask_all(&targets, async |index| {
        let target = targets[index];
        LogRow::new(target, http.get(target, "/v1/status").await)
    })
    .await;

    let members = Members { walproposers };
    let answered = members.walproposers.iter().filter(|row| row.error.is_none()).count();
    let attention = members.attention(flags);
    Report::new(cluster, answered, attention, members)
}

impl Members {
    fn attention(&self, flags: &ShowFlags) -> Vec<String> {
        if self.walproposers.is_empty() {
            let which = flags.walproposer.as_ref().map_or_else(String::new, |name| format!(" {name}"));
            return vec![format!(
                "the cluster file names no walproposer{which}: add it under [[walproposers]]; holdfast timelines shows what the \
                 safekeepers tell of the members"
            )];
        }
        self.walproposers.iter().flat_map(LogRow::attention).collect()
    }
}

impl LogRow {
    fn new(target: &Target, answered: Result<WalproposerAnswer, AskError>) -> Self {
        let row = Self {
            name: target.name.clone(),
            http: target.http.text.clone(),
            error: None,
            tenant_id: None,
            timeline_id: None,
            configuration: None,
            change: None,
            safekeepers: Vec::new(),
        };
        match answered {
            Err(error) => Self { error: Some(error.to_string()), ..row },
            Ok(answer) => Self {
                safekeepers: safekeepers(&answer),
                tenant_id: answer.tenant_id,
                timeline_id: answer.timeline_id,
                configuration: answer.configuration,
                change: answer.change,
                ..row
            },
        }
    }

    fn attention(&self) -> Vec<String> {
        let name = &self.name;
        if let Some(error) = &self.error {
            return vec![format!("walproposer {name} at {} does not answer: {error}", self.http)];
        }
        let mut all = Vec::new();
        match &self.configuration {
            None => all.push(format!(
                "walproposer {name}: the members are not known, because no safekeeper has answered it"
            )),
            Some(configuration) if !configuration.decided => {
                all.push(format!("walproposer {name}: the members are not decided under its term yet"));
            }
            Some(_) => {}
        }
        if let Some(change) = self.change.as_ref().filter(|change| change.state == "unsettled") {
            let why = change.error.as_deref().unwrap_or("it does not say why");
            all.push(format!("walproposer {name}: the last change is unsettled: {why}"));
        }

        let members = self.safekeepers.iter().filter(|one| one.role != Role::NotMember);
        all.extend(members.filter(|one| one.state != "streaming").map(|one| {
            let error = one.last_error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            format!("walproposer {name}: safekeeper {} is {}{error}", one.id, one.state)
        }));
        all
    }
}

/// The safekeepers that the walproposer knows, and the members that it does not.
fn safekeepers(answer: &WalproposerAnswer) -> Vec<SafekeeperRow> {
    let configuration = answer.configuration.as_ref();
    let known = |one: &FollowerAnswer| SafekeeperRow {
        id: one.id,
        address: one.address.clone(),
        role: role(configuration, one.id),
        state: one.state.clone(),
        flush_lsn: one.flush_lsn.clone(),
        lag_bytes: one.lag_bytes,
        last_error: one.last_error.clone(),
    };
    answer.safekeepers.iter().map(known).collect()
}

fn role(configuration: Option<&ConfigurationAnswer>, id: u64) -> Role {
    let Some(configuration) = configuration else { return Role::NotMember };
    let has = |members: &[Member]| members.iter().any(|member| member.id == id);
    match (has(&configuration.members), has(&configuration.new_members), configuration.joint) {
        (true, false, true) => Role::Leaving,
        (false, true, _) => Role::Joining,
        (true, ..) => Role::Member,
        (false, false, _) => Role::NotMember,
    }
}

impl Body for Members {
    fn tables(&self) -> String {
        let mut table = Table::new(&[
            "walproposer",
            "safekeeper",
            "address",
            "role",
            "state",
            "flushed",
            "lag",
            "reason",
        ]);
        let mut lines = String::new();
        for log in &self.walproposers {
            if let Some(error) = &log.error {
                let unknown = std::iter::repeat_n(UNKNOWN.to_owned(), 6);
                table.row([log.name.clone()].into_iter().chain(unknown).chain([error.clone()]));
                continue;
            }
            for one in &log.safekeepers {
                table.row([
                    log.name.clone(),
                    one.id.to_string(),
                    one.address.clone(),
                    one.role.word().to_owned(),
                    one.state.clone(),
                    known(one.flush_lsn.as_ref()),
                    known(one.lag_bytes.map(size)),
                    one.last_error.clone().unwrap_or_default(),
                ]);
            }
            lines.push_str(&log.configuration_line());
        }
        format!("{table}\n{lines}").trim_end_matches('\n').to_owned() + "\n"
    }

    fn healthy_line(&self) -> String {
        "healthy: all members follow".to_owned()
    }
}

impl LogRow {
    /// The configuration in a form that can be typed again.
    fn configuration_line(&self) -> String {
        let Some(configuration) = &self.configuration else { return String::new() };
        let list = |members: &[Member]| members.iter().map(typed).collect::<Vec<_>>().join(",");
        let next = match configuration.joint {
            true => format!(" becoming {}", list(&configuration.new_members)),
            false => String::new(),
        };
        let primary = configuration.primary.as_deref().unwrap_or("any");
        format!(
            "{}: generation {}, members {}{next}, primary {primary}\n",
            self.name,
            configuration.generation,
            list(&configuration.members)
        )
    }
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Joining => "joining",
            Self::Leaving => "leaving",
            Self::NotMember => "not a member",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn log(joint: bool, last: &str) -> LogRow {
        let member = |id: u64| json!({"id": id, "host": "h", "port": id});
        let new: Vec<_> = if joint { vec![member(1), member(4)] } else { Vec::new() };
        let follower = |(id, state): (u64, &str)| json!({"id": id, "address": "h:1", "member": true, "state": state, "last_error": null});
        let followers: Vec<_> = [(1, "streaming"), (2, "streaming"), (4, last)].map(follower).into();
        let answer = json!({"state": "streaming", "safekeepers": followers, "configuration": {"generation": 2,
            "decided": true, "joint": joint, "members": [member(1), member(2)], "new_members": new, "primary": "pg-a"}});
        let target = Target {
            title: "walproposer main".into(),
            name: "main".into(),
            http: "http://wp:1".to_owned().try_into().unwrap(),
            token: None,
            tls: None,
        };
        LogRow::new(&target, Ok(serde_json::from_value(answer).unwrap()))
    }

    #[test]
    fn roles_follow_the_configuration() {
        let roles = |row: &LogRow| row.safekeepers.iter().map(|one| one.role).collect::<Vec<_>>();
        let row = log(false, "offline");
        assert_eq!(roles(&row), [Role::Member, Role::Member, Role::NotMember]);
        assert_eq!(row.attention(), Vec::<String>::new());
        assert_eq!(row.configuration_line(), "main: generation 2, members 1@h:1,2@h:2, primary pg-a\n");
        let row = log(true, "catching_up");
        assert_eq!(roles(&row), [Role::Member, Role::Leaving, Role::Joining]);
        assert_eq!(row.attention(), ["walproposer main: safekeeper 4 is catching_up"]);
        assert!(row.configuration_line().contains("members 1@h:1,2@h:2 becoming 1@h:1,4@h:4"));
    }
}
