//! The program behind `./dev up`, `status`, `stop`, `start` and `down`: parses the command line and runs one command.
//! The library (`test_runner::cluster`) starts and stops the parts.

mod commands;
mod foreground;
mod render;
mod reporter;
mod signals;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use test_runner::cluster::{Cluster, ClusterOptions, PartName};
use test_runner::env::{Tools, state};

/// Starts, shows and stops a cluster on this machine.
#[derive(Debug, Parser)]
#[command(name = "dev", bin_name = "./dev")]
struct Arguments {
    /// Directory of the cluster.
    #[arg(long, global = true, hide = true)]
    directory: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// Commands of `./dev` that this program runs.
#[derive(Debug, Subcommand)]
enum Command {
    /// Start the cluster and wait until a commit went the whole way.
    Up {
        /// Return when it runs, instead of showing its status until Ctrl-C.
        #[arg(long)]
        detach: bool,
        /// The port of PostgreSQL, from now on.
        #[arg(long)]
        port: Option<u16>,
    },
    /// Show what runs, how far each safekeeper is, and what blocks commits now.
    Status {
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Stop one part: sk1, sk2, sk3, postgres, walproposer, proxy.
    Stop { name: PartName },
    /// Start one part that was stopped or died.
    Start {
        name: PartName,
        /// A client of the proxy waits for it: nothing is started when the proxy does not run any more.
        #[arg(long, hide = true)]
        for_proxy: bool,
    },
    /// Stop everything in order. The data stays.
    Down,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            render::print_error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    let state = state()?;
    let directory = arguments.directory.unwrap_or_else(|| state.clone());
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let open = || Cluster::open(&directory, Tools::find(&state)?, ClusterOptions::default());
    if let Command::Status { json } = arguments.command {
        return commands::status(&open()?, json).await;
    }

    let lock = commands::lock(&directory).await?;
    let mut cluster = open()?;
    match arguments.command {
        Command::Up { detach, port } => {
            if !commands::up(&mut cluster, port).await? || detach {
                return Ok(ExitCode::SUCCESS);
            }
            drop(lock);
            foreground::run(&open, &directory).await?;
        }
        Command::Start { name, for_proxy } => {
            commands::start(&mut cluster, name, for_proxy).await?;
            // Commits may wait for a part that another command has to start.
            drop(lock);
            if name == PartName::Postgres {
                commands::wait_usable(&cluster).await?;
            }
        }
        Command::Stop { name } => commands::stop(&mut cluster, name).await?,
        Command::Down => commands::down(&mut cluster).await?,
        Command::Status { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}
