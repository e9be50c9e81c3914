//! Load of connections, for the benchmarks of the proxy: logs in again and again, holds idle sessions, and stands in for
//! a server that only logs in, and for a control plane. Queries come from pgbench instead.

mod control_plane;
mod idle;
mod log_in;
mod login;
mod responder;

use anyhow::Result;
use clap::Parser;

/// Opens PostgreSQL connections as a client, or answers them as a server.
#[derive(Debug, Parser)]
enum Command {
    /// Logs in and out as fast as it goes, and prints one line of JSON with the number and the times
    Login(login::Flags),
    /// Opens sessions, holds them idle, and prints a line of JSON for each number that is reached
    Idle(idle::Flags),
    /// Lets every client in without a password, and holds its session. It knows no data
    Responder(responder::Flags),
    /// Answers the proxy's questions over HTTP, always with one database and one role's verifier
    ControlPlane(control_plane::Flags),
}

#[tokio::main]
async fn main() -> Result<()> {
    match Command::parse() {
        Command::Login(flags) => login::run(flags).await,
        Command::Idle(flags) => idle::run(flags).await,
        Command::Responder(flags) => responder::run(flags).await,
        Command::ControlPlane(flags) => control_plane::run(flags).await,
    }
}
