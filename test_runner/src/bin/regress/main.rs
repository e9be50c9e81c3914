//! The program behind `./dev regress`: runs PostgreSQL's own tests directly and through the proxy. Both runs must
//! differ in the same way from PostgreSQL's expected output: a difference in one run only is the fault of the proxy.

mod differences;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use test_runner::env::{Tools, state};
use test_runner::proxied_postgres::{ProxiedOptions, ProxiedPostgres, make_database};
use tokio::process::Command;

/// Concurrent tests: as many as PostgreSQL's own `make installcheck-parallel`.
const CONCURRENT_TESTS: &str = "20";

/// Runs PostgreSQL's regression tests directly and through the proxy, and compares.
#[derive(Debug, Parser)]
#[command(name = "dev", bin_name = "./dev regress")]
struct Arguments {
    /// PostgreSQL's source, of the same major version as the programs.
    #[arg(long, value_name = "DIRECTORY")]
    source: PathBuf,
    /// Directory of PostgreSQL's programs; by default the one of `./dev setup`.
    #[arg(long, value_name = "DIRECTORY")]
    postgres_bin: Option<PathBuf>,
    /// pg_regress.
    #[arg(long, value_name = "PATH")]
    pg_regress: PathBuf,
    /// Directory of regress.so, refint.so and autoinc.so.
    #[arg(long, value_name = "DIRECTORY")]
    libraries: PathBuf,
    /// Which tests, as a schedule of pg_regress; all of parallel_schedule when it is not given.
    #[arg(long, value_name = "PATH")]
    schedule: Option<PathBuf>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("regress: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<bool> {
    let state = state()?;
    let (mut tools, directory) = (Tools::find(&state)?, state.join("regress"));
    if let Some(bin) = &arguments.postgres_bin {
        tools.postgres_bin.clone_from(bin);
    }

    let mut found = Vec::new();
    for way in ["directly", "through-the-proxy"] {
        let directory = directory.join(way);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let begin = Instant::now();
        let summary = one_way(&tools, &directory, way, arguments).await?;
        say(&format!("{way}: {summary} ({} s)", begin.elapsed().as_secs()));
        found.push(differences::read(&directory.join("output/regression.diffs"))?);
    }

    let only = differences::compare(&found[0], &found[1]);
    if only.is_empty() {
        say(&format!("the same {} differences in both runs", found[0].len()));
    } else {
        say(&format!(
            "different results in the two runs: {} (files: {})",
            only.join(", "),
            directory.display()
        ));
    }
    Ok(only.is_empty())
}

async fn one_way(tools: &Tools, directory: &Path, way: &str, arguments: &Arguments) -> Result<String> {
    let postgres = make_database(tools, directory).await?;
    let proxied = ProxiedPostgres::start(postgres, ProxiedOptions::default()).await?;
    let output = directory.join("output");
    fs::create_dir(&output)?;
    tools.give_to_postgres(&output)?;
    let mut environment = proxied.environment("postgres");
    if way == "directly" {
        environment.extend([("PGHOST", "127.0.0.1".into()), ("PGPORT", proxied.postgres.port.to_string())]);
        environment.push(("PGSSLMODE", "disable".into()));
    }
    // The certificate is readable only for the account of the harness.
    tools.give_to_postgres(&proxied.certificates.authority)?;
    let summary = pg_regress(tools, &output, arguments, &environment).await;
    proxied.stop().await?;
    summary
}

/// Runs pg_regress as PostgreSQL's account, because the server writes into its directories, and returns its
/// summary. Failed tests are not an error.
async fn pg_regress(
    tools: &Tools,
    output: &Path,
    arguments: &Arguments,
    environment: &[(&'static str, String)],
) -> Result<String> {
    let input = arguments.source.join("src/test/regress");
    let schedule = arguments.schedule.clone().unwrap_or_else(|| input.join("parallel_schedule"));
    let mut command = Command::new(&arguments.pg_regress);
    command.arg("--inputdir").arg(&input).arg("--outputdir").arg(output);
    command.arg("--bindir").arg(&tools.postgres_bin).arg("--dlpath").arg(&arguments.libraries);
    command.arg("--schedule").arg(schedule).args(["--max-concurrent-tests", CONCURRENT_TESTS]);
    command.envs(environment.iter().map(|(name, value)| (*name, value))).current_dir(output);
    command.stdin(Stdio::null()).kill_on_drop(true);
    if let Some(account) = &tools.account {
        account.run_as(command.as_std_mut());
    }

    let log = fs::File::create(output.with_extension("log"))?;
    command.stdout(log.try_clone()?).stderr(log);
    let status = command.status().await.context("cannot run pg_regress")?;
    let text = fs::read_to_string(output.with_extension("log"))?;
    let is_summary = |line: &&str| line.contains(" tests passed") || line.contains(" tests failed");
    match text.lines().find(is_summary) {
        Some(summary) => Ok(summary.trim().to_owned()),
        None => bail!("pg_regress ended with {status}: {}", text.trim().lines().last().unwrap_or_default()),
    }
}

#[expect(clippy::print_stdout, reason = "output for a person")]
fn say(text: &str) {
    println!("{text}");
}
