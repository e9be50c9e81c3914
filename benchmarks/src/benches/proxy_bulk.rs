//! `proxy-bulk`: what a gigabyte costs that passes through the proxy, out of the database and into it.
//!
//! The rows out are made while they are sent, and the rows in are thrown away by a condition, so that no disk takes part.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::accounting::Usage;
use crate::bench::{Bench, Plot, Running};
use crate::goals::Goal;
use crate::peers::database::{DATABASE, Database};
use crate::peers::middle::{BARE_RELAY, DIRECT, Middle, OURS, PGBOUNCER, Setting};
use crate::quantity::Quantity;
use crate::rounds;
use crate::run::Run;

const THROUGHPUT: Quantity = Quantity::higher("throughput", "MB/s");
const CPU: Quantity = Quantity::lower("CPU of the middle a GB", "s");

/// Bytes of a row, its line end included.
const ROW_BYTES: usize = 1000;
/// Rows of one copy: 1 GiB, and a quarter of it in a quick run.
const ROWS: usize = (1 << 30) / ROW_BYTES;
const ROWS_QUICK: usize = ROWS / 4;
/// Variants that a goal compares.
const COMPARED: [&str; 2] = [BARE_RELAY, OURS];
/// Rounds of a quick run for what no goal is about.
const OTHER_ROUNDS: usize = 3;

/// The bench.
pub(crate) const BENCH: Bench = Bench {
    name: "proxy-bulk",
    about: "one long COPY through the proxy, out and in, beside PgBouncer, HAProxy, a bare relay and no middle",
    goals,
    plots: &[
        Plot {
            file: "cpu",
            title: "CPU of the middle, seconds a GB",
            quantity: CPU.name,
            situations: "",
            relative_to: None,
        },
        Plot {
            file: "throughput",
            title: "Throughput, MB/s",
            quantity: THROUGHPUT.name,
            situations: "",
            relative_to: None,
        },
    ],
    run,
};

/// Direction of a copy.
#[derive(Clone, Copy, Debug)]
enum Copy {
    Out,
    In,
}

fn situation(copy: Copy, tls: bool) -> String {
    let direction = match copy {
        Copy::Out => "COPY OUT",
        Copy::In => "COPY IN",
    };
    format!("{direction}, {}", if tls { "TLS" } else { "plain" })
}

fn goals() -> Vec<Goal> {
    let goal = |(copy, tls)| Goal {
        what: situation(copy, tls),
        quantity: CPU,
        ours: OURS,
        peer: Some(BARE_RELAY),
        bound: if tls { 1.03 } else { 1.0 },
        requires: None,
    };
    [(Copy::Out, false), (Copy::In, false), (Copy::Out, true), (Copy::In, true)].map(goal).into()
}

fn run(run: &mut Run) -> Running<'_> {
    Box::pin(measure(run))
}

async fn measure(run: &mut Run) -> Result<()> {
    run.progress("making PostgreSQL");
    let database = Database::start(run).await?;
    let superuser = database.postgres.connect(DATABASE).await?;
    superuser.batch_execute("CREATE TABLE sink (line text); GRANT ALL ON sink TO app").await?;
    let rows = run.options.pick(ROWS_QUICK, ROWS);
    let file = run.directory.join("rows");
    write_rows(&file, rows)?;

    for tls in [false, true] {
        let setting = Setting::new(run, &database, tls);
        let middles = start_middles(run, &setting).await?;
        for copy in [Copy::Out, Copy::In] {
            if run.options.has_situation(&situation(copy, tls)) {
                compare(run, copy, rows, &file, &middles).await?;
            }
        }
        for middle in middles {
            middle.stop().await?;
        }
    }
    database.process.kill().await
}

async fn start_middles(run: &Run, setting: &Setting) -> Result<Vec<Middle>> {
    let mut middles = vec![setting.direct()];
    middles.extend(setting.pgbouncer(PGBOUNCER, 1).await?);
    // It would not do TLS itself.
    if !setting.tls {
        middles.extend(setting.haproxy().await?);
    }
    middles.push(setting.bare_relay(BARE_RELAY, &[]).await?);
    middles.push(setting.proxy(OURS, None, &[]).await?);
    middles.retain(|middle| run.options.has_variant(middle.name));
    Ok(middles)
}

async fn compare(run: &mut Run, copy: Copy, rows: usize, file: &Path, middles: &[Middle]) -> Result<()> {
    let Some(tls) = middles.first().map(|middle| middle.tls) else { return Ok(()) };
    let what = situation(copy, tls);
    run.set_reference(&what, CPU, BARE_RELAY);
    for round in 0..run.options.rounds {
        run.progress(&format!("{what}: round {} of {}", round + 1, run.options.rounds));
        for middle in rounds::order(middles, round) {
            if round < OTHER_ROUNDS || COMPARED.contains(&middle.name) || !run.options.quick {
                slice(run, &what, copy, rows, file, &middle).await?;
            }
        }
    }
    Ok(())
}

async fn slice(
    run: &mut Run,
    what: &str,
    copy: Copy,
    rows: usize,
    file: &Path,
    middle: &Middle,
) -> Result<()> {
    run.begin_slice()?;
    let (before, began) = (Usage::of(&middle.processes)?, Instant::now());
    let mut psql = Command::new(run.tools.postgres("psql"));
    psql.args(["--no-psqlrc", "--quiet", &middle.uri(), "--command", &statement(copy, rows)]);
    match copy {
        Copy::Out => psql.stdin(Stdio::null()),
        Copy::In => psql.stdin(File::open(file)?),
    };
    let status = psql.stdout(Stdio::null()).kill_on_drop(true).status().await.context("cannot run psql")?;
    ensure!(status.success(), "psql failed: see above");
    let (seconds, used) = (began.elapsed().as_secs_f64(), Usage::of(&middle.processes)? - before);
    run.end_slice()?;

    let gigabytes = (rows * ROW_BYTES) as f64 / 1e9;
    run.push(what, THROUGHPUT, middle.name, gigabytes * 1e3 / seconds);
    if middle.name != DIRECT {
        run.push(what, CPU, middle.name, used.cpu_us / 1e6 / gigabytes);
    }
    Ok(())
}

fn statement(copy: Copy, rows: usize) -> String {
    match copy {
        Copy::Out => {
            let text = ROW_BYTES - 1;
            format!("COPY (SELECT repeat('x', {text}) FROM generate_series(1, {rows})) TO STDOUT")
        }
        Copy::In => "COPY sink FROM STDIN WHERE false".into(),
    }
}

fn write_rows(path: &PathBuf, rows: usize) -> Result<()> {
    let mut row = vec![b'x'; ROW_BYTES];
    row[ROW_BYTES - 1] = b'\n';
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    (0..rows).try_for_each(|_| file.write_all(&row))?;
    Ok(file.flush()?)
}
