//! Ends of the program: how soon, with what exit code, and which spans a collector has received by then.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use consensus::ProtocolVersion;
use nix::sys::signal::Signal;
use serde_json::Value;
use telemetry::process::END_TIMEOUT;

use crate::process::{Program, command};
use crate::support::{Proposer, START, timeline, within};

/// Time that a busy machine may add. The exporter of spans by itself would give up after 10 s.
const SLACK: Duration = Duration::from_secs(4);

/// A collector of spans: accepts requests and keeps their bodies. A silent one never answers.
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

/// Ends a program that has a proposer and a reader, with these signals. Returns its exit status, and the time since the
/// last signal.
async fn end(collector: &Collector, signals: &[Signal]) -> (ExitStatus, Duration) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = command(directory.path(), "1", "info");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    // The interval is so long that only the end of the program sends a batch.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "3600000").stderr(Stdio::null());
    let mut program = Program::start_as(directory.path(), command).await;
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    program.at.create(id, version.dialect()).await;
    let _proposer = Proposer::elected(program.at, id, version, &[(1, START)]).await;
    let _reader = program.at.read(id, &START.to_string()).await;
    // Delays the end of a drain.
    let _stuck = stuck_request(program.at.http);
    let mut begin = Instant::now();
    for signal in signals {
        begin = Instant::now();
        program.signal(*signal);
        // Two signals at the same time would count as one.
        program.draining().await;
    }
    (program.ended().await, begin.elapsed())
}

/// A request in progress whose body never comes.
fn stuck_request(http: SocketAddr) -> TcpStream {
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

/// The last spans of the program reach the collector, whether or not it answers.
#[tokio::test(flavor = "multi_thread")]
async fn every_signal_ends_program_in_time() {
    for signals in
        [&[Signal::SIGTERM][..], &[Signal::SIGTERM, Signal::SIGTERM], &[Signal::SIGINT], &[Signal::SIGQUIT]]
    {
        let collector = Collector::start(false);
        let (status, answered) = end(&collector, signals).await;
        assert!(status.success(), "{signals:?}: {status}");
        for word in ["connection", "safekeeper", &timeline(1).timeline.to_string()] {
            assert!(collector.has(word), "{signals:?}: no {word}");
        }
        let (status, unanswered) = end(&Collector::start(true), signals).await;
        assert!(status.success(), "{signals:?}: {status}");
        println!("{signals:?}: {answered:?} with a collector, {unanswered:?} with one that is silent");
        // After one SIGTERM the work includes the drain.
        let work = telemetry::http::HTTP_DRAIN_TIMEOUT * u32::from(signals == [Signal::SIGTERM]);
        for took in [answered, unanswered] {
            assert!(took < work + END_TIMEOUT + SLACK, "{signals:?}: {took:?}");
        }
    }
}

/// tokio panics in `main` when its number of threads is not a number.
#[tokio::test(flavor = "multi_thread")]
async fn panic_is_one_log_line_and_exit_101() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = command(directory.path(), "1", "info");
    command.args(["--log-format", "json"]).env("TOKIO_WORKER_THREADS", "many").stderr(Stdio::piped());
    let output = within("the end of the program", command.output()).await.unwrap();
    assert_eq!(output.status.code(), Some(101), "{:?}", output.status.signal());
    let text = String::from_utf8(output.stderr).unwrap();
    let line: Value = serde_json::from_str(&text).expect("one line of log");
    assert!(line["message"].as_str().unwrap().starts_with("panicked: \"TOKIO_WORKER_THREADS\""), "{line}");
    assert_eq!(line["level"], "ERROR");
}
