//! The program behind `./dev bench`: measures Holdfast beside its peers, and writes what it found to docs/benchmarks.md.
//!
//! ```text
//!   cli         command line                         run         a bench's options, directory, values and remarks
//!   bench, benches   what a bench is; one file each    peers       what Holdfast is compared with, as processes
//!   rounds      order of variants                    limits      fdatasync, sequential write, loopback
//!   accounting  CPU time, wake-ups, memory           machine     description, commit, load
//!   tracer      system calls of processes            quantity    names, units, directions
//!   results     all values of a run, as JSON         stats       medians and intervals
//!   goals       judges goals by results              report      JSON, Markdown and SVG
//!   wal         load generators for safekeepers
//! ```
//!
//! Nothing here is a test: `./dev test` runs only the tests of the pure parts.

mod accounting;
mod bench;
mod benches;
mod cli;
mod goals;
mod limits;
mod machine;
mod peers;
mod quantity;
mod report;
mod results;
mod rounds;
mod run;
mod stats;
mod tracer;
mod wal;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser as _;

use crate::benches::ALL;
use crate::cli::Arguments;
use crate::report::{document, json, tables};
use crate::run::Run;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    if arguments.names.iter().any(|name| name == "list") {
        for bench in ALL {
            say(&format!("{:<15} {}", bench.name, bench.about));
        }
        return Ok(());
    }

    let options = arguments.options();
    let mut comparisons = Vec::new();
    for bench in arguments.chosen() {
        let mut run = Run::begin(bench.name, options.clone())?;
        (bench.run)(&mut run).await.with_context(|| format!("{} failed", bench.name))?;
        let results = run.finish()?;
        let goals = (bench.goals)();
        say(&tables::whole(&results, &goals));
        comparisons.extend(json::comparisons(&results, &goals));
        if !arguments.no_docs && !options.is_partial() {
            document::save(&results)?;
            document::render()?;
        }
    }

    if let Some(file) = &arguments.json {
        json::write(file, &comparisons)?;
    }
    if arguments.names.iter().any(|name| name == "render") {
        document::render()?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "results for a person")]
fn say(text: &str) {
    println!("{text}");
}
