//! `proxy-login`: what a login costs: TLS 1.3 and SCRAM-SHA-256, then the goodbye.
//!
//! Through the bare relay the client logs in to PostgreSQL itself; the relay does TLS and copies. The proxy does TLS,
//! checks the client's proof, looks the endpoint up, connects and proves itself to PostgreSQL. The load generator knows
//! the keys of the password beforehand. CPU time is that of the middle; that of PostgreSQL, whose largest part is the
//! start of a process, stands beside it.

use std::fs;

use anyhow::Result;

use crate::accounting::Usage;
use crate::bench::{Bench, Plot, Running};
use crate::goals::Goal;
use crate::peers::database::Database;
use crate::peers::middle::{BARE_RELAY, DIRECT, Middle, OURS, PGBOUNCER, Setting};
use crate::peers::pg_load;
use crate::quantity::Quantity;
use crate::rounds;
use crate::run::Run;

const CPU: Quantity = Quantity::lower("CPU of the middle a login", "µs");
const DATABASE_CPU: Quantity = Quantity::lower("CPU of PostgreSQL a login", "µs");
const RATE: Quantity = Quantity::higher("logins a second", "1/s");
const TIME: Quantity = Quantity::lower("time of a login, median", "ms");

/// The proxy without caches: each login asks a control plane over HTTP twice.
const OURS_COLD: &str = "ours-cold";
/// The relay without the TLS 1.3 tickets that rustls sends by default.
const BARE_RELAY_NO_TICKETS: &str = "bare-relay-no-tickets";
/// Clients that log in at the same time.
const CLIENTS: usize = 8;
/// The only situation.
const WHAT: &str = "TLS 1.3 and SCRAM, 8 clients";
/// Switches the proxy's caches off.
const NO_CACHES: [&str; 6] = [
    "--wake-compute-cache",
    "size=0,ttl=1s",
    "--role-secret-cache",
    "size=0,ttl=1s",
    "--access-rules-cache",
    "size=0,ttl=1s",
];

/// The bench.
pub(crate) const BENCH: Bench = Bench {
    name: "proxy-login",
    about: "logins through the proxy with warm and with no caches, beside a bare relay and PgBouncer",
    goals,
    plots: &[Plot {
        file: "cpu",
        title: "CPU of the middle a login, µs",
        quantity: CPU.name,
        situations: "",
        relative_to: None,
    }],
    run,
};

fn goals() -> Vec<Goal> {
    vec![Goal {
        what: WHAT.into(),
        quantity: CPU,
        ours: OURS,
        peer: Some(BARE_RELAY),
        bound: 1.0,
        requires: None,
    }]
}

fn run(run: &mut Run) -> Running<'_> {
    Box::pin(measure(run))
}

async fn measure(run: &mut Run) -> Result<()> {
    run.progress("making PostgreSQL");
    let database = Database::start(run).await?;
    let setting = Setting::new(run, &database, true);
    let control_plane = pg_load::start_control_plane(&setting).await?;
    let middles = start_middles(run, &setting, control_plane.port).await?;

    run.set_reference(WHAT, CPU, BARE_RELAY);
    for round in 0..run.options.rounds {
        run.progress(&format!("{WHAT}: round {} of {}", round + 1, run.options.rounds));
        for middle in rounds::order(&middles, round) {
            slice(run, &database, &middle).await?;
        }
    }
    for middle in middles {
        middle.stop().await?;
    }
    control_plane.process.kill().await?;
    database.process.kill().await
}

async fn start_middles(run: &Run, setting: &Setting, control_plane: u16) -> Result<Vec<Middle>> {
    let file = run.directory.join("control-plane.toml");
    fs::write(&file, format!("url = \"http://127.0.0.1:{control_plane}\"\ndialect = \"v1\"\n"))?;
    let http = format!("http:{}", file.display());

    let mut middles = vec![setting.direct()];
    middles.extend(setting.pgbouncer(PGBOUNCER, 1).await?);
    middles.push(setting.bare_relay(BARE_RELAY, &[]).await?);
    middles.push(setting.bare_relay(BARE_RELAY_NO_TICKETS, &["--tls-tickets", "0"]).await?);
    middles.push(setting.proxy(OURS, None, &[]).await?);
    middles.push(setting.proxy(OURS_COLD, Some(http), &NO_CACHES).await?);
    middles.retain(|middle| run.options.has_variant(middle.name));
    Ok(middles)
}

async fn slice(run: &mut Run, database: &Database, middle: &Middle) -> Result<()> {
    run.begin_slice()?;
    let postgres = [database.process];
    let (before, postgres_before) = (Usage::of(&middle.processes)?, Usage::of(&postgres)?);
    let seconds = run.options.pick(1.5, 4.0);
    let load = pg_load::log_in(&run.tools, middle, CLIENTS, seconds).await?;
    let (used, postgres_used) =
        (Usage::of(&middle.processes)? - before, Usage::of(&postgres)? - postgres_before);
    run.end_slice()?;

    if middle.name != DIRECT {
        run.push(WHAT, CPU, middle.name, used.cpu_us / load.logins);
    }
    run.push(WHAT, DATABASE_CPU, middle.name, postgres_used.cpu_us / load.logins);
    run.push(WHAT, RATE, middle.name, load.logins / load.seconds);
    run.push(WHAT, TIME, middle.name, load.p50_us / 1000.0);
    Ok(())
}
