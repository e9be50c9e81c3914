//! [`check`]: explores a model breadth first and reports the result.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stateright::{Checker, HasDiscoveries, Model};

use crate::bounds::{Bounds, Kind};
use crate::cluster::Cluster;
use crate::coverage::{Coverage, EVENTS, Event};
use crate::seen::Seen;

/// Time between two polls of a running check.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every reachable state was visited, and all invariants hold in all of them.
    Holds,
    /// The time ran out; all invariants hold in the visited states.
    Unfinished,
    /// All invariants hold, but the check missed an event that it must show.
    LowCoverage(String),
    /// An invariant is broken.
    Broken {
        /// Name of the invariant.
        invariant: String,
        /// Steps from the initial state to the violation, one line each.
        steps: Vec<String>,
    },
}

/// The figures of one check.
#[derive(Clone, Debug)]
pub struct Report {
    /// Bounds of the check.
    pub bounds: Bounds,
    /// States that steps led to, repeated ones included.
    pub states: usize,
    /// Different states.
    pub unique: usize,
    /// Largest number of steps from the initial state.
    pub depth: usize,
    /// Duration.
    pub elapsed: Duration,
    /// Elections and commits of each term.
    pub terms: Vec<(u64, u64)>,
    /// Number of times that each event happened.
    pub events: Vec<(&'static str, u64)>,
    /// Result.
    pub verdict: Verdict,
}

/// Explores with `threads` threads for at most `time_max`. `progress` gets the numbers of states and of different
/// states.
pub fn check(
    bounds: Bounds,
    threads: usize,
    time_max: Duration,
    progress: impl FnMut(usize, usize),
) -> Report {
    explore(bounds, Arc::default(), threads, time_max, progress)
}

/// As [`check`], and returns which states of all nodes together were reached: one number for each, the same in all
/// checks.
pub fn check_and_collect(bounds: Bounds, threads: usize, time_max: Duration) -> (Report, BTreeSet<u64>) {
    let seen = Arc::new(Seen { joint: Some(Mutex::default()), ..Seen::default() });
    let report = explore(bounds, Arc::clone(&seen), threads, time_max, |_, _| {});
    let joint = seen.joint.as_ref().map(|joint| joint.lock().clone());
    (report, joint.unwrap_or_default())
}

fn explore(
    bounds: Bounds,
    seen: Arc<Seen>,
    threads: usize,
    time_max: Duration,
    mut progress: impl FnMut(usize, usize),
) -> Report {
    let coverage = Arc::new(Coverage::default());
    let model = Cluster { bounds, coverage: Arc::clone(&coverage), seen };

    let started = Instant::now();
    let checker = model
        .checker()
        .threads(threads)
        .timeout(time_max)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs();
    while !checker.is_done() && started.elapsed() < time_max {
        std::thread::sleep(POLL_INTERVAL);
        progress(checker.state_count(), checker.unique_state_count());
    }

    let timed_out = !checker.is_done();
    let checker = checker.join();
    let elapsed = started.elapsed();

    let broken = checker.discoveries().into_iter().next().map(|(name, path)| Verdict::Broken {
        invariant: name.to_owned(),
        steps: path.into_actions().iter().map(|action| format!("{action:?}")).collect(),
    });
    let verdict = match (broken, timed_out, coverage_gap(&bounds, &coverage)) {
        (Some(broken), _, _) => broken,
        (None, true, _) => Verdict::Unfinished,
        (None, false, Some(coverage_gap)) => Verdict::LowCoverage(coverage_gap),
        (None, false, None) => Verdict::Holds,
    };

    Report {
        bounds,
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        elapsed,
        terms: coverage.terms(bounds.terms),
        events: EVENTS.iter().map(|&(event, name)| (name, coverage.count_of(event))).collect(),
        verdict,
    }
}

/// The first event that a complete check must show and did not.
fn coverage_gap(bounds: &Bounds, coverage: &Coverage) -> Option<String> {
    let terms = coverage.terms(bounds.terms);
    let scripted = if bounds.kind == Kind::EarlierTerms { 2 } else { 0 };
    let is_gap = |&(elections, commits): &(u64, u64)| elections == 0 || commits == 0;
    if let Some(term) = terms.iter().skip(scripted).position(is_gap).map(|term| term + scripted) {
        return Some(format!("no state commits in term {}", term + 1));
    }

    let mut needed = Vec::new();
    if bounds.terms > 1 {
        needed.extend([Event::Truncated, Event::Recovered]);
        needed.extend(bounds.interleaved.then_some(Event::Deposed));
    }
    if bounds.crashes > 0 {
        needed.push(Event::Crashed);
        needed.push(Event::CrashedWithin);
    }
    if bounds.changes() > 0 {
        needed.extend([Event::Changing, Event::DecidedNext]);
        needed.extend((bounds.kind == Kind::Members).then_some(Event::DecidedJoint));
        // The start of a term is committed before any change of the configuration.
        if bounds.log > 0 {
            needed.extend((bounds.kind == Kind::Members).then_some(Event::CommittedJoint));
            needed.push(Event::CommittedNext);
        }
    }

    let missing = EVENTS.iter().find(|(event, _)| needed.contains(event) && coverage.count_of(*event) == 0);
    missing.map(|(_, name)| format!("no state shows {name}"))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bounds {
            kind,
            terms,
            log,
            crashes,
            disconnects,
            in_flight,
            only_replies_wait: _,
            checkpoints,
            heartbeats,
            interleaved,
            symmetry,
        } = self.bounds;
        write!(
            f,
            "{}: {terms} terms x {log} records, {crashes} crashes, {disconnects} broken connections",
            kind.name()
        )?;
        if self.bounds.replies_wait() {
            write!(f, ", all replies in flight")?;
        } else if kind == Kind::InFlight {
            write!(f, ", {in_flight} in flight")?;
        }
        if heartbeats {
            write!(f, ", heartbeats")?;
        }
        if checkpoints {
            write!(f, ", checkpoints")?;
        }
        if interleaved {
            write!(f, ", terms interleaved")?;
        }
        if !symmetry {
            write!(f, ", without symmetry")?;
        }

        let seconds = self.elapsed.as_secs_f64();
        write!(
            f,
            "; {} states, {} unique, depth {}, {seconds:.1} s; ",
            self.states, self.unique, self.depth
        )?;

        for (term, (elections, commits)) in self.terms.iter().enumerate() {
            write!(f, "term {}: {elections} elections, {commits} commits; ", term + 1)?;
        }
        for (name, count) in self.events.iter().filter(|(_, count)| *count > 0) {
            write!(f, "{count} {name}; ")?;
        }

        match &self.verdict {
            Verdict::Holds => write!(f, "all invariants hold"),
            Verdict::Unfinished => write!(f, "UNFINISHED, no violation so far"),
            Verdict::LowCoverage(why) => write!(f, "LOW COVERAGE: {why}"),
            Verdict::Broken { invariant, .. } => write!(f, "BROKEN: {invariant}"),
        }
    }
}
