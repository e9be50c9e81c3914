//! One slice: a variant under load for some seconds, and what its processes used for it.

use std::time::Duration;

use anyhow::Result;
use test_runner::process::ProcessId;

use super::goals::{
    CALLS_HOP, CALLS_NODE, COMMITS, CPU, CPU_HOP, CPU_LINKS, CPU_NODE, CPU_PRIMARY, MEMORY_HOP, MEMORY_NODE,
    SYNCS, WAKE_UPS,
};
use crate::accounting::{Memory, Usage};
use crate::peers::pgbench::{Load, Pgbench, Script};
use crate::peers::primary::Template;
use crate::peers::replicated::Replicated;
use crate::run::Run;
use crate::tracer;

/// Time in which system calls are counted, and the length of the load around it.
const COUNTED: Duration = Duration::from_millis(1200);
const COUNTED_LOAD_SECONDS: u32 = 2;
/// Time from the start of the load to the first counted call: the clients connect.
const CONNECT_TIME: Duration = Duration::from_millis(400);

/// A situation: a load for each variant.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// Its name.
    pub(super) what: String,
    /// What the clients do.
    pub(super) script: Script,
    /// Number of clients.
    pub(super) clients: u32,
    /// Length of a slice.
    pub(super) seconds: u32,
}

impl Cell {
    async fn load(&self, run: &Run, variant: &Replicated, seconds: u32) -> Result<Load> {
        let load = Pgbench {
            tools: &run.tools,
            uri: &variant.uri(),
            script: self.script.clone(),
            protocol: "prepared",
            clients: self.clients,
            seconds,
            rate: None,
            log_directory: None,
        };
        load.run().await
    }
}

/// Usage of all groups of processes of a variant.
struct Accounts {
    hop: Usage,
    nodes: Usage,
    primary: Usage,
    links: Usage,
    syncs: Option<f64>,
}

impl Accounts {
    async fn read(variant: &Replicated) -> Result<Self> {
        Ok(Self {
            syncs: variant.syncs().await?,
            hop: Usage::of(&variant.hop)?,
            nodes: Usage::of(&variant.nodes)?,
            primary: Usage::of(&[variant.primary])?,
            links: Usage::of(&variant.links)?,
        })
    }
}

/// Measures one slice.
pub(super) async fn measure(run: &mut Run, variant: &Replicated, cell: &Cell) -> Result<()> {
    // What other variants wrote must not reach the disk during this slice.
    nix::unistd::sync();
    run.begin_slice()?;
    let before = Accounts::read(variant).await?;
    let load = cell.load(run, variant, cell.seconds).await?;
    let after = Accounts::read(variant).await?;
    run.end_slice()?;

    let (hop, nodes) = (after.hop - before.hop, after.nodes - before.nodes);
    let each = |value: f64| value / load.transactions;
    let count = variant.nodes.len() as f64;
    let mut push = |quantity, value| run.push(&cell.what, quantity, variant.name, value);
    push(COMMITS, load.tps);
    push(CPU_PRIMARY, each((after.primary - before.primary).cpu_us));
    if variant.nodes.is_empty() {
        return Ok(());
    }

    push(CPU, each(hop.cpu_us + nodes.cpu_us));
    push(CPU_NODE, each(nodes.cpu_us / count));
    push(WAKE_UPS, each(hop.wakeups + nodes.wakeups));
    if !variant.hop.is_empty() {
        push(CPU_HOP, each(hop.cpu_us));
    }
    if !variant.links.is_empty() {
        push(CPU_LINKS, each((after.links - before.links).cpu_us));
    }
    if let Some((before, after)) = before.syncs.zip(after.syncs) {
        push(SYNCS, each((after - before) / count));
    }
    Ok(())
}

/// Puts a load on each variant that is not measured: the first one after a start meets cold caches.
pub(super) async fn warm_up(run: &Run, variants: &[Replicated], template: &Template) -> Result<()> {
    let cell = Cell { what: "warm-up".into(), script: template.insert(), clients: 8, seconds: 1 };
    for variant in variants {
        run.progress(&format!("warming up {}", variant.name));
        cell.load(run, variant, 1).await?;
    }
    Ok(())
}

/// Counts system calls under the load of a cell, in a slice of their own.
pub(super) async fn count_system_calls(run: &mut Run, variants: &[Replicated], cell: &Cell) -> Result<()> {
    if !tracer::is_available().await {
        run.note("System calls were not counted: `perf stat` does not work here.");
        return Ok(());
    }
    run.progress(&format!("{}: counting system calls", cell.what));
    for variant in variants.iter().filter(|variant| !variant.nodes.is_empty()) {
        let counts = async {
            tokio::time::sleep(CONNECT_TIME).await;
            let began = commits(variant).await?;
            let (nodes, hop) = tokio::join!(calls(&variant.nodes), calls(&variant.hop));
            Ok::<_, anyhow::Error>((nodes?, hop?, commits(variant).await? - began))
        };
        let (load, counts) = tokio::join!(cell.load(run, variant, COUNTED_LOAD_SECONDS), counts);
        load?;
        let (nodes, hop, commits) = counts?;
        let node = |calls: f64| calls / commits / variant.nodes.len() as f64;
        run.push(&cell.what, CALLS_NODE, variant.name, node(nodes[0]));
        if !variant.hop.is_empty() {
            run.push(&cell.what, CALLS_HOP, variant.name, hop[0] / commits);
        }
        if variant.name == "any2" || variant.name == "floor" {
            run.push(&cell.what, SYNCS, variant.name, node(nodes[1] + nodes[2]));
        }
    }
    Ok(())
}

async fn calls(processes: &[ProcessId]) -> Result<Vec<f64>> {
    if processes.is_empty() {
        return Ok(Vec::new());
    }
    let children = processes.iter().flat_map(|process| process.children());
    let all: Vec<ProcessId> = processes.iter().copied().chain(children).collect();
    tracer::count(&all, &[tracer::ANY, tracer::FDATASYNC, tracer::FSYNC], COUNTED).await
}

async fn commits(variant: &Replicated) -> Result<f64> {
    let count = variant.postgres.ask("postgres", "SELECT coalesce(max(id), 0) FROM log").await?;
    Ok(count.parse()?)
}

/// Memory of the log parts after all that.
pub(super) fn memory(run: &mut Run, variants: &[Replicated]) -> Result<()> {
    for variant in variants {
        let private = |processes: &[ProcessId]| -> Result<f64> {
            let each: Result<Vec<f64>> =
                processes.iter().map(|process| Ok(Memory::of(*process)?.private_kib)).collect();
            Ok(each?.iter().sum::<f64>() / processes.len() as f64)
        };
        if !variant.hop.is_empty() {
            run.push("after the load", MEMORY_HOP, variant.name, private(&variant.hop)?);
        }
        if !variant.nodes.is_empty() && variant.name != "standby" {
            run.push("after the load", MEMORY_NODE, variant.name, private(&variant.nodes)?);
        }
    }
    Ok(())
}
