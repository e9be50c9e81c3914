//! The program behind `./dev up`, `status`, `stop`, `start` and `down`. What a cluster is and in which order it
//! starts and stops is in the library; here is what a person types and reads.

mod foreground;
mod render;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use test_runner::cluster::{Cluster, Options, PartName};
use test_runner::env::{Tools, state};
use test_runner::wait;

use self::foreground::{Reporter, Signals};

/// How long a command waits for another one to come to its end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

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
            render::complain(&format!("{error:#}"));
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
    let lock = lock(&directory).await?;
    let mut cluster = open()?;
    match arguments.command {
        Command::Up { detach, port } => {
            if !up(&mut cluster, port).await? || detach {
                return Ok(ExitCode::SUCCESS);
            }
            drop(lock);
            foreground::run(&open, &directory).await?;
        }
        Command::Start { name, for_proxy } => {
            start(&mut cluster, name, for_proxy).await?;
            // Whatever commits wait for may need another command.
            drop(lock);
            if name == PartName::Postgres {
                wait_usable(&cluster).await?;
            }
        }
        Command::Stop { name } => stop(&mut cluster, name).await?,
        Command::Down => down(&mut cluster).await?,
        Command::Status { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Held while something is started or stopped: two commands at once would undo each other.
async fn lock(directory: &Path) -> Result<Flock<fs::File>> {
    let path = directory.join("lock");
    let locked = wait::until("its end", LOCK_TIMEOUT, async || {
        match Flock::lock(fs::File::create(&path)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    });
    locked.await.context("another ./dev command is starting or stopping this cluster")
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
    tell_programs(cluster)?;
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

async fn start(cluster: &mut Cluster, name: PartName, for_proxy: bool) -> Result<()> {
    if cluster.state.origin.is_none() {
        bail!("there is no cluster here yet: ./dev up");
    }
    if for_proxy && !cluster.is_running(PartName::Proxy) {
        bail!("the proxy that wanted {name} has ended: {name} is not started");
    }
    if cluster.is_running(name) {
        render::line(&format!("{name} is running already"));
        return Ok(());
    }
    cluster.start_part(name).await?;
    tell_programs(cluster)?;
    render::line(&format!("{name} started"));
    Ok(())
}

/// A started primary is of use when commits go through.
async fn wait_usable(cluster: &Cluster) -> Result<()> {
    if let Some(missing) = cluster.wait_usable().await.context("postgres runs, but is not followed")? {
        render::line(&format!("commits wait: {missing}"));
    }
    Ok(())
}

async fn stop(cluster: &mut Cluster, name: PartName) -> Result<()> {
    let was_running = cluster.is_running(name);
    let reporter = Reporter::new();
    cluster.stop_part(name, &|text| reporter.step(text)).await?;
    reporter.done();
    tell_programs(cluster)?;
    render::line(&format!("{name} {}", if was_running { "is stopped" } else { "did not run" }));
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
    tell_programs(cluster)?;
    render::line(&format!("stopped; the data stays in {}", cluster.directory.display()));
    Ok(())
}

/// `cluster.json` is there while something runs.
fn tell_programs(cluster: &Cluster) -> Result<()> {
    if !cluster.running().is_empty() {
        return cluster.write_cluster_json();
    }
    let file = cluster.directory.join("cluster.json");
    if file.exists() { Ok(fs::remove_file(file)?) } else { Ok(()) }
}
