//! `proxy-query`: what a transaction costs that passes through the proxy, beside PgBouncer, HAProxy and a bare relay.
//!
//! CPU time is that of the middle alone, between the moment at which all clients are connected and shortly before they
//! leave, so no login is in it.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use crate::accounting::Usage;
use crate::bench::{Bench, Plot, Running};
use crate::goals::Goal;
use crate::peers::database::Database;
use crate::peers::middle::{BARE_RELAY, DIRECT, HAPROXY, Middle, OURS, PGBOUNCER, PGBOUNCER_2, Setting};
use crate::peers::pgbench::{Pgbench, RunningLoad, Script};
use crate::quantity::Quantity;
use crate::rounds;
use crate::run::Run;
use crate::tracer;

const TPS: Quantity = Quantity::higher("transactions a second", "1/s");
const CPU: Quantity = Quantity::lower("CPU of the middle a transaction", "µs");
const WAKEUPS: Quantity = Quantity::lower("wake-ups of the middle a transaction", "");
const SYSTEM_CALLS: Quantity = Quantity::lower("system calls of the middle a transaction", "");

const CLIENTS: [u32; 3] = [1, 16, 64];
/// Numbers of clients at which CPU time has a goal; with one client it is mostly the kernel's way to sleep and to wake.
const CPU_GOAL_CLIENTS: [u32; 2] = [16, 64];
/// Variants that a goal compares; the others only show where these stand.
const COMPARED: [&str; 3] = [PGBOUNCER, BARE_RELAY, OURS];
/// Rounds of a quick run for what no goal is about.
const OTHER_ROUNDS: usize = 2;
/// Time after the last client has connected, for its login.
const SETTLING: Duration = Duration::from_millis(40);
/// Time before the end of the load in which nothing is measured any more.
const MARGIN: Duration = Duration::from_millis(100);

/// The bench.
pub(crate) const BENCH: Bench = Bench {
    name: "proxy-query",
    about: "short queries through the proxy (pgbench -S), beside PgBouncer, HAProxy, a bare relay and no middle",
    goals,
    plots: &[
        Plot {
            file: "tps-plain",
            title: "Transactions a second, without TLS",
            quantity: TPS.name,
            situations: "plain",
            relative_to: None,
        },
        Plot {
            file: "tps-tls",
            title: "Transactions a second, TLS",
            quantity: TPS.name,
            situations: "TLS",
            relative_to: None,
        },
        Plot {
            file: "cpu",
            title: "CPU of the middle a transaction, divided by that of the bare relay",
            quantity: CPU.name,
            situations: "prepared",
            relative_to: Some(BARE_RELAY),
        },
    ],
    run,
};

fn situation(protocol: &str, clients: u32, tls: bool) -> String {
    let plural = if clients == 1 { "" } else { "s" };
    format!("{protocol}, {}, {clients} client{plural}", if tls { "TLS" } else { "plain" })
}

fn goals() -> Vec<Goal> {
    let mut goals = Vec::new();
    for tls in [false, true] {
        for clients in CLIENTS {
            let goal = |quantity, peer| Goal {
                what: situation("prepared", clients, tls),
                quantity,
                ours: OURS,
                peer: Some(peer),
                bound: 1.0,
                requires: None,
            };
            if CPU_GOAL_CLIENTS.contains(&clients) {
                goals.push(goal(CPU, BARE_RELAY));
            }
            goals.push(goal(TPS, PGBOUNCER));
        }
    }
    goals
}

fn run(run: &mut Run) -> Running<'_> {
    Box::pin(measure(run))
}

async fn measure(run: &mut Run) -> Result<()> {
    run.progress("making PostgreSQL");
    let database = Database::start(run).await?;
    for tls in [false, true] {
        let setting = Setting::new(run, &database, tls);
        let middles = start_middles(run, &setting).await?;
        for (protocol, clients) in loads(run) {
            let what = situation(protocol, clients, tls);
            if run.options.has_situation(&what) {
                compare(run, &what, protocol, clients, &middles).await?;
            }
        }
        for middle in middles {
            middle.stop().await?;
        }
    }
    database.process.kill().await
}

/// Protocols and numbers of clients. A quick run has the simple protocol only once.
fn loads(run: &Run) -> Vec<(&'static str, u32)> {
    let with = |protocol, all: &[u32]| {
        let chosen = run.options.chosen_clients(all);
        chosen.into_iter().map(move |clients| (protocol, clients)).collect::<Vec<_>>()
    };
    [with("prepared", &CLIENTS), with("simple", run.options.pick(&CLIENTS[1..2], &CLIENTS))].concat()
}

async fn start_middles(run: &mut Run, setting: &Setting) -> Result<Vec<Middle>> {
    let mut middles = vec![setting.direct()];
    for (name, processes) in [(PGBOUNCER, 1), (PGBOUNCER_2, 2)] {
        if run.options.has_variant(name) {
            middles.extend(setting.pgbouncer(name, processes).await?);
        }
    }
    middles.extend(setting.haproxy().await?);
    middles.push(setting.bare_relay(BARE_RELAY, &[]).await?);
    middles.push(setting.proxy(OURS, None, &[]).await?);
    middles.retain(|middle| run.options.has_variant(middle.name));
    for name in [PGBOUNCER, HAPROXY] {
        if run.options.has_variant(name) && !middles.iter().any(|middle| middle.name == name) {
            run.note(format!("{name} is not installed"));
        }
    }
    Ok(middles)
}

async fn compare(run: &mut Run, what: &str, protocol: &str, clients: u32, middles: &[Middle]) -> Result<()> {
    run.set_reference(what, CPU, BARE_RELAY);
    for round in 0..run.options.rounds {
        run.progress(&format!("{what}: round {} of {}", round + 1, run.options.rounds));
        for middle in rounds::order(middles, round) {
            let compared = COMPARED.contains(&middle.name) && protocol == "prepared";
            if round < OTHER_ROUNDS || compared || !run.options.quick {
                slice(run, what, protocol, clients, &middle).await?;
            }
        }
    }

    if tracer::is_available().await {
        for middle in middles {
            if counts_system_calls(run, middle) {
                count_system_calls(run, what, protocol, clients, middle).await?;
            }
        }
    }
    Ok(())
}

/// A quick run counts the system calls of what it compares.
fn counts_system_calls(run: &Run, middle: &Middle) -> bool {
    COMPARED.contains(&middle.name) || (!run.options.quick && middle.name != DIRECT)
}

async fn slice(run: &mut Run, what: &str, protocol: &str, clients: u32, middle: &Middle) -> Result<()> {
    let seconds = run.options.pick(1, 3);
    let mut load = start_load(run, protocol, clients, seconds, middle)?;
    load.connected().await?;
    sleep(SETTLING).await;

    run.begin_slice()?;
    let (before, began) = (Usage::of(&middle.processes)?, Instant::now());
    sleep(Duration::from_secs(seconds.into()) - SETTLING - MARGIN).await;
    let (used, window) = (Usage::of(&middle.processes)? - before, began.elapsed());
    run.end_slice()?;
    let load = load.finish().await?;

    run.push(what, TPS, middle.name, load.tps);
    if middle.name != DIRECT {
        let transactions = load.tps * window.as_secs_f64();
        run.push(what, CPU, middle.name, used.cpu_us / transactions);
        run.push(what, WAKEUPS, middle.name, used.wakeups / transactions);
    }
    Ok(())
}

/// Counts system calls in a run of its own, because counting slows them.
async fn count_system_calls(
    run: &mut Run,
    what: &str,
    protocol: &str,
    clients: u32,
    middle: &Middle,
) -> Result<()> {
    let mut load = start_load(run, protocol, clients, 1, middle)?;
    load.connected().await?;
    sleep(SETTLING).await;
    let window = Duration::from_millis(500);
    let calls = tracer::count(&middle.processes, &[tracer::ANY], window).await?;
    let load = load.finish().await?;
    let transactions = load.tps * window.as_secs_f64();
    run.push(what, SYSTEM_CALLS, middle.name, calls.iter().sum::<f64>() / transactions);
    Ok(())
}

fn start_load(run: &Run, protocol: &str, clients: u32, seconds: u32, middle: &Middle) -> Result<RunningLoad> {
    let load = Pgbench {
        tools: &run.tools,
        uri: &middle.uri(),
        script: Script::SelectOnly,
        protocol,
        clients,
        seconds,
        rate: None,
        log_directory: None,
    };
    load.start()
}
