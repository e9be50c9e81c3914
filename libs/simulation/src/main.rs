//! `simulation`: runs schedules by seed, and says which invariant broke and how to see it again.

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use simulation::{Outcome, Stats};

/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Simulates clusters with crashes, lost writes, cut connections and rival proposers.
///
/// A seed is a schedule: the same seed on the same sources gives the same events. When an invariant breaks, the seed is
/// printed; run it again with --trace to read what happened.
#[derive(Parser)]
struct Flags {
    /// Seeds to run: FIRST..BEHIND-LAST, for example 0..20000.
    #[arg(long, value_parser = parse_range, conflicts_with = "seed", default_value = "0..1000")]
    seeds: Range<u64>,
    /// One seed, run twice to see that both runs are the same.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints every event of --seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Goes on after a violation, and prints each.
    #[arg(long)]
    keep_going: bool,
    /// Threads.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    bounds.filter(|range| !range.is_empty()).ok_or_else(|| "expected two numbers, as in 0..20000".to_owned())
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that reports to a terminal")]
fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(seed) = flags.seed {
        let outcome = simulation::run(seed, flags.trace);
        outcome.lines.iter().for_each(|line| println!("{line}"));
        println!("seed {seed}: trace hash {:016x}; {}", outcome.trace_hash, outcome.stats);
        if simulation::run(seed, false).trace_hash != outcome.trace_hash {
            eprintln!(
                "seed {seed} took another course the second time: something random does not come from the seed"
            );
            return ExitCode::FAILURE;
        }
        return match outcome.violation {
            None => ExitCode::SUCCESS,
            Some(violation) => {
                eprintln!("seed {seed} violates {violation}");
                ExitCode::FAILURE
            }
        };
    }
    let started = Instant::now();
    let (stats, broken) = run_all(&flags.seeds, flags.jobs.max(1), flags.keep_going);
    println!("{stats}; {:.0} schedules per second", stats.schedules as f64 / started.elapsed().as_secs_f64());
    if let Some((seed, violation)) = broken {
        eprintln!("seed {seed} violates {violation}\nsee it again with: ./dev sim --seed {seed} --trace");
        return ExitCode::FAILURE;
    }
    if let Some(poverty) = stats.poverty() {
        eprintln!("{poverty}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "a command that reports to a terminal")]
/// Runs the seeds on several threads; stops at the first violation.
fn run_all(
    seeds: &Range<u64>,
    jobs: usize,
    keep_going: bool,
) -> (Stats, Option<(u64, simulation::Violation)>) {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let result = Mutex::new((Stats::default(), None));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let Outcome { stats, violation, .. } = simulation::run(seed, false);
                    let mut result = result.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    result.0 += stats;
                    if let Some(violation) = violation {
                        stop.store(!keep_going, Ordering::Relaxed);
                        if keep_going {
                            eprintln!("seed {seed} violates {violation}");
                        }
                        result.1.get_or_insert((seed, violation));
                    }
                }
            });
        }
        report_progress(seeds, &next, &stop);
    });
    result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One line that refreshes, on a terminal only.
#[expect(clippy::print_stderr, reason = "progress belongs on the terminal, not in the output")]
fn report_progress(seeds: &Range<u64>, next: &AtomicU64, stop: &AtomicBool) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let mut shown = Instant::now();
    while !stop.load(Ordering::Relaxed) && next.load(Ordering::Relaxed) < seeds.end {
        std::thread::park_timeout(Duration::from_millis(50));
        if shown.elapsed() >= PROGRESS_INTERVAL {
            shown = Instant::now();
            let done = next.load(Ordering::Relaxed).min(seeds.end) - seeds.start;
            eprint!("\r{done} of {} schedules", seeds.end - seeds.start);
            let _ = std::io::stderr().flush();
        }
    }
    eprint!("\r\x1b[K");
}
