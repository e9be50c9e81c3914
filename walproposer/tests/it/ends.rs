//! Ends of the program: their time limits, exit codes, and the spans that a collector has received by then.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use telemetry::process::END_TIMEOUT;
use tokio::process::{Child, Command};

use crate::support::{DEADLINE, LINEAGE_START, ScriptedPrimary, eventually};

/// Delay that a busy machine may add. The exporter of spans alone would give up after 10 s.
const SLACK: Duration = Duration::from_secs(4);

/// Accepts requests of the exporter and keeps their bodies. A silent collector never answers.
struct Collector {
    url: String,
    bodies: Arc<Mutex<Vec<u8>>>,
}

impl Collector {
    fn start(is_silent: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let bodies = Arc::<Mutex<Vec<u8>>>::default();
        let kept = Arc::clone(&bodies);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut length = 0;
                for line in stream.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty())
                {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                        length = value.parse().unwrap();
                    }
                }

                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                if is_silent {
                    thread::park_timeout(2 * END_TIMEOUT + SLACK);
                    continue;
                }
                kept.lock().unwrap().extend(body);
                stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            }
        });

        Self { url, bodies }
    }

    fn has(&self, word: &str) -> bool {
        self.bodies.lock().unwrap().windows(word.len()).any(|window| window == word.as_bytes())
    }
}

/// The program, with the address of a safekeeper that does not run.
fn command(subcommand: &str, collector: &Collector) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walproposer"));
    command.args([subcommand, "--log-level", "info", "--log-format", "json"]);
    command.args(["--safekeepers", "1@127.0.0.1:1", "--tenant-id", "9ef87a5bf0d92544f6fafeeb3239695c"]);
    command.args(["--timeline-id", "de200bd42b49cc1814412c7e592dd6e9"]);
    // The interval between batches is so long that spans are sent only at the end.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "3600000").env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    command.kill_on_drop(true);
    command
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), signal).unwrap();
}

/// Waits for a word in a log.
async fn logged(log: &Path, word: &str) {
    eventually(word, async || {
        let text = std::fs::read_to_string(log).unwrap();
        if text.contains(word) { Ok(()) } else { Err(text) }
    })
    .await;
}

/// Starts `command`, waits for the word `searching` in its log, and sends `signals`. Returns exit status, time since the last
/// signal, and log.
async fn end(mut command: Command, searching: &str, signals: &[Signal]) -> (ExitStatus, Duration, String) {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    logged(&log, searching).await;
    let mut begin = Instant::now();
    for one in signals {
        begin = Instant::now();
        signal(&child, *one);
        // Two signals at the same time would count as one.
        logged(&log, "shutting down").await;
    }
    let status =
        tokio::time::timeout(DEADLINE, child.wait()).await.expect("the program does not end").unwrap();
    (status, begin.elapsed(), std::fs::read_to_string(log).unwrap())
}

/// Every signal ends the program in time, and its last spans arrive.
#[tokio::test]
async fn signals_end_program_and_send_last_spans() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let run = |collector: &Collector, directory: &Path| {
        let mut command = command("run", collector);
        // In the environment, as a connection string with a password should be.
        command.env("HOLDFAST_PRIMARY", format!("postgresql://wp@{}", primary.conninfo()));
        command.arg("--address-file").arg(directory.join("address"));
        command
    };
    for signals in [&[Signal::SIGTERM][..], &[Signal::SIGINT], &[Signal::SIGQUIT]] {
        let directory = tempfile::tempdir().unwrap();
        let collector = Collector::start(false);
        let (status, answered, log) =
            end(run(&collector, directory.path()), "connected to the primary", signals).await;
        assert!(
            status.success() && !log.contains("cannot send the last spans"),
            "{signals:?}: {status} {log}"
        );
        assert!(collector.has("election") && collector.has("walproposer"), "{signals:?}");
        let silent = Collector::start(true);
        let (status, unanswered, log) =
            end(run(&silent, directory.path()), "connected to the primary", signals).await;
        assert!(
            status.success() && log.contains("cannot send the last spans"),
            "{signals:?}: {status} {log}"
        );
        assert_in_time(&format!("{signals:?}"), answered, unanswered);
    }
}

/// A request whose body does not come.
fn stuck_request(http: &str) -> TcpStream {
    let mut stream = TcpStream::connect(http).unwrap();
    let head =
        "PUT /v1/log-level HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    // RFC 9110, section 10.1.1: the server waits for the body.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    stream
}

/// A request whose body does not come holds up the drain; the second SIGTERM ends that.
#[tokio::test]
async fn a_second_sigterm_ends_the_drain() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let directory = tempfile::tempdir().unwrap();
    let (log, address) = (directory.path().join("log"), directory.path().join("address"));
    let silent = Collector::start(true);
    let mut command = command("run", &silent);
    command
        .env("HOLDFAST_PRIMARY", format!("postgresql://wp@{}", primary.conninfo()))
        .arg("--address-file")
        .arg(&address);
    let mut child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    logged(&log, "connected to the primary").await;
    let address: Value = serde_json::from_slice(&std::fs::read(address).unwrap()).unwrap();
    let _stuck = stuck_request(address["http"].as_str().unwrap());
    signal(&child, Signal::SIGTERM);
    logged(&log, "Draining").await;
    let begin = Instant::now();
    signal(&child, Signal::SIGTERM);
    let status =
        tokio::time::timeout(DEADLINE, child.wait()).await.expect("the program does not end").unwrap();
    let took = begin.elapsed();
    let text = std::fs::read_to_string(log).unwrap();
    println!("SIGTERM, SIGTERM: {took:?} with a silent collector");
    assert!(status.success() && text.contains("Immediate"), "{status} {text}");
    assert!(took < END_TIMEOUT + SLACK, "{took:?}");
}

/// A recovery that fails or is stopped sends its spans and says why.
#[tokio::test]
async fn failed_recovery_sends_spans_and_names_reason() {
    for (timeout, signals, reason) in [
        ("1s", &[][..], "end of the log not settled within 1s"),
        ("60s", &[Signal::SIGTERM], "stopped by a signal before"),
        ("60s", &[Signal::SIGINT], "stopped by a signal before"),
    ] {
        let with = |collector: &Collector| {
            let mut command = command("recover", collector);
            command.args(["--timeout", timeout]);
            command
        };
        let collector = Collector::start(false);
        let (status, answered, log) = end(with(&collector), "\"level\"", signals).await;
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.lines().last().unwrap().starts_with(&format!("walproposer: {reason}")), "{log}");
        assert!(collector.has("recovery"), "{signals:?}");
        let (status, unanswered, log) = end(with(&Collector::start(true)), "\"level\"", signals).await;
        assert_eq!(status.code(), Some(1), "{log}");
        assert_in_time(&format!("recover {signals:?}"), answered, unanswered);
    }
}

#[expect(clippy::print_stdout, reason = "the times are worth reading")]
fn assert_in_time(name: &str, answered: Duration, unanswered: Duration) {
    println!("{name}: {answered:?} with a collector, {unanswered:?} with a silent one");
    for took in [answered, unanswered] {
        assert!(took < END_TIMEOUT + SLACK, "{name}: {took:?}");
    }
}

/// With an invalid number of threads tokio panics in `main`. The panic is one log line, and the exit code is 101.
#[tokio::test]
async fn panic_is_logged_and_exits_with_101() {
    let mut command = command("recover", &Collector::start(false));
    command.env("TOKIO_WORKER_THREADS", "many").stderr(Stdio::piped());
    let ended = tokio::time::timeout(DEADLINE, command.output()).await;
    let Output { status, stderr, .. } = ended.expect("the program does not end").unwrap();
    assert_eq!(status.code(), Some(101));
    let text = String::from_utf8(stderr).unwrap();
    let line: Value = serde_json::from_str(&text).expect("one line of log");
    assert!(line["message"].as_str().unwrap().starts_with("panicked: \"TOKIO_WORKER_THREADS\""), "{line}");
    assert_eq!(line["level"], "ERROR");
}
