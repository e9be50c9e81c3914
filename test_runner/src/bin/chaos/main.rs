//! The program behind `./dev chaos`: kills parts of a cluster under load in many cycles, and after each kill checks
//! that every safekeeper still has what it acknowledged.
//!
//! ```text
//!   plan      which parts, when, and whether unsynced writes are lost: all from the seed
//!   run       the cluster, the load, one cycle, the oracle; its start and its crashes
//!   inspect   one safekeeper without a proposer: it must have what it acknowledged on the wire
//!   rows      acknowledged rows, in a file that is synced before they count
//!   progress  finished cycles and counters, for --resume
//! ```
//!
//! A run that finds a violation ends at once and leaves all files in place.

mod inspect;
mod plan;
mod progress;
mod rows;
mod run;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use test_runner::env::{Tools, state};
use test_runner::wait;

use self::progress::RunProgress;
use self::run::Run;

/// Time limit for the end of an earlier run.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Cycles between two examinations by the oracle; there is one at the end too.
const ORACLE_EVERY_CYCLES: u64 = 25;
/// Programs that are copied to the run, so that a later build does not change them.
const PROGRAMS: [&str; 2] = ["safekeeper", "walproposer"];

/// Kills parts of a cluster under load and checks that nothing acknowledged is lost.
#[derive(Debug, Parser)]
#[command(name = "dev", bin_name = "./dev chaos")]
struct Arguments {
    /// Number of cycles.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    cycles: u64,
    /// Go on behind the last whole cycle of a run that was interrupted.
    #[arg(long)]
    resume: bool,
    /// Decides which parts are killed, and when; random by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Directory of the run, instead of .holdfast/chaos.
    #[arg(long, hide = true)]
    directory: Option<PathBuf>,
    /// Syncs do nothing: the run has to detect that.
    #[arg(long, hide = true)]
    lying_disks: bool,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    // Programs must be started on this thread, never from a task: the kernel ends them with the thread that starts
    // them.
    match chaos(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("chaos: FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn chaos(arguments: Arguments) -> Result<()> {
    let state = state()?;
    let directory = arguments.directory.clone().unwrap_or_else(|| state.join("chaos"));
    let mut progress = match arguments.resume {
        true => resume(&directory, arguments.cycles, arguments.seed)?,
        false => begin(&directory, arguments.seed).await?,
    };
    let _lock = lock(&directory).await?;
    if !arguments.resume {
        copy_programs(&Tools::find(&state)?, &directory)?;
        progress.save()?;
    }

    let tools = Tools { programs: directory.join("programs"), ..Tools::find(&state)? };
    say(&format!("chaos: seed {}, cycles {}, {}", progress.seed, arguments.cycles, directory.display()));
    let result = cycles(&arguments, &directory, tools, &mut progress).await;
    if let Err(error) = &result {
        progress.failed = Some(format!("{error:#}"));
        progress.save()?;
        say(&format!("chaos: all files stay in {}", directory.display()));
    }

    result
}

async fn cycles(
    arguments: &Arguments,
    directory: &Path,
    tools: Tools,
    progress: &mut RunProgress,
) -> Result<()> {
    let mut last = Instant::now();
    let mut lap = |progress: &mut RunProgress| {
        let seconds = last.elapsed().as_secs_f64();
        last = Instant::now();
        progress.seconds += seconds;
        seconds
    };
    let mut run = Run::start(directory, tools, progress, arguments.lying_disks).await?;
    say(&format!("started; {:.1} s", lap(progress)));
    while progress.cycles < arguments.cycles {
        let cycle = progress.cycles + 1;
        let done = run.cycle(cycle, progress).await.with_context(|| format!("cycle {cycle}"))?;
        let seconds = lap(progress);
        say(&format!("cycle {cycle}: {done}; {seconds:.1} s"));
        if cycle.is_multiple_of(ORACLE_EVERY_CYCLES) || cycle == arguments.cycles {
            let is_last = cycle == arguments.cycles;
            let found = run.oracle(cycle, is_last, progress).await;
            let found = found.with_context(|| format!("the oracle after cycle {cycle}"))?;
            say(&format!("oracle after cycle {cycle}: {found}; {:.1} s", lap(progress)));
        }
        progress.cycles = cycle;
        progress.is_finished = cycle == arguments.cycles;
        run.sync()?;
        progress.save()?;
    }

    say(&progress.summary());
    Ok(())
}

async fn begin(directory: &Path, seed: Option<u64>) -> Result<RunProgress> {
    if let Some(before) = RunProgress::load(directory)? {
        ensure!(
            before.is_finished && before.failed.is_none(),
            "{} holds a run that {}: {}remove that directory first",
            directory.display(),
            before.failed.as_ref().map_or("was interrupted".into(), |failed| format!("found: {failed}")),
            if before.failed.is_none() { "go on with --resume, or " } else { "" }
        );
        // Locked, so that no other run uses the directory while it is removed.
        let _lock = lock(directory).await?;
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let seed = seed.map_or_else(getrandom::u64, Ok).context("no randomness from the operating system")?;
    RunProgress::new(directory, seed)
}

fn resume(directory: &Path, cycles: u64, seed: Option<u64>) -> Result<RunProgress> {
    let Some(progress) = RunProgress::load(directory)? else {
        bail!("there is no run in {} to go on with", directory.display());
    };
    if let Some(failed) = &progress.failed {
        bail!("the run in {} found: {failed}", directory.display());
    }
    ensure!(progress.cycles < cycles, "the run in {} has {} cycles", directory.display(), progress.cycles);
    ensure!(
        seed.is_none_or(|seed| seed == progress.seed),
        "the run in {} has seed {}",
        directory.display(),
        progress.seed
    );
    Ok(progress)
}

async fn lock(directory: &Path) -> Result<Flock<fs::File>> {
    let path = directory.join("lock");
    // An earlier run that was just killed may still hold the lock.
    let locked = wait::until("the end of the other run", LOCK_TIMEOUT, async || {
        match Flock::lock(fs::File::create(&path)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    });
    locked.await.with_context(|| format!("another run uses {}", directory.display()))
}

fn copy_programs(tools: &Tools, directory: &Path) -> Result<()> {
    let programs = directory.join("programs");
    fs::create_dir_all(&programs)?;
    for name in PROGRAMS {
        let from = tools.programs.join(name);
        fs::copy(&from, programs.join(name)).with_context(|| format!("{}: is it built?", from.display()))?;
    }
    Ok(())
}

fn say(line: &str) {
    // A reader that closes the pipe must not stop the run.
    let _ = writeln!(std::io::stdout(), "{line}");
}
