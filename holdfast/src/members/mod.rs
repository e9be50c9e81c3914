//! `holdfast members`: shows and changes the safekeepers that store a log, through the HTTP port of its walproposer.
//!
//! `show` reads; `set` requests a change and waits until it is decided. Further changes get a file and a subcommand each.

mod address;
mod set;
mod show;

use clap::{Args, Subcommand};

use crate::cluster_file::Cluster;
use crate::http::HttpClient;
use crate::outcome::Outcome;

/// Flags of `members`.
#[derive(Debug, Args)]
pub(crate) struct MembersFlags {
    #[command(subcommand)]
    command: Option<MembersCommand>,
}

/// Subcommands of `members`. Without one the members are shown.
#[derive(Debug, Subcommand)]
enum MembersCommand {
    /// Show the members of each log, how far they are, and the primary that may write it
    Show(show::ShowFlags),
    /// Make these safekeepers the only members of a log, and wait until that is decided
    #[command(after_help = set::EXAMPLES)]
    Set(set::SetFlags),
}

/// Runs the command and prints its result.
pub(crate) async fn run(
    cluster: &Cluster,
    http: &HttpClient,
    flags: MembersFlags,
    as_json: bool,
) -> anyhow::Result<Outcome> {
    match flags.command {
        None => show::run(cluster, http, &show::ShowFlags::default()).await.print(as_json),
        Some(MembersCommand::Show(flags)) => show::run(cluster, http, &flags).await.print(as_json),
        Some(MembersCommand::Set(flags)) => set::run(cluster, http, &flags, as_json).await,
    }
}
