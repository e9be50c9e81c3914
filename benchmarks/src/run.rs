//! [`Run`]: what a bench works with: its options, its directory, and the place where it puts values, remarks and progress.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use test_runner::env::{self, Tools};

use crate::limits;
use crate::machine::{LoadMeter, Machine, commit, now_utc};
use crate::quantity::Quantity;
use crate::results::{Results, Samples};
use crate::rounds::ROUNDS_MIN;
use crate::stats::{median, spread};

/// Share of the machine's CPU time for other programs above which a run is not trusted.
const FOREIGN_MAX: f64 = 0.05;
/// Share of the machine's CPU time for other guests of the host above which a run is not trusted.
const STEAL_MAX: f64 = 0.03;
/// Spread of the reference variant over the rounds above which a run is not trusted.
const SPREAD_MAX: f64 = 0.25;

/// Choices of the command line.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Short rounds.
    pub(crate) quick: bool,
    /// Number of rounds.
    pub(crate) rounds: usize,
    /// Only these numbers of clients, where a bench has several; empty: all.
    pub(crate) clients: Vec<u32>,
    /// Only these variants; empty: all.
    pub(crate) variants: Vec<String>,
    /// Only situations whose name contains this text.
    pub(crate) only: Option<String>,
}

/// One run of one bench.
#[derive(Debug)]
pub(crate) struct Run {
    /// Choices of the command line.
    pub(crate) options: Options,
    /// PostgreSQL's and our programs.
    pub(crate) tools: Tools,
    /// Directory of the bench, empty at its start, on the disk that is measured.
    pub(crate) directory: PathBuf,
    bench: &'static str,
    samples: Samples,
    load: LoadMeter,
    references: Vec<(String, &'static str, &'static str)>,
    notes: Vec<String>,
    began: Instant,
}

impl Options {
    /// True when something is left out: such a run is not written to the document.
    pub(crate) fn is_partial(&self) -> bool {
        let narrowed = !self.clients.is_empty() || !self.variants.is_empty() || self.only.is_some();
        narrowed || self.rounds < ROUNDS_MIN
    }

    /// Those of a bench's numbers of clients that were chosen.
    pub(crate) fn chosen_clients(&self, all: &[u32]) -> Vec<u32> {
        let chosen = |clients: &&u32| self.clients.is_empty() || self.clients.contains(clients);
        all.iter().filter(chosen).copied().collect()
    }

    /// Whether a variant was chosen.
    pub(crate) fn has_variant(&self, name: &str) -> bool {
        self.variants.is_empty() || self.variants.iter().any(|variant| variant == name)
    }

    /// Whether a situation was chosen.
    pub(crate) fn has_situation(&self, what: &str) -> bool {
        self.only.as_ref().is_none_or(|only| what.contains(only.as_str()))
    }

    /// One of two values: for quick rounds, for full ones.
    pub(crate) fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

impl Run {
    /// Makes the directory of the bench and measures the raw limits for the first time.
    pub(crate) fn begin(bench: &'static str, options: Options) -> Result<Self> {
        let state = env::state()?;
        let directory = state.join("bench").join(bench);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let mut run = Self {
            options,
            tools: Tools::find(&state)?,
            directory,
            bench,
            samples: Samples::default(),
            load: LoadMeter::new(),
            references: Vec::new(),
            notes: Vec::new(),
            began: Instant::now(),
        };
        run.measure_limits()?;
        Ok(run)
    }

    /// Prints a line of progress.
    #[expect(clippy::print_stderr, reason = "progress for a person; results go to standard output")]
    pub(crate) fn progress(&self, text: &str) {
        eprintln!("{:>5.0} s  {}: {text}", self.began.elapsed().as_secs_f64(), self.bench);
    }

    /// Adds the value of one round.
    pub(crate) fn push(&mut self, what: &str, quantity: Quantity, variant: &str, value: f64) {
        self.samples.push(what, quantity, variant, value);
    }

    /// Adds a remark to the document.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Names a series whose spread tells whether the machine was quiet: one that no change of ours moves.
    pub(crate) fn set_reference(&mut self, what: &str, quantity: Quantity, variant: &'static str) {
        self.references.push((what.into(), quantity.name, variant));
    }

    /// Measures the raw limits once more. A bench may call it between rounds.
    pub(crate) fn measure_limits(&mut self) -> Result<()> {
        limits::measure(&mut self.samples, &self.directory)
    }

    /// Begins a slice of time in which something is measured: the machine's load counts from here.
    pub(crate) fn begin_slice(&mut self) -> Result<()> {
        self.load.begin()
    }

    /// Ends the slice.
    pub(crate) fn end_slice(&mut self) -> Result<()> {
        self.load.end()
    }

    /// Ends the run: measures the limits again, removes the directory and returns the results.
    pub(crate) fn finish(mut self) -> Result<Results> {
        self.measure_limits()?;
        fs::remove_dir_all(&self.directory)?;
        self.progress("done");
        Ok(Results {
            bench: self.bench.into(),
            commit: commit(),
            finished: now_utc(),
            quick: self.options.quick,
            machine: Machine::describe()?,
            load: self.load.summary(),
            noise: self.noise(),
            notes: self.notes,
            series: self.samples.0,
        })
    }

    fn noise(&self) -> Vec<String> {
        let load = self.load.summary();
        let percent = |share: f64| (share * 100.0).round();
        let mut found = Vec::new();
        if load.foreign > FOREIGN_MAX {
            found.push(format!(
                "other programs used {} % of the machine's CPU time (limit {} %)",
                percent(load.foreign),
                percent(FOREIGN_MAX)
            ));
        }
        if load.steal > STEAL_MAX {
            found.push(format!(
                "the host gave {} % of the machine's CPU time to other guests (limit {} %)",
                percent(load.steal),
                percent(STEAL_MAX)
            ));
        }

        for (what, quantity, variant) in &self.references {
            let series = self.samples.0.iter().find(|series| {
                series.what == *what && series.quantity == *quantity && series.variant == *variant
            });
            let values = series.map(|series| series.values.as_slice()).unwrap_or_default();
            if let (Some(spread), Some(middle)) = (spread(values), median(values))
                && spread > SPREAD_MAX
            {
                found.push(format!(
                    "{what}: {quantity} of {variant}, which is the reference, spread by {} % around {middle} (limit {} %)",
                    percent(spread),
                    percent(SPREAD_MAX)
                ));
            }
        }
        found
    }
}
