//! `holdfast`: the program that a person types. It finds the programs of a cluster, asks all of them over HTTP at the same
//! time, and prints a table or JSON.
//!
//! ```text
//!  flags ──▶ cluster_file   which programs there are, and how they may be asked
//!                 │
//!                 ▼
//!  status, timelines, members, slots      one for each command: what it asks, and which answers need attention
//!                 │            │
//!                 ▼            ▼
//!            http, answers   report, table
//! ```
//!
//! It has no state and no connection to any data: it knows what the documented HTTP ports of safekeepers, walproposers and
//! proxies tell. A program that does not answer is a row with its reason; it never fails the command.

mod answers;
mod asked_safekeeper;
mod cluster_file;
#[cfg(test)]
mod documented_commands;
mod flags;
mod http;
mod members;
mod outcome;
mod report;
mod slots;
mod status;
mod table;
mod timelines;

pub use flags::Flags;
pub use outcome::Outcome;

use cluster_file::Cluster;
use flags::Command;
use http::HttpClient;

/// Runs the command and prints its result. Fails when there is no usable cluster file, or when a change is refused.
pub async fn run(flags: Flags) -> anyhow::Result<Outcome> {
    let cluster = Cluster::find(flags.cluster.as_deref())?;
    let http = HttpClient::new(flags.timeout);
    match flags.command {
        Command::Status => status::run(&cluster, &http).await.print(flags.json),
        Command::Timelines(which) => timelines::run(&cluster, &http, &which).await.print(flags.json),
        Command::Slots(which) => slots::run(&cluster, &http, &which).await.print(flags.json),
        Command::Members(flags_of_members) => {
            members::run(&cluster, &http, flags_of_members, flags.json).await
        }
    }
}
