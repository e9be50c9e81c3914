//! [`Pgbench`]: PostgreSQL's load generator. Runs it for some seconds and reads what it printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use test_runner::env::Tools;
use tokio::process::{Child, Command};
use tokio::time::sleep;

/// Threads of the load generator at most.
const THREADS_MAX: u32 = 2;
/// Time limit for all clients to connect, and the time between two looks.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// What the clients do.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// `pgbench -S`: a SELECT by primary key.
    SelectOnly,
    /// `pgbench -N`: an UPDATE, a SELECT and an INSERT in one transaction.
    SimpleUpdate,
    /// Statements of a file.
    File(PathBuf),
}

/// One run of the load generator.
#[derive(Clone, Debug)]
pub(crate) struct Pgbench<'a> {
    /// Location of the program.
    pub(crate) tools: &'a Tools,
    /// Connection string of the database.
    pub(crate) uri: &'a str,
    /// What the clients do.
    pub(crate) script: Script,
    /// Query protocol: `simple`, `extended` or `prepared`.
    pub(crate) protocol: &'a str,
    /// Number of clients.
    pub(crate) clients: u32,
    /// Length of the run in seconds.
    pub(crate) seconds: u32,
    /// Transactions that begin in a second, whether earlier ones have ended or not; `None`: each client begins the next
    /// one when the last one ends.
    pub(crate) rate: Option<u32>,
    /// Directory for a log of all latencies; `None`: no log.
    pub(crate) log_directory: Option<&'a Path>,
}

/// What a run printed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Finished transactions.
    pub(crate) transactions: f64,
    /// Transactions a second, without the time to connect.
    pub(crate) tps: f64,
    /// Mean latency in milliseconds.
    pub(crate) latency_ms: f64,
    /// All latencies in milliseconds, sorted, when a log was asked for. With a rate they count from the time at which a
    /// transaction should have begun.
    pub(crate) latencies_ms: Vec<f64>,
}

/// A load that runs.
#[derive(Debug)]
pub(crate) struct RunningLoad {
    process: Child,
    clients: u32,
    log_directory: Option<PathBuf>,
}

impl Pgbench<'_> {
    /// Runs the load to its end.
    pub(crate) async fn run(&self) -> Result<Load> {
        self.start()?.finish().await
    }

    /// Starts the load.
    pub(crate) fn start(&self) -> Result<RunningLoad> {
        let mut command = Command::new(self.tools.postgres("pgbench"));
        command.args(["--no-vacuum", "--protocol", self.protocol]);
        command.args(["--client", &self.clients.to_string(), "--time", &self.seconds.to_string()]);
        command.args(["--jobs", &self.clients.min(THREADS_MAX).to_string()]);
        match &self.script {
            Script::SelectOnly => command.arg("--select-only"),
            Script::SimpleUpdate => command.arg("--skip-some-updates"),
            Script::File(path) => command.arg("--file").arg(path),
        };
        if let Some(rate) = self.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        if let Some(directory) = self.log_directory {
            command.arg("--log").arg("--log-prefix").arg(directory.join("pgbench"));
        }

        // The password must not stand in the list of processes.
        let (shown, password) = without_password(self.uri);
        command.arg(shown).env("PGPASSWORD", password).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(RunningLoad {
            process: command.spawn().context("cannot run pgbench")?,
            clients: self.clients,
            log_directory: self.log_directory.map(Path::to_owned),
        })
    }
}

impl RunningLoad {
    /// Waits until all clients have opened their connections; each may still log in for some milliseconds.
    pub(crate) async fn connected(&mut self) -> Result<()> {
        let Some(pid) = self.process.id() else { return Ok(()) };
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        while sockets(pid) < self.clients as usize && self.process.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "pgbench did not connect within {CONNECT_TIMEOUT:?}");
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Waits for the end of the load.
    pub(crate) async fn finish(self) -> Result<Load> {
        let output = self.process.wait_with_output().await?;
        let (printed, said) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("pgbench failed: {}", said.trim());
        }
        let mut load = parse(&printed)?;
        if let Some(directory) = self.log_directory {
            load.latencies_ms = take_latencies(&directory)?;
        }
        Ok(load)
    }
}

/// Number of open sockets of a process.
fn sockets(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

fn without_password(uri: &str) -> (String, String) {
    let parts = || {
        let (scheme, rest) = uri.split_once("://")?;
        let (credentials, address) = rest.rsplit_once('@')?;
        let (user, password) = credentials.split_once(':')?;
        Some((format!("{scheme}://{user}@{address}"), password.to_owned()))
    };
    parts().unwrap_or_else(|| (uri.to_owned(), String::new()))
}

fn parse(printed: &str) -> Result<Load> {
    let number = |before: &str| {
        let after = printed.lines().find_map(|line| line.trim().strip_prefix(before))?;
        let digits: String = after.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        digits.parse::<f64>().ok()
    };
    let missing = || format!("pgbench printed something else: {printed}");
    Ok(Load {
        transactions: number("number of transactions actually processed:").with_context(missing)?,
        tps: number("tps =").with_context(missing)?,
        latency_ms: number("latency average =").with_context(missing)?,
        latencies_ms: Vec::new(),
    })
}

/// Reads the logs of all threads and removes them.
fn take_latencies(directory: &Path) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("pgbench.") {
            let text = fs::read_to_string(entry.path())?;
            all.extend(text.lines().filter_map(latency_ms));
            fs::remove_file(entry.path())?;
        }
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

/// The third field of a line of the log, which is in microseconds.
fn latency_ms(line: &str) -> Option<f64> {
    Some(line.split(' ').nth(2)?.parse::<f64>().ok()? / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_pgbench_is_read() {
        let printed = "number of transactions actually processed: 1234\nlatency average = 1.250 ms\n\
                       initial connection time = 9.1 ms\ntps = 800.125 (without initial connection time)\n";
        let load = parse(printed).unwrap();
        assert_eq!((load.transactions, load.tps, load.latency_ms), (1234.0, 800.125, 1.25));
        assert!(parse("nothing").is_err());
    }

    #[test]
    fn password_leaves_the_uri() {
        let (shown, password) = without_password("postgresql://a:secret@h:1/db?sslmode=require");
        assert_eq!((shown.as_str(), password.as_str()), ("postgresql://a@h:1/db?sslmode=require", "secret"));
    }

    #[test]
    fn latency_is_the_third_field() {
        assert_eq!(latency_ms("0 199 2241 0 1175850568 995598"), Some(2.241));
    }
}
