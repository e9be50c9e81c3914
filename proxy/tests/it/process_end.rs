//! Ends of the process without a session: during a start, during an admin request, by an error, and by a panic.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use telemetry::process::END_TIMEOUT;
use test_runner::wait;

use crate::installation::DEADLINE;

/// Delay that a busy machine may add. The exporter of spans alone would wait 10 s for an answer.
const SLACK: Duration = Duration::from_secs(4);

/// The proxy without endpoints. Its log goes to the file `log`, as JSON.
fn command(directory: &Path) -> Command {
    let endpoints = directory.join("endpoints.toml");
    fs::write(&endpoints, "").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_proxy"));
    command.args(["--listen", "127.0.0.1:0", "--log-format", "json", "--log-level", "info"]);
    command.arg("--control-plane").arg(format!("file:{}", endpoints.display()));
    command.arg("--address-file").arg(directory.join("address"));
    command.stderr(fs::File::create(directory.join("log")).unwrap());
    command
}

fn log(directory: &Path) -> String {
    fs::read_to_string(directory.join("log")).unwrap()
}

async fn logged(directory: &Path, words: &str) {
    wait::until(words, DEADLINE, async || Ok(log(directory).contains(words).then_some(()))).await.unwrap();
}

/// Sends a signal. Returns the exit status and the time until the end.
async fn end(child: &mut Child, signal: Signal) -> (ExitStatus, Duration) {
    let begin = Instant::now();
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
    let status = wait::until("the end", DEADLINE, async || Ok(child.try_wait()?)).await.unwrap();
    (status, begin.elapsed())
}

#[expect(clippy::print_stdout, reason = "the times are for readers of the log")]
fn in_time(what: &str, took: Duration) {
    println!("{what}: {took:?}");
    assert!(took < END_TIMEOUT + SLACK, "{what}: {took:?}");
}

/// The start waits for an answer of its predecessor.
#[tokio::test]
async fn sigterm_ends_a_waiting_handover_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    // Accepts connections and never answers.
    let silent = UnixListener::bind(directory.join("ports.1")).unwrap();
    symlink("ports.1", directory.join("ports")).unwrap();
    let mut command = command(directory);
    let mut child = command.arg("--handover-socket").arg(directory.join("ports")).spawn().unwrap();
    let (_asked, _) = silent.accept().unwrap();
    let (status, took) = end(&mut child, Signal::SIGINT).await;
    assert!(status.success() && log(directory).contains("Interrupted"), "{status} {}", log(directory));
    assert!(!directory.join("address").exists());
    in_time("SIGINT in the middle of a start", took);
}

#[tokio::test]
async fn admin_request_without_its_body_delays_no_end() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    // Accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut child = command(directory).env("OTEL_EXPORTER_OTLP_ENDPOINT", url).spawn().unwrap();
    logged(directory, "listening").await;
    let address: Value = serde_json::from_slice(&fs::read(directory.join("address")).unwrap()).unwrap();
    // A silent connection leaves a span.
    drop(TcpStream::connect(address["pg"].as_str().unwrap()).unwrap());
    let mut stuck = TcpStream::connect(address["http"].as_str().unwrap()).unwrap();
    let head =
        "PUT /v1/log-level HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    stuck.write_all(head.as_bytes()).unwrap();
    // RFC 9110, section 10.1.1: the server waits for the body.
    let mut answer = [0; 12];
    stuck.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    let (status, took) = end(&mut child, Signal::SIGINT).await;
    let log = log(directory);
    assert!(status.success() && log.contains("cannot send the last spans"), "{status} {log}");
    in_time("SIGINT in the middle of a request", took);
}

#[tokio::test]
async fn start_error_is_logged_and_printed() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut child = command(directory.path()).args(["--listen-http", &address]).spawn().unwrap();
    let status = wait::until("the end", DEADLINE, async || Ok(child.try_wait()?)).await.unwrap();
    let log = log(directory.path());
    assert_eq!(status.code(), Some(1), "{log}");
    let lines: Vec<&str> = log.lines().collect();
    let [.., logged, said] = &lines[..] else { panic!("{log}") };
    let logged: Value = serde_json::from_str(logged).unwrap();
    assert!(logged["error"].as_str().unwrap().contains(&address), "{log}");
    assert!(said.starts_with("proxy: ") && said.contains(&address), "{log}");
}

/// With an invalid number of threads tokio panics in `main`.
#[tokio::test]
async fn panic_is_logged_and_exits_with_101() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = command(directory.path());
    let status = command.env("TOKIO_WORKER_THREADS", "many").stdout(Stdio::null()).status().unwrap();
    let log = log(directory.path());
    assert_eq!(status.code(), Some(101), "{log}");
    let line: Value = serde_json::from_str(&log).expect("one line of log");
    assert!(line["message"].as_str().unwrap().starts_with("panicked: \"TOKIO_WORKER_THREADS\""), "{line}");
    assert_eq!(line["level"], "ERROR");
}
