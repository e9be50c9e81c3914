//! The program as a process: signals, kill -9, directories that it must not touch, timelines that it cannot open.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};

use consensus::{Dialect, ProtocolVersion};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres_backend::client::ClientError;
use pq_proto::SqlState;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{Address, Proposer, START, Wal, eventually, timeline, within};

/// A running program. Killed when it is dropped.
pub(crate) struct Program {
    pub(crate) at: Address,
    child: Child,
}

pub(crate) fn command(directory: &Path, id: &str, log_level: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safekeeper"));
    command.args(["--id", id, "--log-level", log_level]).arg("--data-dir").arg(directory.join("data"));
    // The disk belongs to the machine that runs the tests, or is as full as the test wants it.
    command.args(["--disk-high", "100", "--disk-stop", "0"]);
    command.arg("--address-file").arg(directory.join("address")).kill_on_drop(true);
    command
}

impl Program {
    pub(crate) async fn start(directory: &Path) -> Self {
        Self::start_as(directory, command(directory, "1", "warn")).await
    }

    /// Starts the program by another command.
    pub(crate) async fn start_as(directory: &Path, mut command: Command) -> Self {
        let file = directory.join("address");
        let _ = fs::remove_file(&file);
        let mut child = command.spawn().unwrap();
        let address: Value = eventually("the address file", async || {
            assert!(child.try_wait().unwrap().is_none(), "the program ended");
            serde_json::from_slice(&fs::read(&file).ok()?).ok()
        })
        .await;
        assert_eq!((address["id"].as_u64(), address["pid"].as_u64()), (Some(1), child.id().map(Into::into)));
        let port = |name: &str| address[name].as_str().unwrap().parse().unwrap();
        Self { at: Address { pg: port("pg"), http: port("http") }, child }
    }

    pub(crate) async fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.ended().await
    }

    /// Number of the process. The program must not have ended.
    pub(crate) fn pid(&self) -> String {
        self.child.id().unwrap().to_string()
    }

    /// The program must not have ended.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        within("the end of the program", self.child.wait()).await.unwrap()
    }

    /// Waits until the program accepts no more connections, or has ended.
    pub(crate) async fn draining(&self) {
        let refused = async || std::net::TcpStream::connect(self.at.pg).is_err().then_some(());
        eventually("the port to close", refused).await;
    }
}

async fn refused(directory: &Path, id: &str) -> Output {
    let child = command(directory, id, "warn").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = within("a refusal", child.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!directory.join("address").exists());
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_wal_survives_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    let mut wal = Wal::new();
    let mut program = Program::start(directory.path()).await;
    program.at.create(id, version.dialect()).await;
    let mut history = Vec::new();
    for term in 1..=4 {
        history.push((term, wal.end()));
        let mut proposer = Proposer::elected(program.at, id, version, &history).await;
        let (begin, bytes) = (wal.end(), wal.grow(90_000));
        proposer.push(term, begin, &bytes, wal.end()).await;
        // More WAL is on its way. It may be kept or lost, but only in whole records.
        let mut more = wal.fork(b"unacknowledged");
        let more = more.grow(60_000);
        proposer.send(&proposer.append(term, wal.end(), &more[..50_000], wal.end())).await;
        program.end(Signal::SIGKILL).await;
        program = Program::start(directory.path()).await;

        let mut next = Proposer::greeted(program.at, id, version).await;
        let vote = next.vote(term).await;
        assert!(vote.flush_lsn >= wal.end(), "{} < {}", vote.flush_lsn, wal.end());
        assert_eq!(vote.history.last().unwrap().term.0, term);
        if vote.flush_lsn > wal.end() {
            // The next term would have to follow the other history: the records are whole.
            return reads_back(&program, &wal).await;
        }
    }
    reads_back(&program, &wal).await;
}

pub(crate) async fn reads_back(program: &Program, wal: &Wal) {
    let term = program.at.status(timeline(1)).await["term"].as_u64().unwrap();
    let mut reader = program.at.read(timeline(1), &format!("{START} (term='{term}')")).await;
    let mut read = Vec::new();
    while read.len() < wal.bytes.len() {
        if let Some(pq_proto::replication::FromPrimary::XLogData(data)) = reader.next().await.unwrap() {
            read.extend_from_slice(&data.data);
        }
    }
    assert_eq!(read[..wal.bytes.len()], wal.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_closes_connections_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path()).await;
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    program.at.create(id, version.dialect()).await;
    let mut proposer = Proposer::elected(program.at, id, version, &[(1, START)]).await;
    let mut reader = program.at.read(id, &START.to_string()).await;
    let ended = tokio::spawn(program.end(Signal::SIGTERM));
    assert_eq!(proposer.refusal().await.sqlstate, SqlState::ADMIN_SHUTDOWN);
    assert_eq!(reader.error().await.sqlstate, SqlState::ADMIN_SHUTDOWN);
    assert!(ended.await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_does_not_wait_for_connections() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path()).await;
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    program.at.create(id, version.dialect()).await;
    let _proposer = Proposer::elected(program.at, id, version, &[(1, START)]).await;
    let _reader = program.at.read(id, &START.to_string()).await;
    assert!(program.end(Signal::SIGINT).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn data_dir_belongs_to_one_process_and_number() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path()).await;
    fs::remove_file(directory.path().join("address")).unwrap();
    let output = refused(directory.path(), "1").await;
    assert_one_sentence(&output, "is in use by another running safekeeper");
    program.end(Signal::SIGTERM).await;
    let output = refused(directory.path(), "2").await;
    assert_one_sentence(&output, "belongs to safekeeper 1, not 2");
    fs::write(directory.path().join("data/safekeeper.id"), "format 1\nnode 1\n").unwrap();
    let output = refused(directory.path(), "1").await;
    assert_one_sentence(&output, "safekeeper.id is damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_port_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = command(directory.path(), "1", "warn");
    let child = command.args(["--listen-pg", &address]).stderr(Stdio::piped()).spawn().unwrap();
    let output = within("a refusal", child.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_one_sentence(&output, &format!("--listen-pg {address}: cannot listen there"));
}

fn assert_one_sentence(output: &Output, part: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.starts_with("safekeeper: ") && text.contains(part), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_timeline_is_quarantined_alone() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path()).await;
    for number in [1, 2] {
        program.at.create(timeline(number), Dialect::Holdfast).await;
    }
    program.end(Signal::SIGTERM).await;
    let control = timeline_directory(&directory, 2).join("control");
    fs::write(&control, vec![0x55; fs::metadata(&control).unwrap().len() as usize]).unwrap();

    let program = Program::start(directory.path()).await;
    assert_eq!(program.at.status(timeline(1)).await["health"], "healthy");
    let damaged = program.at.status(timeline(2)).await;
    assert_eq!(damaged["health"], "corrupt");
    assert!(damaged["error"].as_str().unwrap().contains("control file"), "{damaged}");
    let error =
        program.at.connect(timeline(2)).await.copy_both("START_WAL_PUSH (proto_version 'holdfast-2')").await;
    assert!(error.unwrap_err().to_string().contains("is quarantined"));
    let (status, text) =
        program.at.post(&crate::support::timeline_body(timeline(2), Dialect::Holdfast)).await;
    assert_eq!(status, 409, "{text}");
    Proposer::elected(program.at, timeline(1), ProtocolVersion::Holdfast2, &[(1, START)]).await;
}

/// A symbolic link to itself takes the place of a file: opening it fails, as it does when a disk fails.
#[tokio::test(flavor = "multi_thread")]
async fn timeline_opens_when_failed_disk_works_again() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path()).await;
    program.at.create(timeline(1), Dialect::Holdfast).await;
    program.end(Signal::SIGTERM).await;
    let control = timeline_directory(&directory, 1).join("control");
    let aside = directory.path().join("aside");
    fs::rename(&control, &aside).unwrap();
    std::os::unix::fs::symlink(&control, &control).unwrap();

    let program = Program::start(directory.path()).await;
    let status = program.at.status(timeline(1)).await;
    assert_eq!(status["health"], "failed", "{status}");
    assert!(status["error"].as_str().unwrap().contains("cannot open the control file"), "{status}");
    let push = "START_WAL_PUSH (proto_version 'holdfast-2')";
    match program.at.connect(timeline(1)).await.copy_both(push).await.err() {
        Some(ClientError::Server(error)) => assert_eq!(error.sqlstate, SqlState::IO_ERROR, "{error:?}"),
        other => panic!("{other:?}"),
    }
    // In one step: a timeline without the file would be another case.
    fs::rename(&aside, &control).unwrap();
    eventually("a timeline that is served", async || {
        (program.at.status(timeline(1)).await["health"] == "healthy").then_some(())
    })
    .await;
    Proposer::elected(program.at, timeline(1), ProtocolVersion::Holdfast2, &[(1, START)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timeline_of_other_data_dir_is_quarantined() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in [&here, &there] {
        let program = Program::start(directory.path()).await;
        program.at.create(timeline(1), Dialect::Holdfast).await;
        program.end(Signal::SIGTERM).await;
    }
    let (from, to) = (timeline_directory(&there, 1), timeline_directory(&here, 1));
    fs::remove_dir_all(&to).unwrap();
    fs::rename(&from, &to).unwrap();
    let program = Program::start(here.path()).await;
    let status = program.at.status(timeline(1)).await;
    assert!(status["error"].as_str().unwrap().contains("copied here from another"), "{status}");
}

pub(crate) fn timeline_directory(directory: &TempDir, number: u8) -> PathBuf {
    let id = timeline(number);
    directory.path().join("data").join(id.tenant.to_string()).join(id.timeline.to_string())
}
