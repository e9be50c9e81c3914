//! Runs many schedules: on several threads, and in slices. Each slice leaves a line in a file, so that a stopped
//! campaign continues where it stopped. A line counts only for the sources that it was made with. A *campaign* here is
//! a long run of schedules, not an attempt to become leader.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use simulation::{ScheduleOutcome, Stats, Violation};

/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// Directories that the simulation runs code from: two runs with equal trees here are runs of the same sources.
const SOURCES: [&str; 2] = ["libs", "safekeeper"];
/// Digits kept of a tree's name.
const TREE_DIGITS: usize = 12;
/// The lines of slices follow this line.
const MARKER: &str = "<!-- one line a slice -->";

/// Settings for a run of many schedules.
pub(crate) struct Batch {
    /// Threads.
    pub(crate) jobs: usize,
    /// Runs each seed twice; both runs must have the same trace hash.
    pub(crate) check_determinism: bool,
    /// Continues after the first violation.
    pub(crate) keep_going: bool,
}

/// What a run can find wrong with a seed.
pub(crate) enum Failure {
    /// An invariant broke.
    Violation(u64, Violation),
    /// Two runs of the seed differ.
    NonDeterminism(u64),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(seed, violation) => write!(f, "seed {seed} violates {violation}"),
            Self::NonDeterminism(seed) => write!(
                f,
                "seed {seed} gave another trace hash the second time: some randomness does not come from the seed"
            ),
        }
    }
}

impl Batch {
    /// Runs the seeds; returns the sum of their counts and the failures.
    pub(crate) fn run(&self, seeds: &Range<u64>) -> (Stats, Vec<Failure>) {
        let next = AtomicU64::new(seeds.start);
        let stop = AtomicBool::new(false);
        let result = Mutex::new((Stats::default(), Vec::new()));

        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end {
                            break;
                        }
                        let (stats, found) = self.run_one(seed);
                        stop.fetch_or(found.is_some() && !self.keep_going, Ordering::Relaxed);
                        let mut result = result.lock();
                        result.0 += stats;
                        result.1.extend(found);
                    }
                });
            }
            report_progress(seeds, &next, &stop);
        });

        result.into_inner()
    }

    fn run_one(&self, seed: u64) -> (Stats, Option<Failure>) {
        let ScheduleOutcome { stats, violation, trace_hash, .. } = simulation::run(seed, false);
        let found = match violation {
            Some(violation) => Some(Failure::Violation(seed, violation)),
            None if self.check_determinism && simulation::run(seed, false).trace_hash != trace_hash => {
                Some(Failure::NonDeterminism(seed))
            }
            None => None,
        };
        (stats, found)
    }
}

/// Runs schedules in slices, except slices that `file` already lists for these sources, and appends a line for each.
/// Stops at the first slice that fails or has too little coverage.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that reports to a terminal")]
pub(crate) fn run(batch: &Batch, schedules: u64, slice: u64, file: &Path) -> bool {
    let tree = tree();
    for start in (0..schedules).step_by(slice as usize) {
        let seeds = start..(start + slice).min(schedules);
        let known = std::fs::read_to_string(file).unwrap_or_default();
        if !tree.ends_with("dirty") && is_done(&known, &tree, &seeds) {
            continue;
        }
        let started = Instant::now();
        let (stats, found) = batch.run(&seeds);
        let seconds = started.elapsed().as_secs_f64();
        let line = line(&tree, &seeds, &stats, found.len());
        println!("{line} ({:.0} a second)", stats.schedules as f64 / seconds);
        if !report_failures(&stats, &found) {
            return false;
        }
        if let Err(error) = append(file, &known, &line) {
            eprintln!("cannot write {}: {error}", file.display());
            return false;
        }
    }
    true
}

/// Prints the failures of a run and a lack of coverage; returns false when there is one.
#[expect(clippy::print_stderr, reason = "a command that reports to a terminal")]
pub(crate) fn report_failures(stats: &Stats, found: &[Failure]) -> bool {
    for one in found {
        eprintln!("{one}");
    }
    if let Some(Failure::Violation(seed, _)) = found.first() {
        eprintln!("replay it with: ./dev sim --seed {seed} --trace");
    }
    let coverage_gap = stats.coverage_gap().filter(|_| found.is_empty());
    if let Some(coverage_gap) = &coverage_gap {
        eprintln!("{coverage_gap}");
    }
    found.is_empty() && coverage_gap.is_none()
}

/// The line of a slice.
pub(crate) fn line(tree: &str, seeds: &Range<u64>, stats: &Stats, found: usize) -> String {
    let Range { start, end } = seeds;
    format!(
        "tree {tree} seeds {start}..{end} schedules {} violations {found}; {}",
        stats.schedules,
        stats.averages()
    )
}

/// True when `lines` has a line for these seeds and sources without a violation.
fn is_done(lines: &str, tree: &str, seeds: &Range<u64>) -> bool {
    let Range { start, end } = seeds;
    let schedules = end - start;
    let wanted = format!("tree {tree} seeds {start}..{end} schedules {schedules} violations 0;");
    lines.lines().any(|line| line.trim_start_matches("- ").starts_with(&wanted))
}

/// Replaces the file by one with one more line behind the marker. The marker is added when it is missing.
fn append(file: &Path, known: &str, line: &str) -> std::io::Result<()> {
    let mut text = known.trim_end().to_owned();
    if !known.contains(MARKER) {
        text.push_str(if text.is_empty() { "" } else { "\n\n" });
        text.push_str(MARKER);
    }
    let beside = file.with_extension("unfinished");
    std::fs::write(&beside, format!("{text}\n- {line}\n"))?;
    std::fs::rename(beside, file)
}

/// Name of the simulated sources: git's names of their trees, with `-dirty` when there are uncommitted changes.
pub(crate) fn tree() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let of = SOURCES.map(|directory| format!("HEAD:{directory}"));
    let Some(names) = git(&["rev-parse", &of[0], &of[1]]) else { return "unknown-dirty".to_owned() };
    let short: Vec<&str> =
        names.split_whitespace().map(|name| name.get(..TREE_DIGITS).unwrap_or(name)).collect();
    let status = git(&["status", "--porcelain", SOURCES[0], SOURCES[1]]);
    let dirty = if status.is_some_and(|changes| changes.trim().is_empty()) { "" } else { "-dirty" };
    format!("{}{dirty}", short.join("-"))
}

/// Shows one progress line that refreshes, on a terminal only.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_done_needs_same_sources_and_no_violation() {
        let stats = Stats { schedules: 100, ..Stats::default() };
        let seeds = 0..100;
        for (listed, tree, wanted, done) in [
            (line("a-b", &seeds, &stats, 0), "a-b", 0..100, true),
            (line("a-b", &seeds, &stats, 1), "a-b", 0..100, false),
            (line("a-b", &seeds, &stats, 0), "a-c", 0..100, false),
            (line("a-b", &seeds, &stats, 0), "a-b", 100..200, false),
            (line("a-b-dirty", &seeds, &stats, 0), "a-b", 0..100, false),
        ] {
            assert_eq!(
                is_done(&format!("text\n{MARKER}\n- {listed}\n"), tree, &wanted),
                done,
                "{listed} {tree}"
            );
        }
    }
}
