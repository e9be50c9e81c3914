//! `holdfast members set`: requests other members of a log and waits until that is decided.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::address::{MemberAddress, typed};
use crate::answers::WalproposerAnswer;
use crate::cluster_file::{Cluster, Target};
use crate::http::{AskError, HttpClient};
use crate::outcome::Outcome;
use crate::report::print;

/// Interval at which the progress of a change is read.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Answers of a walproposer that may be missing one after the other while a change is waited for.
const MISSED_ANSWERS_MAX: u32 = 10;
const PATH: &str = "/v1/members";

pub(super) const EXAMPLES: &str = "\
To replace safekeeper 3, whose disk is gone, by a new one with id 4 (to use id 3 again, remove the
member first, then add it as a new one):

1. Start the new safekeeper, empty:
     safekeeper --id 4 --data-dir /var/lib/sk4 ...
2. Create the log on it. All values are as in GET /v1/timelines/TENANT/TIMELINE of a good
   safekeeper (dialect to start_tli, and birth), except: start_lsn is the highest oldest_lsn among
   the good safekeepers:
     curl -X POST http://SK4/v1/timelines -d '{...}'
3. Tell the walproposer:
     holdfast members set 1@10.0.0.1:5454,2@10.0.0.2:5454,4@10.0.0.4:5454
   The walproposer copies the log to the new safekeeper while commits go on, and then lets it
   vote. The command returns when that is decided.
4. Write the new list into --safekeepers of walproposer run, for its next start, and into the
   cluster file.";

/// Flags of `members set`.
#[derive(Debug, Args)]
pub(super) struct SetFlags {
    /// All members from now on, separated by commas
    #[arg(value_name = "ID@HOST:PORT", value_delimiter = ',', required = true)]
    members: Vec<MemberAddress>,
    /// The walproposer of the log, by its name in the cluster file; may be left out when there is only one
    #[arg(long, value_name = "NAME")]
    walproposer: Option<String>,
    /// Stop waiting after this long, such as 60s or 2h; the change continues
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    wait: Duration,
}

/// Requests the change, waits and prints the decided configuration.
pub(super) async fn run(
    cluster: &Cluster,
    http: &HttpClient,
    flags: &SetFlags,
    as_json: bool,
) -> anyhow::Result<Outcome> {
    let target = choose(cluster, flags.walproposer.as_deref())?;
    let generation = request(http, target, &flags.members).await?;

    let deadline = Instant::now() + flags.wait;
    let (mut printed, mut missed) = (String::new(), 0);
    loop {
        let now = match http.get::<WalproposerAnswer>(target, "/v1/status").await {
            Ok(answer) => match progress(&answer, generation, &flags.members) {
                Progress::Done => return done(&answer, as_json),
                Progress::Failed(why) => {
                    print_progress(&why);
                    return Ok(Outcome::Attention);
                }
                Progress::UnderWay(now) => {
                    missed = 0;
                    now
                }
            },
            // A walproposer that restarts, or that answers late, does not end the change.
            Err(error @ (AskError::Timeout(_) | AskError::Connection(_))) if missed < MISSED_ANSWERS_MAX => {
                missed += 1;
                format!("{} does not answer: {error}", target.title)
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("{} does not answer; the change goes on, see holdfast members", target.title)
                });
            }
        };

        if now != printed {
            print_progress(&now);
            printed = now;
        }
        if Instant::now() > deadline {
            let limit = humantime::format_duration(flags.wait);
            print_progress(&format!("not decided after {limit}; the change goes on, see holdfast members"));
            return Ok(Outcome::Attention);
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn choose<'c>(cluster: &'c Cluster, name: Option<&str>) -> anyhow::Result<&'c Target> {
    let names =
        || cluster.walproposers.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, &cluster.walproposers[..]) {
        (_, []) => {
            bail!("{} names no walproposer: add [[walproposers]] with name and http", cluster.file.display())
        }
        (None, [only]) => Ok(only),
        (None, _) => bail!("there are several walproposers: choose one with --walproposer: {}", names()),
        (Some(name), all) => all
            .iter()
            .find(|target| target.name == name)
            .with_context(|| format!("--walproposer {name}: the cluster file has {}", names())),
    }
}

/// Requests the change; returns the generation that it ends with.
async fn request(http: &HttpClient, target: &Target, members: &[MemberAddress]) -> anyhow::Result<u64> {
    let body = serde_json::to_vec(members)?;
    let answer = http.send(target, Method::PUT, PATH, body.into()).await;
    let answer = answer.with_context(|| target.title.clone())?;
    match (answer.status, answer.json()["generation"].as_u64()) {
        (StatusCode::OK | StatusCode::ACCEPTED, Some(generation)) => Ok(generation),
        _ => Err(answer.unexpected(PATH)).with_context(|| format!("{}: nothing was changed", target.title)),
    }
}

/// State of the requested change.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    UnderWay(String),
    /// It will not be decided.
    Failed(String),
}

fn progress(answer: &WalproposerAnswer, generation: u64, wanted: &[MemberAddress]) -> Progress {
    let decided = answer.configuration.as_ref().filter(|one| one.decided && !one.joint);
    if let Some(configuration) = decided.filter(|one| one.generation >= generation) {
        // A dropped change leaves its generation to the next change.
        let members = &configuration.members;
        if members.len() == wanted.len() && wanted.iter().all(|one| members.contains(&one.0)) {
            return Progress::Done;
        }
        return Progress::Failed(
            "another request changed the members meanwhile: see holdfast members".to_owned(),
        );
    }

    let change = answer.change.as_ref().filter(|change| change.generation == generation);
    match change.map(|change| change.state.as_str()) {
        Some("failed") => {
            let why = change.and_then(|change| change.error.clone());
            Progress::Failed(why.unwrap_or_else(|| "the members were not changed".to_owned()))
        }
        // The next leader knows whether an unsettled change was finished or dropped.
        Some("unsettled") if answer.state == "streaming" && decided.is_some() => Progress::Failed(
            "the members were not changed: leadership ended before enough safekeepers had agreed; run the command again"
                .to_owned(),
        ),
        _ => Progress::UnderWay(stage(answer)),
    }
}

/// What a change that is under way waits for.
fn stage(answer: &WalproposerAnswer) -> String {
    let change = answer.change.as_ref();
    let waits = change.iter().flat_map(|change| &change.waits_for).map(|one| match one.lag_bytes {
        Some(lag) => format!("safekeeper {} lacks {} MiB", one.id, lag.div_ceil(1 << 20)),
        None => format!("safekeeper {} does not follow yet", one.id),
    });
    let waits: Vec<String> = waits.collect();
    match change.map(|change| change.state.as_str()) {
        Some("catching_up") if !waits.is_empty() => format!("catching up: {}", waits.join(", ")),
        Some("unsettled") => "the walproposer lost its leadership: waiting for the next one".to_owned(),
        _ => "waiting for the safekeepers to agree".to_owned(),
    }
}

fn done(answer: &WalproposerAnswer, as_json: bool) -> anyhow::Result<Outcome> {
    let configuration =
        answer.configuration.as_ref().context("the configuration disappeared: see holdfast members")?;
    let text = if as_json {
        json!({"result": Outcome::Healthy, "configuration": configuration}).to_string()
    } else {
        let members: Vec<String> = configuration.members.iter().map(typed).collect();
        format!("decided: generation {}, members {}", configuration.generation, members.join(","))
    };
    print(&(text + "\n"))?;
    Ok(Outcome::Healthy)
}

#[expect(clippy::print_stderr, reason = "progress is for the person who waits, not for a pipe")]
fn print_progress(text: &str) {
    eprintln!("{}", crate::table::printable(text));
}

#[cfg(test)]
mod tests;
