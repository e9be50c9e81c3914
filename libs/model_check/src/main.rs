//! `model_check`: explores the models of the consensus core, and prints one line of figures for each.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use model_check::{Audit, Bounds, Kind, Verdict, audit, check};

/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Explores every order of steps of two proposers and three safekeepers, up to bounds.
///
/// Exit status 0: all invariants hold in all states. If one is broken, the steps to the violation are printed.
#[derive(Parser)]
struct Flags {
    /// Model to explore.
    #[arg(long, value_enum, default_value_t = ModelChoice::All)]
    model: ModelChoice,
    /// Highest term.
    #[arg(long)]
    terms: Option<u64>,
    /// Longest log, in records.
    #[arg(long)]
    log: Option<usize>,
    /// Crashes of safekeepers, in total.
    #[arg(long)]
    crashes: Option<u8>,
    /// Broken connections, in total.
    #[arg(long)]
    disconnects: Option<u8>,
    /// Messages on their way on one connection.
    #[arg(long)]
    in_flight: Option<usize>,
    /// Messages arrive when they are sent; only replies are on their way, any number of them.
    #[arg(long)]
    only_replies_wait: Option<bool>,
    /// Announces a commit position at once, instead of with the next record.
    #[arg(long)]
    heartbeats: Option<bool>,
    /// Lets safekeepers persist their commit position at any time.
    #[arg(long)]
    checkpoints: Option<bool>,
    /// Explores every order of steps of different terms, instead of one term after the other.
    #[arg(long)]
    interleaved: Option<bool>,
    /// Explores states that differ only in names once.
    #[arg(long)]
    symmetry: Option<bool>,
    /// Computes the successors of every state, and compares those of states that count as one: shows that none is skipped.
    #[arg(long)]
    audit: bool,
    /// Stops a model after this many seconds; an unfinished model fails.
    #[arg(long, default_value_t = 600)]
    seconds_max: u64,
    /// Uses small bounds: seconds instead of minutes.
    #[arg(long)]
    short: bool,
    /// Threads.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
}

/// Value of `--model`: which models to explore.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModelChoice {
    /// A message and its replies are one step.
    Atomic,
    /// Messages and replies wait in queues.
    InFlight,
    /// Leaders change the members; and, as a second model, designate primaries.
    Configuration,
    /// Two earlier terms left records and committed nothing.
    EarlierTerms,
    /// All of these.
    All,
}

impl ModelChoice {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Atomic => &[Kind::Atomic],
            Self::InFlight => &[Kind::InFlight],
            Self::Configuration => &[Kind::Members, Kind::Primary],
            Self::EarlierTerms => &[Kind::EarlierTerms],
            Self::All => &[Kind::Atomic, Kind::EarlierTerms, Kind::InFlight, Kind::Members, Kind::Primary],
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command that reports to a terminal")]
fn main() -> ExitCode {
    let flags = Flags::parse();
    let mut holds = true;
    for kind in flags.model.kinds() {
        let default = if flags.short { Bounds::short(*kind) } else { Bounds::full(*kind) };
        let bounds = Bounds {
            kind: *kind,
            terms: flags.terms.unwrap_or(default.terms),
            log: flags.log.unwrap_or(default.log),
            crashes: flags.crashes.unwrap_or(default.crashes),
            disconnects: flags.disconnects.unwrap_or(default.disconnects),
            in_flight: flags.in_flight.unwrap_or(default.in_flight),
            only_replies_wait: flags.only_replies_wait.unwrap_or(default.only_replies_wait),
            heartbeats: flags.heartbeats.unwrap_or(default.heartbeats),
            checkpoints: flags.checkpoints.unwrap_or(default.checkpoints),
            interleaved: flags.interleaved.unwrap_or(default.interleaved),
            symmetry: flags.symmetry.unwrap_or(default.symmetry),
        };

        if flags.audit {
            let Audit { unique, compared, different, example } = audit(bounds);
            println!("{bounds:?}: {unique} unique, {compared} compared, {different} with other successors");
            example.iter().flatten().for_each(|steps| println!("    {}", steps.join(", ")));
            holds &= different == 0;
            continue;
        }

        let report = check(bounds, flags.jobs.max(1), Duration::from_secs(flags.seconds_max), progress());
        println!("{report}");
        if let Verdict::Broken { steps, .. } = &report.verdict {
            steps.iter().for_each(|step| println!("    {step}"));
        }

        holds &= report.verdict == Verdict::Holds;
    }

    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints a progress line at intervals; on a terminal the line refreshes.
#[expect(clippy::print_stderr, reason = "progress does not belong in the output")]
fn progress() -> impl FnMut(usize, usize) {
    let refreshes = std::io::stderr().is_terminal();
    let mut shown = Instant::now();
    move |states, unique| {
        if shown.elapsed() >= PROGRESS_INTERVAL {
            shown = Instant::now();
            let end = if refreshes { "\r" } else { "\n" };
            eprint!("{states} states, {unique} unique{end}");
            let _ = std::io::stderr().flush();
        }
    }
}
