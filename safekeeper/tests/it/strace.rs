//! Failing system calls of a running safekeeper, injected with strace(1), which needs permission to trace.
//!
//! Whatever fails, the safekeeper acknowledges only WAL that can be read back, and recovers by itself.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use consensus::{AcceptorMessage, Dialect, ProtocolVersion, codec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres_backend::client::{ClientCopyMessage, ClientError};
use pq_proto::SqlState;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use wal_types::Lsn;

use crate::process::{Program, reads_back};
use crate::support::{Proposer, SEGMENT_BYTES, START, Wal, eventually, timeline, within};

const OWN: ProtocolVersion = ProtocolVersion::Holdfast2;
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// More than two segments, so that files are created and renamed as well: one of them may be there already.
const PUSH_BYTES: usize = 2 * SEGMENT_BYTES as usize + 10_000;
const PIECE_BYTES: usize = 9_001;

/// Faults in a running program, until [`Faults::remove`].
struct Faults {
    strace: Child,
    trace: std::path::PathBuf,
}

impl Faults {
    /// Each fault is `call:error=NAME:when=N`, as strace's `--inject` takes it; the calls of each thread are counted. `None`,
    /// and a line of output, where tracing is not allowed.
    #[expect(clippy::print_stdout, reason = "a test that did nothing says so")]
    async fn inject(directory: &Path, faults: &[String]) -> Option<Self> {
        let address: Value = serde_json::from_slice(&fs::read(directory.join("address")).unwrap()).unwrap();
        let trace = directory.join("trace");
        let mut command = Command::new("strace");
        command.args(["-f", "-p", &address["pid"].to_string(), "-o"]).arg(&trace);
        for fault in faults {
            command.arg(format!("--inject={fault}"));
        }
        command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut strace = match command.spawn() {
            Ok(strace) => strace,
            Err(error) => {
                println!("skipped: strace cannot be run: {error}");
                return None;
            }
        };
        let mut said = BufReader::new(strace.stderr.take().unwrap()).lines();
        let mut first = within("strace to attach", said.next_line()).await.unwrap().unwrap_or_default();
        if first.contains("Operation not permitted") {
            println!("skipped: this account may not trace: {first}");
            return None;
        }
        while !first.contains("attached") {
            let next = within("strace to attach", said.next_line()).await.unwrap();
            first = next.unwrap_or_else(|| panic!("strace ended: {first}"));
        }
        // Further output of strace must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        Some(Self { strace, trace })
    }

    /// Ends the faults. Returns how many calls failed.
    async fn remove(mut self) -> usize {
        let pid = Pid::from_raw(self.strace.id().unwrap().try_into().unwrap());
        kill(pid, Signal::SIGINT).unwrap();
        within("the end of strace", self.strace.wait()).await.unwrap();
        String::from_utf8_lossy(&fs::read(&self.trace).unwrap()).matches("(INJECTED)").count()
    }
}

/// A safekeeper with a proposer, and what the proposer knows.
struct Story {
    directory: TempDir,
    program: Program,
    proposer: Proposer,
    wal: Wal,
    history: Vec<(u64, Lsn)>,
    acknowledged: Lsn,
}

impl Story {
    async fn begin() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = Program::start(directory.path()).await;
        program.at.create(timeline(1), Dialect::Holdfast).await;
        let (history, mut wal) = (vec![(1, START)], Wal::new());
        let mut proposer = Proposer::elected(program.at, timeline(1), OWN, &history).await;
        proposer.push(1, START, &wal.grow(10_000), START).await;
        let acknowledged = wal.end();
        Self { directory, program, proposer, wal, history, acknowledged }
    }

    fn term(&self) -> u64 {
        self.history.last().unwrap().0
    }

    async fn inject(&self, faults: &[String]) -> Option<Faults> {
        Faults::inject(self.directory.path(), faults).await
    }

    /// Sends more WAL, and records the acknowledged position until it is the end, or the connection ends.
    async fn push_while_it_lasts(&mut self) {
        let (mut at, bytes) = (self.wal.end(), self.wal.grow(PUSH_BYTES));
        for piece in bytes.chunks(PIECE_BYTES) {
            let message = self.proposer.append(self.term(), at, piece, self.acknowledged);
            let mut payload = bytes::BytesMut::new();
            codec::encode_proposer(OWN, &message, &mut payload).unwrap();
            if within("room for a message", self.proposer.copy.writer.send(&payload)).await.is_err() {
                break;
            }
            at = at.advance(piece.len() as u64);
        }
        while self.acknowledged < self.wal.end() {
            let next = within("an answer", self.proposer.copy.reader.next(MESSAGE_BYTES_MAX)).await;
            let Ok(ClientCopyMessage::Data(payload)) = next else { return };
            if let AcceptorMessage::Append(append) = codec::decode_acceptor(OWN, payload).unwrap() {
                self.acknowledged = self.acknowledged.max(append.flush_lsn);
            }
        }
    }

    async fn becomes(&self, wanted: &[&str]) -> Value {
        eventually(&format!("{wanted:?}"), async || {
            let status = self.program.at.status(timeline(1)).await;
            wanted.contains(&status["health"].as_str().unwrap()).then_some(status)
        })
        .await
    }

    async fn metric(&self, name: &str) -> String {
        let text = reqwest::get(self.program.at.url("/metrics")).await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(' ').next().unwrap_or_default().to_owned()
    }

    /// The next term finds all acknowledged WAL, and writes what is missing.
    async fn goes_on(&mut self) {
        self.becomes(&["healthy"]).await;
        let term = self.term() + 1;
        self.proposer = Proposer::greeted(self.program.at, timeline(1), OWN).await;
        let vote = self.proposer.vote(term).await;
        assert!(vote.vote_given, "{vote:?}");
        assert!(
            vote.flush_lsn >= self.acknowledged,
            "{} was acknowledged, and {} is left",
            self.acknowledged,
            vote.flush_lsn
        );
        let start = vote.flush_lsn;
        self.history.push((term, start));
        self.proposer.send_elected(start, &self.history, &[]).await;
        self.wal.grow(5_000);
        let from = usize::try_from(start.bytes_since(START)).unwrap();
        let missing = self.wal.bytes[from..].to_vec();
        self.proposer.push(term, start, &missing, self.acknowledged).await;
        self.acknowledged = self.wal.end();
    }

    /// After a kill and a start all WAL is there.
    async fn end(self) {
        self.program.end(Signal::SIGKILL).await;
        let program = Program::start(self.directory.path()).await;
        reads_back(&program, &self.wal).await;
    }
}

/// One call fails: in the first push the first call, in the next push the second, and so on.
async fn one_call_fails(call: &str, error: &str, count: usize) {
    let mut story = Story::begin().await;
    let mut failed = 0;
    for when in 1..=count {
        let fault = format!("{call}:error={error}:when={when}");
        let Some(faults) = story.inject(&[fault]).await else { return };
        story.push_while_it_lasts().await;
        let injected = faults.remove().await;
        if (when, error) == (1, "EIO") {
            // The failed call came before the last reply, so that reply was not sent.
            assert!(
                injected > 0 && story.acknowledged < story.wal.end(),
                "{call} failed, and all was acknowledged"
            );
        }
        failed += injected;
        story.goes_on().await;
    }
    assert!(failed > 0, "{call} was never called");
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_sync_acknowledges_nothing() {
    one_call_fails("fdatasync", "EIO", 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_write_acknowledges_nothing() {
    one_call_fails("pwrite64", "EIO", 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn write_without_room_acknowledges_nothing() {
    one_call_fails("pwrite64", "ENOSPC", 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_directory_sync_acknowledges_nothing() {
    one_call_fails("fsync", "EIO", 3).await;
}

/// While the disk keeps failing the health says so; when it works again the log is used again.
#[tokio::test(flavor = "multi_thread")]
async fn health_shows_failing_disk_until_it_works() {
    for (fault, health) in [
        ("fdatasync:error=EIO", &["failed"][..]),
        ("pwrite64:error=EIO", &["failed"]),
        ("pwrite64:error=ENOSPC", &["full", "failed"]),
    ] {
        let mut story = Story::begin().await;
        let before = story.acknowledged;
        let Some(faults) = story.inject(&[fault.to_owned()]).await else { return };
        let mut pushing = Box::pin(story.push_while_it_lasts());
        // A safekeeper with a full disk replies and acknowledges nothing new, so the proposer does not wait for all of it.
        tokio::select! {
            () = &mut pushing => {}
            () = tokio::time::sleep(std::time::Duration::from_secs(2)) => {}
        }
        drop(pushing);
        assert_eq!(story.acknowledged, before, "{fault}");
        let status = story.becomes(health).await;
        assert_eq!(status["flush_lsn"], before.to_string(), "{fault}: {status}");
        assert_eq!(story.metric("holdfast_safekeeper_timeline_healthy{").await, "0", "{fault}");
        assert!(faults.remove().await > 0, "{fault}");
        story.goes_on().await;
        assert_eq!(story.metric("holdfast_safekeeper_timeline_healthy{").await, "1", "{fault}");
        story.end().await;
    }
}

/// The reader is told that the read failed, and writing continues.
#[tokio::test(flavor = "multi_thread")]
async fn failed_read_closes_only_the_reader() {
    let mut story = Story::begin().await;
    story.push_while_it_lasts().await;
    story.goes_on().await;
    let Some(faults) = story.inject(&["pread64:error=EIO".to_owned()]).await else { return };
    let request = format!("{START} (term='{}')", story.term());
    let mut reader = story.program.at.read(timeline(1), &request).await;
    let told = loop {
        match reader.next().await {
            Err(ClientError::Server(error)) => break error,
            Ok(Some(pq_proto::replication::FromPrimary::Keepalive(_))) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told.sqlstate, SqlState::IO_ERROR, "{told:?}");
    assert!(faults.remove().await > 0);
    story.push_while_it_lasts().await;
    assert_eq!(story.acknowledged, story.wal.end(), "writing never stopped");
    story.end().await;
}

/// WAL that cannot be read now is not lost yet.
#[tokio::test(flavor = "multi_thread")]
async fn unreadable_recovery_is_tried_again() {
    let mut story = Story::begin().await;
    let faults = ["fdatasync:error=EIO:when=1", "pread64:error=EIO"].map(str::to_owned);
    let Some(faults) = story.inject(&faults).await else { return };
    story.push_while_it_lasts().await;
    story.becomes(&["failed"]).await;
    let read_in_vain = async || {
        let trace = fs::read_to_string(&faults.trace).ok()?;
        let failed = trace.lines().filter(|line| line.contains("pread64") && line.contains("INJECTED"));
        (failed.count() >= 3).then_some(())
    };
    eventually("three recoveries in vain", read_in_vain).await;
    assert_eq!(story.becomes(&["failed"]).await["flush_lsn"], story.acknowledged.to_string());
    faults.remove().await;
    story.goes_on().await;
    story.end().await;
}
