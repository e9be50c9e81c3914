//! Command line of `holdfast`. Called by `main`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use wal_types::{TenantId, TimelineId};

use crate::answers::TimelineAnswer;
use crate::members::MembersFlags;

const EXAMPLES: &str = "\
The cluster file says which programs there are. The first of these counts:
  1. --cluster FILE
  2. the environment variable HOLDFAST_CLUSTER
  3. .holdfast/cluster.json in the working directory or the nearest of its parents (./dev up writes it)
  4. /etc/holdfast/cluster.toml

A cluster file in TOML (a name that ends in .json is read as JSON, with the same keys):
  ca = \"ca.pem\"                        # authorities that sign the certificates of https URLs
  token_file = \"token\"                 # file with the token that the servers want (--auth-token-file)

  [[safekeepers]]
  id = 1
  http = \"http://10.0.0.1:7676\"

  [[walproposers]]
  name = \"main\"
  http = \"http://10.0.0.9:7676\"

  [[proxies]]
  name = \"front\"
  http = \"https://10.0.0.8:7676\"
  ca = \"other-ca.pem\"                  # an entry may have its own ca and token_file
Paths are relative to the directory of the file.

Examples:
  holdfast status                                 what runs, and what blocks commits
  holdfast status --json | jq .attention          the same for a script
  holdfast timelines --unhealthy                  only timelines with a copy that is not healthy
  holdfast slots                                  replication slots, and the WAL that each holds
  holdfast members                                which safekeepers store each log, and how far they are
  holdfast members set 1@10.0.0.1:5454,2@10.0.0.2:5454,4@10.0.0.4:5454

Exit code: 0 healthy; 1 something needs attention, the last lines say what; 2 could not ask.";

/// Shows a Holdfast cluster, and changes the members of its logs.
///
/// It asks the HTTP ports of all safekeepers, walproposers and proxies in the cluster file at the same time. A program that
/// does not answer is a row with its reason.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, after_long_help = EXAMPLES, after_help = "--help shows the cluster file and examples.")]
pub struct Flags {
    /// File that names the programs; without it HOLDFAST_CLUSTER, .holdfast/cluster.json, /etc/holdfast/cluster.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cluster: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Time that each program has for an answer
    #[arg(long, global = true, value_name = "DURATION", default_value = "5s", value_parser = positive_duration)]
    pub(crate) timeout: Duration,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show every program, and what needs attention
    Status,
    /// Show the copies of each timeline: health, term and positions on each safekeeper
    Timelines(TimelinesFlags),
    /// Show or change the safekeepers that store a log
    Members(MembersFlags),
    /// Show the replication slots of each timeline, and the WAL that they hold on each safekeeper
    Slots(SlotsFlags),
}

/// Flags of `timelines`.
#[derive(Debug, Default, Args)]
pub(crate) struct TimelinesFlags {
    #[command(flatten)]
    pub(crate) timelines: TimelineChoice,
    /// Only timelines with a copy that is not healthy or is missing
    #[arg(long)]
    pub(crate) unhealthy: bool,
}

/// Flags of `slots`.
#[derive(Debug, Default, Args)]
pub(crate) struct SlotsFlags {
    #[command(flatten)]
    pub(crate) timelines: TimelineChoice,
}

/// Flags that choose timelines.
#[derive(Debug, Default, Args)]
pub(crate) struct TimelineChoice {
    /// Only timelines of this tenant, 32 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    pub(crate) tenant_id: Option<TenantId>,
    /// Only this timeline, 32 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    pub(crate) timeline_id: Option<TimelineId>,
}

impl TimelineChoice {
    /// Whether this timeline is chosen.
    pub(crate) fn has(&self, one: &TimelineAnswer) -> bool {
        let is = |wanted: Option<String>, id: &str| wanted.is_none_or(|wanted| wanted == id);
        is(self.tenant_id.map(|id| id.to_string()), &one.tenant_id)
            && is(self.timeline_id.map(|id| id.to_string()), &one.timeline_id)
    }
}

/// A duration above zero. A time limit of zero would make every program look dead.
fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("expected more than zero, such as 5s".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; expected a number with a unit, such as 5s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_behind() {
        for words in [
            &["holdfast", "--json", "--timeout", "2s", "status"],
            &["holdfast", "status", "--json", "--timeout", "2s"],
        ] {
            let flags = Flags::try_parse_from(words).unwrap();
            assert!(flags.json && flags.timeout == Duration::from_secs(2), "{words:?}");
        }
        for wrong in ["0s", "5"] {
            let error = Flags::try_parse_from(["holdfast", "status", "--timeout", wrong]).unwrap_err();
            assert!(error.to_string().contains("such as 5s"), "{error}");
        }
    }
}
