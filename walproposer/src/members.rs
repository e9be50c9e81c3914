//! `walproposer members`: shows and changes the members of a log, through the HTTP port of a running walproposer.
//!
//! It makes no other connections. Called by `main`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::auth_token::read_token;
use crate::config::SafekeeperAddress;

/// Time for one answer of the walproposer.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval at which the progress of a change is read.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Longest part of an unexpected answer that an error quotes.
const QUOTED_CHARS_MAX: usize = 1000;

const SET_EXAMPLES: &str = "\
To replace safekeeper 3, whose disk is gone, by a new one with id 4 (an id is never used again
with another disk):

1. Start the new safekeeper, empty:
     safekeeper --id 4 --data-dir /var/lib/sk4 ...
2. Create the log on it. All values are as in GET /v1/timelines/TENANT/TIMELINE of a good
   safekeeper, except: start_lsn is the highest oldest_lsn among the good safekeepers, and members
   are the new members:
     curl -X POST http://SK4/v1/timelines -d '{...}'
3. Tell the walproposer:
     walproposer members set 1@10.0.0.1:5454,2@10.0.0.2:5454,4@10.0.0.4:5454 --http 127.0.0.1:7676
   The walproposer copies the log to the new safekeeper while commits go on, and then lets it
   vote. The command returns when that is decided.
4. Write the new list into --safekeepers of walproposer run, for its next start.";

/// Flags of `members`.
#[derive(Debug, Args)]
pub struct MembersFlags {
    #[command(subcommand)]
    command: MembersCommand,
}

/// Subcommands of `members`.
#[derive(Debug, Subcommand)]
enum MembersCommand {
    /// Print the members of the log, and the primary that may write it.
    Show(WalproposerFlags),
    /// Make these safekeepers the only members of the log, and wait until that is decided.
    #[command(after_help = SET_EXAMPLES)]
    Set(SetFlags),
}

/// Flags of both subcommands.
#[derive(Debug, Args)]
struct WalproposerFlags {
    /// HTTP address of the running walproposer.
    #[arg(long, value_name = "HOST:PORT")]
    http: String,
    /// Print the configuration as JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `members set`.
#[derive(Debug, Args)]
struct SetFlags {
    /// All members from now on, separated by commas.
    #[arg(value_name = "ID@HOST:PORT", value_delimiter = ',', required = true)]
    members: Vec<SafekeeperAddress>,
    #[command(flatten)]
    walproposer: WalproposerFlags,
    /// Token file of the running walproposer, if it has one.
    #[arg(long, value_name = "FILE")]
    auth_token_file: Option<PathBuf>,
    /// Stop waiting after this long, such as 60s or 2h; the change continues.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Runs the command and prints the resulting configuration.
pub async fn run(flags: MembersFlags) -> Result<()> {
    match flags.command {
        MembersCommand::Show(flags) => {
            let status = Walproposer::new(&flags)?.status().await?;
            print(&status["configuration"], flags.json);
        }
        MembersCommand::Set(flags) => {
            let configuration = set(&flags).await?;
            print(&configuration, flags.walproposer.json);
        }
    }
    Ok(())
}

async fn set(flags: &SetFlags) -> Result<Value> {
    let walproposer = Walproposer::new(&flags.walproposer)?;
    let token = flags.auth_token_file.as_deref().map(read_token).transpose()?;
    let generation = walproposer.put_members(&flags.members, token.as_deref()).await?;

    let deadline = Instant::now() + flags.timeout;
    let mut printed = String::new();
    loop {
        let status = walproposer.status().await?;
        if let Some(configuration) = finished(&status, generation, &flags.members)? {
            return Ok(configuration);
        }

        let now = progress(&status);
        if now != printed {
            print_progress(&now);
            printed = now;
        }
        if Instant::now() > deadline {
            let limit = humantime::format_duration(flags.timeout);
            bail!(
                "not decided after {limit} ({printed}): the change continues, see walproposer members show"
            );
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The configuration when the change is decided; none while it is under way; an error when it will not be decided.
fn finished(status: &Value, generation: u64, wanted: &[SafekeeperAddress]) -> Result<Option<Value>> {
    let (configuration, change) = (&status["configuration"], &status["change"]);
    let reached = configuration["generation"].as_u64() >= Some(generation);
    if reached && configuration["decided"] == true && configuration["joint"] == false {
        // A dropped change leaves its generation to the next change.
        let members = configuration["members"].as_array().map_or(&[][..], Vec::as_slice);
        if members.len() == wanted.len() && wanted.iter().map(as_member).all(|one| members.contains(&one)) {
            return Ok(Some(configuration.clone()));
        }
        bail!("another request changed the members meanwhile: see walproposer members show");
    }

    let is_this_change = change["generation"].as_u64() == Some(generation);
    if is_this_change && change["state"] == "failed" {
        bail!("{}", change["error"].as_str().unwrap_or("the members were not changed"));
    }

    // The next leader knows whether an unsettled change was finished or dropped.
    let leads_again = status["state"] == "streaming" && configuration["decided"] == true;
    if is_this_change && change["state"] == "unsettled" && leads_again && configuration["joint"] == false {
        bail!(
            "the members were not changed: leadership ended before enough safekeepers had agreed; run the command again"
        );
    }
    Ok(None)
}

fn as_member(one: &SafekeeperAddress) -> Value {
    json!({"id": one.id.0, "host": one.host, "port": one.port})
}

fn progress(status: &Value) -> String {
    let change = &status["change"];
    let waits: Vec<String> = change["waits_for"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| match one["lag_bytes"].as_u64() {
            Some(lag) => format!("safekeeper {} lacks {} MiB", one["id"], lag.div_ceil(1 << 20)),
            None => format!("safekeeper {} does not follow yet", one["id"]),
        })
        .collect();
    match (change["state"].as_str(), waits.is_empty()) {
        (Some("catching_up"), false) => format!("catching up: {}", waits.join(", ")),
        (Some("unsettled"), _) => "the walproposer lost its leadership: waiting for the next one".to_owned(),
        _ => "waiting for the safekeepers to agree".to_owned(),
    }
}

/// HTTP client of one walproposer.
struct Walproposer {
    http: String,
    client: reqwest::Client,
}

impl Walproposer {
    fn new(flags: &WalproposerFlags) -> Result<Self> {
        let client = reqwest::Client::builder().timeout(HTTP_TIMEOUT).no_proxy().build()?;
        Ok(Self { http: flags.http.clone(), client })
    }

    async fn status(&self) -> Result<Value> {
        let url = format!("http://{}/v1/status", self.http);
        let answer = self.client.get(&url).send().await;
        let answer = answer.with_context(|| format!("no walproposer answers at {}", self.http))?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Requests the change; returns the generation that it ends with.
    async fn put_members(&self, members: &[SafekeeperAddress], token: Option<&str>) -> Result<u64> {
        let body: Vec<Value> = members.iter().map(as_member).collect();
        let mut request = self.client.put(format!("http://{}/v1/members", self.http)).json(&body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }

        let answer = request.send().await;
        let answer = answer.with_context(|| format!("no walproposer answers at {}", self.http))?;

        let (code, text) = (answer.status(), answer.text().await?);
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        match (code, body["generation"].as_u64()) {
            (StatusCode::OK | StatusCode::ACCEPTED, Some(generation)) => Ok(generation),
            _ => {
                let quoted: String = text.chars().take(QUOTED_CHARS_MAX).collect();
                bail!("{}", body["error"].as_str().unwrap_or(&format!("{code}: {quoted}")))
            }
        }
    }
}

/// The configuration as text, one property per line.
fn table(configuration: &Value) -> String {
    if configuration.is_null() {
        return "no configuration is known yet: no safekeeper has answered".to_owned();
    }
    let list = |name: &str| {
        let members = configuration[name].as_array().into_iter().flatten();
        let one = |member: &Value| {
            format!("{}@{}:{}", member["id"], member["host"].as_str().unwrap_or("?"), member["port"])
        };
        members.map(one).collect::<Vec<_>>().join(",")
    };

    let decided = if configuration["decided"] == true { "" } else { " (not decided under this term)" };

    let mut lines = vec![
        format!("generation  {}{decided}", configuration["generation"]),
        format!("members     {}", list("members")),
    ];
    if configuration["joint"] == true {
        lines.push(format!("next        {}", list("new_members")));
    }
    lines.push(format!("primary     {}", configuration["primary"].as_str().unwrap_or("any")));
    lines.join("\n")
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn print(configuration: &Value, as_json: bool) {
    if as_json { println!("{configuration}") } else { println!("{}", table(configuration)) }
}

#[expect(clippy::print_stderr, reason = "progress is for the operator who waits, not for a pipe")]
fn print_progress(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests;
