//! The program behind `./dev soak`: opens very many connections through a proxy and copies many bytes. Afterwards the
//! proxy must hold no more descriptors, tasks and memory than before.
//!
//! ```text
//!   cycles    connections of clients that leave in different ways
//!   held      descriptors, tasks and memory of the proxy, and their limits
//! ```

mod cycles;
mod held;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use test_runner::bulk;
use test_runner::env::{Tools, state};
use test_runner::proxied_postgres::{ProxiedOptions, ProxiedPostgres, make_database};

use self::held::HeldResources;

/// Parts of a run; memory is read after each.
const PARTS: u64 = 10;
/// Connections before the first reading, which allocate what is allocated only once.
const WARM_UP_CYCLES: u64 = 100;

/// Opens many connections, copies many bytes, and checks that the proxy leaks nothing.
#[derive(Debug, Parser)]
#[command(name = "dev", bin_name = "./dev soak")]
struct Arguments {
    /// Number of connections.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(PARTS..))]
    cycles: u64,
    /// MiB to copy into a table, and out of it again.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    copy: u64,
    /// Directory of the run, below .holdfast.
    #[arg(long, hide = true, default_value = "soak")]
    name: String,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("soak: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let state = state()?;
    let directory = state.join(&arguments.name);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let postgres = make_database(&Tools::find(&state)?, &directory).await?;
    let proxied = ProxiedPostgres::start(postgres, ProxiedOptions::default()).await?;
    if arguments.copy > 0 {
        copy(&proxied, arguments.copy).await?;
    }
    cycle(&proxied, arguments.cycles).await?;
    proxied.stop().await?;
    fs::remove_dir_all(&directory)?;
    Ok(())
}

async fn copy(proxied: &ProxiedPostgres, mebibytes: u64) -> Result<()> {
    let transfer = bulk::copy_both_ways(proxied, mebibytes << 20).await?;
    let rate = |seconds: f64| (transfer.bytes >> 20) as f64 / seconds;
    say(&format!(
        "copied {mebibytes} MiB into a table at {:.0} MiB/s and out of it at {:.0} MiB/s, with equal checksums",
        rate(transfer.into_table.as_secs_f64()),
        rate(transfer.out_of_table.as_secs_f64())
    ));
    Ok(())
}

async fn cycle(proxied: &ProxiedPostgres, cycles: u64) -> Result<()> {
    cycles::run(proxied, 0..WARM_UP_CYCLES).await?;
    let before = HeldResources::settled(proxied, None).await?;
    let begin = Instant::now();
    let mut after_parts = Vec::new();
    for part in 0..PARTS {
        cycles::run(proxied, cycles * part / PARTS..cycles * (part + 1) / PARTS).await?;
        let held = HeldResources::settled(proxied, Some(&before)).await?;
        say(&format!(
            "{} of {cycles} connections after {} s: the proxy holds {held}",
            cycles * (part + 1) / PARTS,
            begin.elapsed().as_secs()
        ));
        after_parts.push(held);
    }

    let (first, last) = (&after_parts[0], &after_parts[after_parts.len() - 1]);
    ensure!(
        last.has_hardly_grown_since(first),
        "memory grew: {first} after the first tenth, {last} at the end"
    );

    say(&format!(
        "{cycles} connections in {} s; before: {before}; after the first tenth: {first}; at the end: {last}",
        begin.elapsed().as_secs()
    ));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "output for a person")]
fn say(text: &str) {
    println!("{text}");
}
