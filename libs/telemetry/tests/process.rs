//! Telemetry as a program has it: set up once per process, with collectors that work, refuse, and never answer.
//!
//! [`child`] is that program, and [`server`] is one as `main` of the servers is; the tests run them, in a process of its
//! own and with an environment of its own.
#![cfg(feature = "otlp")]
#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::error::Error;
use std::fs::OpenOptions;
use std::future::pending;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use telemetry::process::{END_TIMEOUT, TASKS_END_TIMEOUT};
use telemetry::{FLUSH_TIMEOUT, LogFormat, Options};
use tokio::sync::oneshot;
use tracing::{Instrument, info_span};

/// What the child does besides, one word.
const CHILD_TASK: &str = "TEST_CHILD_TASK";
/// Less than the time after which the exporter itself gives up (10 s), and far more than a flush takes.
const FLUSH_SLACK: Duration = Duration::from_secs(4);
const COLLECTOR_DEADLINE: Duration = Duration::from_secs(30);
/// Exit code of a server that did not end by itself.
const NEVER_ENDED: i32 = 3;
/// The last that a server logs before its work ends.
const LAST_WORDS: &str = "the work ends now";
/// So long between two batches that only the end sends any.
const ONLY_AT_THE_END: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "3600000");

#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn child() {
    let task = std::env::var(CHILD_TASK).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = Options { service: "child", version: "1.2.3", ..Options::default() };
        let telemetry = telemetry::init(&options).unwrap();
        assert!(matches!(telemetry::init(&options), Err(telemetry::InitError::AlreadyInstalled)));
        tracing::info_span!("wake_compute", endpoint = "ep-1").in_scope(|| {
            tracing::info!(traceparent = telemetry::traceparent(), "in the span");
        });
        if task == "leave without a flush" {
            return;
        }
        let before = Instant::now();
        telemetry.flush();
        telemetry.flush();
        let spent = before.elapsed();
        assert!(spent < FLUSH_TIMEOUT + FLUSH_SLACK, "flushed for {spent:?}");
        tracing::info!("the program is still there");
    });
}

fn run_child(task: &str, environment: &[(&str, &str)]) -> String {
    let Output { status, stdout, stderr } = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env_clear()
        .env(CHILD_TASK, task)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{text}\n{}", String::from_utf8_lossy(&stdout));
    assert!(String::from_utf8_lossy(&stdout).contains("1 passed"), "the child ran");
    text
}

/// Answers every request with 200, and hands out the first line and the body.
fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_until(b'\n', &mut head).unwrap(), 0);
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.trim().parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.get_mut().write_all(answer).unwrap();
            sender.send((head.lines().next().unwrap().to_owned(), body)).unwrap();
        }
    });
    (url, receiver)
}

fn contains(body: &[u8], word: &str) -> bool {
    body.windows(word.len()).any(|window| window == word.as_bytes())
}

#[test]
fn spans_reach_the_collector_before_the_end() {
    for task in ["flush", "leave without a flush"] {
        let (url, requests) = collector();
        let log = run_child(task, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]);
        let (line, body) = requests.recv_timeout(COLLECTOR_DEADLINE).expect("spans arrive");
        assert_eq!(line, "post /v1/traces http/1.1");
        for word in ["wake_compute", "ep-1", "child", "1.2.3"] {
            assert!(contains(&body, word), "{task}: {word}");
        }
        assert!(!log.contains("WARN"), "{log}");
    }
}

#[test]
fn traceparent_names_the_exported_span() {
    let (url, requests) = collector();
    let log = run_child("flush", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]);
    let (_, body) = requests.recv_timeout(COLLECTOR_DEADLINE).expect("spans arrive");
    let traceparent = log.split("traceparent=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let parts: Vec<&str> = traceparent.split('-').collect();
    assert_eq!((parts[0], parts[1].len(), parts[2].len(), parts[3]), ("00", 32, 16, "01"), "{traceparent}");
    let trace_id: Vec<u8> =
        (0..16).map(|at| u8::from_str_radix(&parts[1][2 * at..2 * at + 2], 16).unwrap()).collect();
    assert!(body.windows(16).any(|window| window == trace_id));
}

/// The delay is [`FLUSH_TIMEOUT`] at most.
#[test]
fn silent_collector_delays_flush_by_its_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let log = run_child("flush", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]);
    assert!(log.contains("the last spans were not sent"), "{log}");
    assert!(log.contains("the program is still there"), "{log}");
}

#[test]
fn refusing_collector_costs_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let log = run_child("flush", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]);
    assert_eq!(log.matches("spans are lost").count(), 1, "{log}");
    assert!(log.contains("the program is still there"), "{log}");
}

#[test]
fn invalid_collector_url_is_only_logged() {
    let log = run_child("flush", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url")]);
    assert!(log.contains("no spans are sent"), "{log}");
    assert!(log.contains("the program is still there"), "{log}");
}

/// Nor with the SDK disabled.
#[test]
fn no_span_leaves_without_an_endpoint() {
    let (url, requests) = collector();
    let disabled = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_SDK_DISABLED", "true")];
    for environment in [&disabled[..], &[]] {
        let log = run_child("flush", environment);
        assert!(log.contains("the program is still there") && !log.contains("traceparent="), "{log}");
    }
    assert!(requests.try_recv().is_err());
}

#[test]
fn rust_log_is_the_fallback_level() {
    let log = run_child("flush", &[("RUST_LOG", "warn")]);
    assert!(!log.contains("the program is still there"), "{log}");
}

type AnyError = Box<dyn Error + Send + Sync>;

#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn server() {
    let task = std::env::var(CHILD_TASK).unwrap_or_default();
    let options =
        Options { service: "server", version: "1.2.3", format: LogFormat::Json, ..Options::default() };
    let ended = telemetry::run(&options, async |_| -> Result<&str, AnyError> {
        spawn_and_enter(info_span!("task_that_is_cut_off"), async {
            let _moment = EndsSlowly;
            pending().await
        })
        .await;
        call_that_never_returns();
        info_span!("work", part = 7).in_scope(|| {
            tracing::info!("{LAST_WORDS}");
            match task.as_str() {
                "panic" => panic!("this is what the test is about"),
                "fail" => Err("the work failed".into()),
                _ => Ok("the value of the work"),
            }
        })
    });
    match ended {
        Ok(value) => assert_eq!(value, "the value of the work"),
        Err(error) => assert_eq!(error.to_string(), "the work failed"),
    }
}

#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn server_with_trouble_beside_it() {
    let options =
        Options { service: "server", version: "1.2.3", format: LogFormat::Json, ..Options::default() };
    telemetry::run(&options, async |_| -> Result<(), AnyError> {
        call_that_never_returns();
        let session = async { panic!("this is what the test is about") };
        let session: Result<(), _> = tokio::spawn(session.instrument(info_span!("session", id = 9))).await;
        assert!(session.unwrap_err().is_panic());
        tracing::info!("{LAST_WORDS}");
        Ok(())
    })
    .unwrap();
}

/// Takes a moment for its end, as a task does that is in the middle of something.
struct EndsSlowly;

impl Drop for EndsSlowly {
    fn drop(&mut self) {
        thread::sleep(TASKS_END_TIMEOUT / 5);
    }
}

/// As one into an operating system whose disk has gone. Nobody can end it, so the child ends itself should all else fail.
fn call_that_never_returns() {
    tokio::task::spawn_blocking(|| {
        thread::sleep(COLLECTOR_DEADLINE);
        std::process::exit(NEVER_ENDED);
    });
}

/// Returns when the task has been inside its span.
async fn spawn_and_enter(span: tracing::Span, task: impl Future<Output = ()> + Send + 'static) {
    let (entered, wait) = oneshot::channel();
    tokio::spawn(
        async move {
            let _ = entered.send(());
            task.await;
        }
        .instrument(span),
    );
    wait.await.unwrap();
}

/// Its log, how it ended, and how long after its work that was.
fn run_server(child: &str, task: &str, collector: &str) -> (String, ExitStatus, Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child, "--ignored", "--nocapture"])
        .env_clear()
        .envs([(CHILD_TASK, task), ("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ONLY_AT_THE_END])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = String::new();
    let mut ends = None;
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains(LAST_WORDS) {
            ends = Some(Instant::now());
        }
        log.extend([&line, "\n"]);
    }
    let status = child.wait().unwrap();
    (log, status, ends.expect("its last words").elapsed())
}

/// The last spans reach the collector all the same.
#[test]
fn panic_is_logged_and_exits_with_101() {
    let (url, requests) = collector();
    let (log, status, _) = run_server("server", "panic", &url);
    assert_eq!(status.code(), Some(101), "{log}");
    let (_, body) = requests.recv_timeout(COLLECTOR_DEADLINE).expect("spans arrive");
    // The panic belongs to its span, with the collector too.
    for word in ["task_that_is_cut_off", "work", "panicked: this is what the test is about"] {
        assert!(contains(&body, word), "{word}");
    }
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("this is what")).collect();
    let [line] = lines[..] else { panic!("not one line: {log}") };
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["level"], &line["message"]),
        (&"ERROR".into(), &"panicked: this is what the test is about".into())
    );
    assert!(line["location"].as_str().unwrap().contains("process.rs:"), "{line}");
    assert_eq!(line["span"]["part"], 7, "{line}");
}

#[test]
fn panic_in_a_task_ends_only_the_task() {
    let (url, requests) = collector();
    let (log, status, _) = run_server("server_with_trouble_beside_it", "", &url);
    assert!(status.success(), "{log}");
    let line = log.lines().find(|line| line.contains("panicked")).expect("a line for the panic");
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["span"]["id"], 9, "{line}");
    let (_, body) = requests.recv_timeout(COLLECTOR_DEADLINE).expect("spans arrive");
    assert!(contains(&body, "session"));
}

#[test]
fn every_process_end_is_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    for (child, task, code) in [
        ("server", "", 0),
        ("server", "fail", 0),
        ("server", "panic", 101),
        ("server_with_trouble_beside_it", "", 0),
    ] {
        let (url, requests) = collector();
        let (log, status, answered) = run_server(child, task, &url);
        assert_eq!(status.code(), Some(code), "{log}");
        requests.recv_timeout(COLLECTOR_DEADLINE).expect("spans arrive");
        let (log, status, unanswered) = run_server(child, task, &silent);
        assert_eq!(status.code(), Some(code), "{log}");
        assert!(log.contains("the last spans were not sent"), "{log}");
        println!("{child} {task}: {answered:?} with a collector, {unanswered:?} with one that is silent");
        for took in [answered, unanswered] {
            assert!(took < END_TIMEOUT + FLUSH_SLACK, "{child} {task}: {took:?} {log}");
        }
    }
}

#[test]
fn unwritable_log_ends_nothing() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env_clear()
        .stdout(Stdio::null())
        .stderr(full)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}
