//! `proxy-idle`: the memory that an idle session takes in the proxy, and a connection that has said nothing yet.
//!
//! Each round starts every middle anew, logs in once, and then opens sessions in stages. A session's memory is the growth
//! of the process since before the first stage, divided by the sessions; the kernel's buffers, which are alike for all,
//! are not in it. A program that only logs clients in stands in for PostgreSQL.

use std::time::Duration;

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::sleep;

use crate::accounting::Memory;
use crate::bench::{Bench, Plot, Running};
use crate::goals::Goal;
use crate::peers::database::Database;
use crate::peers::middle::{BARE_RELAY, Middle, OURS, PGBOUNCER, Setting};
use crate::peers::pg_load::{self, IdleClients};
use crate::quantity::Quantity;
use crate::rounds;
use crate::run::Run;

const MEMORY: Quantity = Quantity::lower("memory of the middle a connection", "KiB");
const LOGIN: Quantity = Quantity::lower("time of a login beside them", "ms");

/// Numbers of idle sessions.
const STAGES: [usize; 2] = [200, 1_000];
/// Idle sessions of the last stage, if the process may have descriptors for them.
const MANY: usize = 10_000;
/// Descriptors of a process besides those of its sessions, which have two each.
const OTHER_DESCRIPTORS: u64 = 100;
/// Connections that say nothing.
const SILENT: usize = 4_500;
/// Time for a middle to finish what the last login began.
const SETTLING: Duration = Duration::from_millis(300);

/// Most memory of an idle session, in KiB.
const TLS_KIB_MAX: f64 = 12.0;
const PLAIN_KIB_MAX: f64 = 6.0;
/// Most memory of a silent connection, in KiB.
const SILENT_KIB_MAX: f64 = 4.0;

/// The bench.
pub(crate) const BENCH: Bench = Bench {
    name: "proxy-idle",
    about: "memory of idle sessions and of silent connections in the proxy, beside PgBouncer and a bare relay",
    goals,
    plots: &[Plot {
        file: "memory",
        title: "Memory of the middle a connection, KiB",
        quantity: MEMORY.name,
        situations: "",
        relative_to: None,
    }],
    run,
};

fn idle(sessions: usize, tls: bool) -> String {
    format!("{}, {sessions} idle sessions", if tls { "TLS" } else { "plain" })
}

fn silent() -> String {
    format!("TLS, {SILENT} silent connections")
}

fn goals() -> Vec<Goal> {
    let goal = |what, bound| Goal { what, quantity: MEMORY, ours: OURS, peer: None, bound, requires: None };
    let mut goals = Vec::new();
    for (tls, bound) in [(false, PLAIN_KIB_MAX), (true, TLS_KIB_MAX)] {
        goals.extend(STAGES.map(|sessions| goal(idle(sessions, tls), bound)));
    }
    goals.push(goal(silent(), SILENT_KIB_MAX));
    goals
}

fn run(run: &mut Run) -> Running<'_> {
    Box::pin(measure(run))
}

async fn measure(run: &mut Run) -> Result<()> {
    let many = sessions_max(run)?;
    run.progress("making PostgreSQL");
    let database = Database::start(run).await?;
    database.process.kill().await?;
    let responder = pg_load::start_responder(&run.tools, &run.directory).await?;
    for tls in [false, true] {
        let setting = Setting { database_port: responder.port, ..Setting::new(run, &database, tls) };
        for round in 0..run.options.rounds {
            let mut stages = STAGES.to_vec();
            if round == 0 || !run.options.quick {
                stages.push(many);
            }
            run.progress(&format!(
                "{}: round {} of {}",
                if tls { "TLS" } else { "plain" },
                round + 1,
                run.options.rounds
            ));
            for name in rounds::order(&[PGBOUNCER, BARE_RELAY, OURS], round) {
                idle_sessions(run, &setting, name, &stages).await?;
                if tls {
                    silent_connections(run, &setting, name).await?;
                }
            }
        }
    }
    responder.process.kill().await
}

/// Lets this process and its children have as many descriptors as the machine permits. Returns the number of sessions of
/// the last stage.
fn sessions_max(run: &mut Run) -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let possible = usize::try_from(hard.saturating_sub(OTHER_DESCRIPTORS) / 2)?.min(MANY);
    if possible < MANY {
        run.note(format!(
            "The last stage has {possible} sessions: a process may have {hard} descriptors here, and a session has two."
        ));
    }
    Ok(possible)
}

async fn start(run: &Run, setting: &Setting, name: &'static str) -> Result<Option<Middle>> {
    if !run.options.has_variant(name) {
        return Ok(None);
    }
    let middle = match name {
        PGBOUNCER => setting.pgbouncer(name, 1).await?,
        BARE_RELAY => Some(setting.bare_relay(name, &[]).await?),
        _ => Some(setting.proxy(name, None, &[]).await?),
    };
    // The first login loads and allocates what is there only once.
    if let Some(middle) = &middle {
        pg_load::log_in(&run.tools, middle, 1, 0.0).await?;
    }
    Ok(middle)
}

async fn idle_sessions(run: &mut Run, setting: &Setting, name: &'static str, stages: &[usize]) -> Result<()> {
    let Some(middle) = start(run, setting, name).await? else { return Ok(()) };
    let before = resident_kib(&middle)?;
    let mut clients = IdleClients::start(&run.tools, &middle, stages, false)?;
    for (number, sessions) in stages.iter().enumerate() {
        if number > 0 {
            clients.go_on().await?;
        }
        run.begin_slice()?;
        clients.opened().await?;
        sleep(SETTLING).await;
        let grown = resident_kib(&middle)? - before;
        run.end_slice()?;
        run.push(&idle(*sessions, setting.tls), MEMORY, name, grown / *sessions as f64);
    }
    clients.stop().await?;
    middle.stop().await
}

async fn silent_connections(run: &mut Run, setting: &Setting, name: &'static str) -> Result<()> {
    let Some(middle) = start(run, setting, name).await? else { return Ok(()) };
    let before = resident_kib(&middle)?;
    run.begin_slice()?;
    let mut clients = IdleClients::start(&run.tools, &middle, &[SILENT], true)?;
    clients.opened().await?;
    sleep(SETTLING).await;
    let grown = resident_kib(&middle)? - before;
    let beside = pg_load::log_in(&run.tools, &middle, 1, 0.0).await?;
    run.end_slice()?;

    run.push(&silent(), MEMORY, name, grown / SILENT as f64);
    run.push(&silent(), LOGIN, name, beside.p50_us / 1000.0);
    clients.stop().await?;
    middle.stop().await
}

fn resident_kib(middle: &Middle) -> Result<f64> {
    let memory = middle.processes.iter().map(|process| Ok(Memory::of(*process)?.resident_kib));
    memory.sum()
}
