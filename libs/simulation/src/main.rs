//! `simulation`: runs schedules by seed, and reports the invariant that broke and how to replay it.

mod campaign;

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use simulation::ScheduleOutcome;

use crate::campaign::{Batch, Failure};

/// Simulates clusters with crashes, lost writes, cut connections and rival proposers.
///
/// A seed is a schedule: the same seed on the same sources gives the same events. A violation prints its seed; run that
/// seed again with --trace to read the events.
#[derive(Parser)]
struct Flags {
    /// Seeds to run, from FIRST to END - 1, written FIRST..END: for example 0..20000.
    #[arg(long, value_parser = parse_range, conflicts_with_all = ["seed", "campaign"], default_value = "0..1000")]
    seeds: Range<u64>,
    /// Runs one seed twice and compares the two runs.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints every event of --seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Runs every seed twice and compares the two runs.
    #[arg(long)]
    check_determinism: bool,
    /// Continues after a violation, and prints every violation.
    #[arg(long)]
    keep_going: bool,
    /// Runs this many schedules from seed 0 in slices, and adds a line for each slice to the file of --resume.
    #[arg(long, conflicts_with = "seed")]
    campaign: Option<u64>,
    /// Schedules in one slice of --campaign.
    #[arg(long, default_value_t = 50_000, requires = "campaign", value_parser = clap::value_parser!(u64).range(1..))]
    slice: u64,
    /// File that holds the lines of --campaign. Slices with a line for the same sources are not run again.
    #[arg(long, default_value = "docs/simulation.md", requires = "campaign")]
    resume: PathBuf,
    /// Threads.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    bounds
        .filter(|range| !range.is_empty())
        .ok_or_else(|| "expected two ascending numbers, as in 0..20000".to_owned())
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let batch = Batch {
        jobs: flags.jobs.max(1),
        check_determinism: flags.check_determinism,
        keep_going: flags.keep_going,
    };
    let is_good = match (flags.seed, flags.campaign) {
        (Some(seed), _) => run_seed(seed, flags.trace),
        (None, Some(schedules)) => campaign::run(&batch, schedules, flags.slice, &flags.resume),
        (None, None) => run_seeds(&batch, flags.seeds),
    };
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed twice and prints the events of the first run.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that reports to a terminal")]
fn run_seed(seed: u64, trace: bool) -> bool {
    let ScheduleOutcome { stats, trace_hash, lines, violation } = simulation::run(seed, trace);
    lines.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: trace hash {trace_hash:016x}; {stats}");
    if simulation::run(seed, false).trace_hash != trace_hash {
        eprintln!("{}", Failure::NonDeterminism(seed));
        return false;
    }
    if let Some(violation) = &violation {
        eprintln!("seed {seed} violates {violation}");
    }
    violation.is_none()
}

/// Runs the seeds, and prints one line of results and one line of coverage.
#[expect(clippy::print_stdout, reason = "a command that reports to a terminal")]
fn run_seeds(batch: &Batch, seeds: Range<u64>) -> bool {
    let started = Instant::now();
    let (stats, found) = batch.run(&seeds);
    let seconds = started.elapsed().as_secs_f64();
    println!("{}", campaign::line(&campaign::tree(), &seeds, &stats, found.len()));
    println!("{stats}; {:.0} schedules per second", stats.schedules as f64 / seconds);
    campaign::report_failures(&stats, &found)
}
