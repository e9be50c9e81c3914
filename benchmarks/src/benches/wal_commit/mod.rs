//! `wal-commit`: what a commit costs when it waits for a synchronous replica, beside what else PostgreSQL can wait for.
//!
//! ```text
//!   goals      what must be reached, and the names of situations
//!   slice      one variant under load for some seconds, with the accounts of all its processes
//!   stall      a log node that stops for 100 ms each second
//! ```

mod goals;
mod slice;
mod stall;

use std::time::Duration;

use anyhow::Result;

use self::goals::{COMMITS, LINKED_CLIENTS, LINKS, linked, situation};
use self::slice::Cell;
use crate::bench::{Bench, Plot, Running};
use crate::peers::c_program::CPrograms;
use crate::peers::link::{Links, Network};
use crate::peers::pgbench::Script;
use crate::peers::primary::Template;
use crate::peers::replicated::Replicated;
use crate::rounds;
use crate::run::Run;

/// The bench.
pub(crate) const BENCH: Bench = Bench {
    name: "wal-commit",
    about: "commits that wait for three safekeepers: beside no replica, a standby, three receivers, and the floor",
    goals: goals::all,
    plots: &[
        Plot {
            file: "insert",
            title: "Commits a second of one-row INSERTs, as a share of three pg_receivewal's (any2)",
            quantity: COMMITS.name,
            situations: "on one machine",
            relative_to: Some("any2"),
        },
        Plot {
            file: "links",
            title: "The same over links with a round trip of 0.5, 1 and 2 ms",
            quantity: COMMITS.name,
            situations: "links",
            relative_to: Some("any2"),
        },
        Plot {
            file: "cpu",
            title: "CPU of all log parts a commit, µs",
            quantity: goals::CPU.name,
            situations: "INSERT, ",
            relative_to: None,
        },
    ],
    run,
};

const VARIANTS: [&str; 5] = ["local", "standby", "any2", "floor", "ours"];
const LINKED_VARIANTS: [&str; 4] = ["standby", "any2", "floor", "ours"];
const CLIENTS: [u32; 3] = [1, 8, 32];
/// Rounds of what no goal is about, in a quick run.
const QUICK_ROUNDS_WITHOUT_GOAL: usize = 3;

fn run(run: &mut Run) -> Running<'_> {
    Box::pin(measure(run))
}

async fn measure(run: &mut Run) -> Result<()> {
    run.progress("making a PostgreSQL cluster");
    let programs = CPrograms::compile(run).await?;
    let template = Template::make(run).await?;
    one_machine(run, &programs, &template).await?;
    own_hosts(run, &programs, &template).await
}

/// All parts on one machine, without links.
async fn one_machine(run: &mut Run, programs: &CPrograms, template: &Template) -> Result<()> {
    let scripts = [("INSERT", template.insert()), ("pgbench -N", Script::SimpleUpdate)];
    let mut cells = Vec::new();
    for (name, script) in scripts {
        for clients in run.options.chosen_clients(&CLIENTS) {
            let what = situation(name, clients);
            if run.options.has_situation(&what) {
                let insert = name == "INSERT";
                let seconds = if run.options.quick { 1 + u32::from(insert) } else { 4 };
                let quick_rounds = QUICK_ROUNDS_WITHOUT_GOAL.min(run.options.rounds);
                let rounds = if run.options.quick && !insert { quick_rounds } else { run.options.rounds };
                cells.push((Cell { what, script: script.clone(), clients, seconds }, rounds));
            }
        }
    }
    if cells.is_empty() {
        return Ok(());
    }

    let mut variants = Vec::new();
    for name in VARIANTS.into_iter().filter(|name| run.options.has_variant(name)) {
        run.progress(&format!("starting {name}"));
        variants.push(Replicated::start(name, run, template, programs, Network::default(), "").await?);
    }
    slice::warm_up(run, &variants, template).await?;
    run.set_reference(&situation("INSERT", 8), COMMITS, "local");
    for (cell, rounds) in &cells {
        rounds_of(run, &variants, cell, *rounds).await?;
    }
    for (cell, _) in cells.iter().filter(|(cell, _)| cell.what.starts_with("INSERT")) {
        slice::count_system_calls(run, &variants, cell).await?;
    }
    slice::memory(run, &variants)?;
    Ok(())
}

/// Each log node behind a link of its own.
async fn own_hosts(run: &mut Run, programs: &CPrograms, template: &Template) -> Result<()> {
    let all_clients = run.options.pick(&[LINKED_CLIENTS][..], &CLIENTS[..]);
    let mut cells = Vec::new();
    for round_trip in LINKS {
        for clients in run.options.chosen_clients(all_clients) {
            let what = linked(clients, round_trip);
            let cell = Cell { what, script: template.insert(), clients, seconds: run.options.pick(1, 4) };
            if run.options.has_situation(&cell.what) {
                cells.push((round_trip, cell));
            }
        }
    }
    let stalls = run.options.has_situation(goals::STALLED) && run.options.clients.is_empty();
    if cells.is_empty() && !stalls {
        return Ok(());
    }

    let links = Links::new(programs, &run.directory)?;
    let mut variants = Vec::new();
    for name in LINKED_VARIANTS.into_iter().filter(|name| run.options.has_variant(name)) {
        run.progress(&format!("starting {name} behind links"));
        let started = Replicated::start(name, run, template, programs, links.network(), "-linked");
        variants.push(started.await?);
    }
    slice::warm_up(run, &variants, template).await?;
    for (round_trip, cell) in &cells {
        links.set_round_trip(*round_trip)?;
        rounds_of(run, &variants, cell, run.options.rounds).await?;
    }
    if stalls {
        links.set_round_trip(Duration::from_millis(1))?;
        stall::measure(run, &variants, template).await?;
    }
    Ok(())
}

async fn rounds_of(run: &mut Run, variants: &[Replicated], cell: &Cell, rounds: usize) -> Result<()> {
    let all: Vec<&Replicated> = variants.iter().collect();
    for round in 0..rounds {
        run.progress(&format!("{}: round {} of {rounds}", cell.what, round + 1));
        for variant in rounds::order(&all, round) {
            slice::measure(run, variant, cell).await?;
        }
    }
    Ok(())
}
