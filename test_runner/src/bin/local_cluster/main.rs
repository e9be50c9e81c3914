//! The program behind `./dev up`, `status`, `stop`, `start` and `down`. What a cluster is and in which order it
//! starts and stops is in the library; here is what a person types and reads.

mod foreground;
mod render;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use nix::fcntl::{Flock, FlockArg};
use test_runner::cluster::{Cluster, Options, PartName};
use test_runner::env::{Tools, state};

use self::foreground::{Reporter, Signals};

/// Starts, shows and stops a cluster on this machine.
#[derive(Debug, Parser)]
#[command(name = "dev", bin_name = "./dev")]
struct Arguments {
    /// Where the cluster's files are.
    #[arg(long, global = true, hide = true)]
    directory: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

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
    /// Stop one part: sk1, sk2, sk3, postgres, walproposer.
    Stop { name: PartName },
    /// Start one part that was stopped or died.
    Start { name: PartName },
    /// Stop everything in order. The data stays.
    Down,
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "the one sentence of a failure belongs on stderr")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dev: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    let state = state()?;
    let directory = arguments.directory.unwrap_or_else(|| state.clone());
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let open = || Cluster::open(&directory, Tools::find(&state)?, Options::default());
    if let Command::Status { json } = arguments.command {
        return status(&open()?, json).await;
    }
    let lock = lock(&directory)?;
    let mut cluster = open()?;
    match arguments.command {
        Command::Up { detach, port } => {
            if !up(&mut cluster, port).await? || detach {
                return Ok(ExitCode::SUCCESS);
            }
            drop(lock);
            foreground::run(&open, &|| self::lock(&directory)).await?;
        }
        Command::Start { name } => start(&mut cluster, name).await?,
        Command::Stop { name } => stop(&mut cluster, name).await?,
        Command::Down => down(&mut cluster).await?,
        Command::Status { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Held while something is started or stopped: two commands at once would undo each other.
fn lock(directory: &Path) -> Result<Flock<fs::File>> {
    let file = fs::File::create(directory.join("lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        anyhow::anyhow!("another ./dev command is starting or stopping this cluster: wait for it")
    })
}

/// False when it ran already.
async fn up(cluster: &mut Cluster, port: Option<u16>) -> Result<bool> {
    let running = cluster.running();
    if running.len() == cluster.parts().len() {
        render::line("the cluster is running already (./dev down stops it)");
        render::addresses(cluster).await?;
        return Ok(false);
    }
    if !running.is_empty() {
        let down: Vec<String> = cluster
            .parts()
            .iter()
            .filter(|part| !running.contains(part))
            .map(|part| part.to_string())
            .collect();
        bail!(
            "the cluster is running, except {}: ./dev start {}, or ./dev down first",
            down.join(", "),
            down[0]
        );
    }
    if let Some(port) = port {
        cluster.state.postgres.port = port;
    }
    let (reporter, mut signals) = (Reporter::new(), Signals::new()?);
    let say = |text: &str| reporter.step(text);
    let started = tokio::select! {
        started = cluster.start(&say) => started,
        // What was being started ends with the dropped future; the rest is ended below.
        () = signals.next() => Err(anyhow::anyhow!("interrupted: everything that was started is stopped again")),
    };
    if started.is_err() {
        cluster.give_up_start().await?;
    }
    reporter.done();
    started?;
    cluster.write_cluster_json()?;
    render::addresses(cluster).await?;
    Ok(true)
}

async fn status(cluster: &Cluster, json: bool) -> Result<ExitCode> {
    let status = cluster.status().await?;
    if json {
        render::line(&serde_json::to_string_pretty(&status)?);
        return Ok(ExitCode::SUCCESS);
    }
    if cluster.running().is_empty() && status.parts.iter().all(|part| part.state == "stopped") {
        bail!("the cluster does not run: ./dev up");
    }
    render::status(&status);
    Ok(ExitCode::SUCCESS)
}

async fn start(cluster: &mut Cluster, name: PartName) -> Result<()> {
    if cluster.state.origin.is_none() {
        bail!("there is no cluster here yet: ./dev up");
    }
    if cluster.is_running(name) {
        render::line(&format!("{name} is running already"));
        return Ok(());
    }
    cluster.start_part(name).await?;
    cluster.write_cluster_json()?;
    render::line(&format!("{name} started"));
    Ok(())
}

async fn stop(cluster: &mut Cluster, name: PartName) -> Result<()> {
    if !cluster.is_running(name) {
        render::line(&format!("{name} does not run"));
    }
    let reporter = Reporter::new();
    cluster.stop_part(name, &|text| reporter.step(text)).await?;
    reporter.done();
    cluster.write_cluster_json()?;
    render::line(&format!("{name} is stopped"));
    Ok(())
}

async fn down(cluster: &mut Cluster) -> Result<()> {
    if cluster.running().is_empty() {
        render::line("nothing runs");
    }
    stop_everything(cluster, &Reporter::new()).await
}

async fn stop_everything(cluster: &mut Cluster, reporter: &Reporter) -> Result<()> {
    let stopped = cluster.stop(&|text| reporter.step(text)).await;
    reporter.done();
    stopped?;
    let file = cluster.directory.join("cluster.json");
    if file.exists() {
        fs::remove_file(file)?;
    }
    render::line(&format!("stopped; the data stays in {}", cluster.directory.display()));
    Ok(())
}
