//! Descriptors: strangers take none from those who are known, and a want of them fails no timeline.

use std::net::SocketAddr;
use std::process::Stdio;

use consensus::{Dialect, ProtocolVersion};
use nix::sys::signal::Signal;
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;

use crate::full_disk::becomes;
use crate::process::{Program, command};
use crate::support::{Address, Proposer, SEGMENT_BYTES, START, Wal, eventually, timeline};

const OWN: ProtocolVersion = ProtocolVersion::Holdfast2;
/// Descriptors of the program: few.
const DESCRIPTORS: usize = 256;
/// Connections of the stranger: more than the program has descriptors.
const STRANGERS: usize = 600;

/// Starts the program with so many descriptors.
fn with_descriptors(directory: &std::path::Path, descriptors: usize) -> Command {
    let program = command(directory, "1", "warn");
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={descriptors}:{descriptors}")).arg(program.as_std().get_program());
    limited.args(program.as_std().get_args()).kill_on_drop(true);
    limited
}

/// Sets the soft limit of a running program.
fn set_limit(program: &Program, descriptors: usize) {
    let limit = format!("--nofile={descriptors}:");
    let status = std::process::Command::new("prlimit").args(["--pid", &program.pid(), &limit]).status();
    assert!(status.unwrap().success());
}

/// A connection from 127.0.0.2 that says nothing.
async fn stranger(at: Address) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    socket.connect(at.pg).await.ok()
}

async fn metric(at: Address, line: &str) -> bool {
    let page = reqwest::get(at.url("/metrics")).await.unwrap().text().await.unwrap();
    page.lines().any(|found| found.strip_prefix(line).is_some_and(|value| value.trim() != "0"))
}

/// A proposer that was connected before goes on, and one that comes later gets in.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_leave_descriptors_to_proposers() {
    utils::descriptors::raise_limit().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start_as(directory.path(), with_descriptors(directory.path(), DESCRIPTORS)).await;
    program.at.create(timeline(1), Dialect::Holdfast).await;
    let mut wal = Wal::new();
    let mut first = Proposer::elected(program.at, timeline(1), OWN, &[(1, START)]).await;
    first.push(1, START, &wal.grow(20_000), START).await;

    let mut crowd = Vec::new();
    for _ in 0..STRANGERS {
        crowd.extend(stranger(program.at).await);
    }
    let refused =
        "holdfast_safekeeper_connections_accepted_total{result=\"too_many_handshakes_from_address\"}";
    eventually("strangers to be refused", async || metric(program.at, refused).await.then_some(())).await;

    let begin = wal.end();
    first.push(1, begin, &wal.grow(4 * SEGMENT_BYTES as usize), begin).await;
    let end = wal.end();
    let mut second = Proposer::elected(program.at, timeline(1), OWN, &[(1, START), (2, end)]).await;
    second.push(2, end, &wal.grow(2 * SEGMENT_BYTES as usize), end).await;
    becomes(&program, timeline(1), "healthy").await;
    drop(crowd);
    assert!(program.end(Signal::SIGTERM).await.success());
}

/// Appends wait on the same connection, and go on by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn want_of_descriptors_fails_no_timeline() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start_as(directory.path(), with_descriptors(directory.path(), 1024)).await;
    program.at.create(timeline(1), Dialect::Holdfast).await;
    let mut wal = Wal::new();
    let mut proposer = Proposer::elected(program.at, timeline(1), OWN, &[(1, START)]).await;
    proposer.push(1, START, &wal.grow(20_000), START).await;
    // Keeps a connection for the status: HTTP/1 without a new accept.
    let status = reqwest::Client::new();
    let health = async || {
        let page: serde_json::Value =
            status.get(program.at.url("/v1/timelines")).send().await.ok()?.json().await.ok()?;
        page[0]["health"].as_str().map(ToOwned::to_owned)
    };
    assert_eq!(health().await.as_deref(), Some("healthy"));

    // No new descriptor has so low a number, whatever the reserve gives back.
    set_limit(&program, 3);
    let mut at = wal.end();
    for piece in wal.grow(3 * SEGMENT_BYTES as usize).chunks(20_000) {
        proposer.send(&proposer.append(1, at, piece, START)).await;
        at = at.advance(piece.len() as u64);
    }
    eventually("appends to wait", async || (health().await? == "full").then_some(())).await;
    set_limit(&program, 1024);
    proposer.acknowledged(wal.end()).await;
    becomes(&program, timeline(1), "healthy").await;
    let shortages = "holdfast_safekeeper_disk_descriptor_shortages_total ";
    assert!(metric(program.at, shortages).await);
    assert!(program.end(Signal::SIGTERM).await.success());
}

/// The error says what is needed.
#[tokio::test]
async fn program_refuses_too_low_a_limit() {
    let directory = tempfile::tempdir().unwrap();
    let mut limited = with_descriptors(directory.path(), 100);
    let output = limited.stderr(Stdio::piped()).output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("limit of open files is 100"), "{error}");
}
