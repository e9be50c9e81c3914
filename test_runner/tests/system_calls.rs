//! System calls of a commit, counted with strace(1), which needs permission to trace.
//!
//! A commit of one client needs a fixed number of calls: those of its IO, and one wait for each message. Calls that hand
//! work between threads would add to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_runner::clients;
use test_runner::cluster::PartName;
use test_runner::cluster_under_test::ClusterUnderTest;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Commits that are counted: enough that the calls of ticks and of the beginning do not matter.
const COMMITS: u64 = 1500;
/// Time limit for strace to attach or to end.
const STRACE_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls of a safekeeper for a commit: epoll_wait, recvfrom, two pwrite64, fdatasync, sendto; and a share of the rest.
const SAFEKEEPER_CALLS_MAX: f64 = 7.0;
/// Calls of a safekeeper for a message without WAL, by which it learns of a commit after a pause: epoll_wait, recvfrom,
/// sendto.
const TELL_CALLS: f64 = 3.0;
/// Calls of a walproposer for a commit: recvfrom from the primary and three safekeepers, a write to each, and epoll_wait
/// up to four times; and a share of the rest.
const WALPROPOSER_CALLS_MAX: f64 = 13.0;
/// Rounds of which the one with the fewest calls counts for a walproposer. A pause between two commits adds appends that
/// tell the first one; nothing takes calls away.
const ROUNDS_MAX: usize = 5;
/// Threads that wake up by themselves make so many calls a second.
const TIMER_CALLS_PER_SECOND: f64 = 50.0;

/// A running strace that counts the calls of all threads of a process.
struct Tracer {
    strace: Child,
    began: Instant,
}

/// The calls of a process, by name, and the time in which they were made.
struct Counted {
    calls: BTreeMap<String, u64>,
    seconds: f64,
}

impl Tracer {
    /// Attaches to a process. `None`, and a line of output, where tracing is not allowed.
    #[expect(clippy::print_stdout, reason = "a test that did nothing says so")]
    async fn attach(pid: i32, table: &Path) -> Result<Option<Self>> {
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-p", &pid.to_string(), "-o"]).arg(table);
        let mut strace = match command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn()
        {
            Ok(strace) => strace,
            Err(error) => {
                println!("skipped: strace cannot be run: {error}");
                return Ok(None);
            }
        };
        let mut said = BufReader::new(strace.stderr.take().context("stderr is not a pipe")?).lines();
        loop {
            let line = timeout(STRACE_TIMEOUT, said.next_line()).await??.context("strace ended")?;
            if line.contains("Operation not permitted") {
                println!("skipped: this account may not trace: {line}");
                return Ok(None);
            }
            if line.contains("attached") {
                break;
            }
        }
        // Further output of strace must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        Ok(Some(Self { strace, began: Instant::now() }))
    }

    /// Detaches, and reads the table of calls.
    async fn detach(mut self, table: &Path) -> Result<Counted> {
        let seconds = self.began.elapsed().as_secs_f64();
        let pid = self.strace.id().context("strace ended early")?;
        kill(Pid::from_raw(pid.try_into()?), Signal::SIGINT)?;
        timeout(STRACE_TIMEOUT, self.strace.wait()).await??;

        // Columns: % time, seconds, usecs/call, calls, errors (may be blank), syscall.
        let text = std::fs::read_to_string(table)?;
        let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let calls = rows.filter_map(|row| Some((row.last()?.to_string(), row.get(3)?.parse().ok()?)));
        Ok(Counted { calls: calls.filter(|(name, _)| name != "total").collect(), seconds })
    }
}

impl Counted {
    fn of(&self, name: &str) -> u64 {
        self.calls.get(name).copied().unwrap_or_default()
    }

    fn total(&self) -> u64 {
        self.calls.values().sum()
    }
}

/// One client that inserts one row a transaction.
async fn insert_rows(test: &ClusterUnderTest, script: &Path) -> Result<()> {
    let pgbench = test.cluster.tools.postgres("pgbench");
    let (script, commits) = (script.display().to_string(), COMMITS.to_string());
    let uri = test.cluster.application_uri();
    let arguments = ["--no-vacuum", "-c", "1", "-t", &commits, "-M", "prepared", "-f", &script, &uri];
    clients::run(&pgbench, &arguments, &[]).await.map(drop)
}

/// Creates the table, and returns the paths of the script and of a tracer's table.
async fn prepare(test: &ClusterUnderTest) -> Result<(PathBuf, PathBuf)> {
    let client = clients::connect(&test.cluster.application_uri()).await?;
    client.batch_execute("CREATE TABLE t (x int)").await?;
    let directory = &test.cluster.directory;
    let (script, table) = (directory.join("insert.sql"), directory.join("calls"));
    std::fs::write(&script, "INSERT INTO t VALUES (1);\n")?;
    Ok((script, table))
}

#[tokio::test]
async fn safekeeper_makes_seven_system_calls_a_commit() -> Result<()> {
    let mut test = ClusterUnderTest::start("calls-safekeeper").await?;
    let (script, table) = prepare(&test).await?;
    // Of two safekeepers both are needed for each commit. The traced one is slow, and of three it would get several at once.
    test.cluster.stop_part(PartName::Safekeeper(3), &|_| {}).await?;

    let process = test.cluster.part(PartName::Safekeeper(1))?.process.context("not running")?;
    let Some(tracer) = Tracer::attach(process.pid, &table).await? else {
        test.passed();
        return Ok(());
    };
    insert_rows(&test, &script).await?;
    let counted = tracer.detach(&table).await?;

    // On a busy machine a safekeeper may get a commit in several batches, or be told of it separately.
    let batches = counted.of("fdatasync") as f64;
    let tells = counted.of("recvfrom").saturating_sub(counted.of("fdatasync")) as f64;
    let allowed =
        SAFEKEEPER_CALLS_MAX * batches + TELL_CALLS * tells + TIMER_CALLS_PER_SECOND * counted.seconds;
    let (total, calls) = (counted.total(), &counted.calls);
    ensure!(batches >= 0.8 * COMMITS as f64, "commits shared batches, which counts too little: {calls:?}");
    ensure!(total as f64 <= allowed, "{total} calls for {batches} batches and {tells} tells: {calls:?}");
    test.passed();
    Ok(())
}

#[tokio::test]
async fn walproposer_makes_13_system_calls_a_commit() -> Result<()> {
    let test = ClusterUnderTest::start("calls-walproposer").await?;
    let (script, table) = prepare(&test).await?;
    let process = test.cluster.part(PartName::Walproposer)?.process.context("not running")?;

    let mut fewest = f64::INFINITY;
    let mut rounds = Vec::new();
    while fewest > WALPROPOSER_CALLS_MAX {
        ensure!(rounds.len() < ROUNDS_MAX, "{fewest} calls a commit at the fewest: {rounds:?}");
        let Some(tracer) = Tracer::attach(process.pid, &table).await? else { break };
        insert_rows(&test, &script).await?;
        let counted = tracer.detach(&table).await?;
        fewest = fewest.min(counted.total() as f64 / COMMITS as f64);
        rounds.push(counted.calls);
    }
    test.passed();
    Ok(())
}
