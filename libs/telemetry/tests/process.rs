//! Telemetry as a program has it: set up once per process, with collectors that work, refuse, and never answer.
//!
//! [`child`] is that program; the tests run it, in a process of its own and with an environment of its own.
#![cfg(feature = "otlp")]
#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use telemetry::{FLUSH_TIMEOUT, Options};

/// What the child does besides, one word.
const CHILD_TASK: &str = "TEST_CHILD_TASK";
/// Less than the time after which the exporter itself gives up (10 s), and far more than a flush takes.
const FLUSH_SLACK: Duration = Duration::from_secs(4);
const COLLECTOR_DEADLINE: Duration = Duration::from_secs(30);

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
fn the_traceparent_names_the_span_that_the_collector_gets() {
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

#[test]
fn a_collector_that_never_answers_delays_the_end_by_the_flush_timeout_at_most() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let log = run_child("flush", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]);
    assert!(log.contains("the last spans were not sent"), "{log}");
    assert!(log.contains("the program is still there"), "{log}");
}

#[test]
fn a_collector_that_refuses_costs_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let log = run_child("flush", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]);
    assert_eq!(log.matches("spans are lost").count(), 1, "{log}");
    assert!(log.contains("the program is still there"), "{log}");
}

#[test]
fn an_endpoint_that_is_no_url_is_logged_and_the_program_runs() {
    let log = run_child("flush", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url")]);
    assert!(log.contains("no spans are sent"), "{log}");
    assert!(log.contains("the program is still there"), "{log}");
}

#[test]
fn without_an_endpoint_or_with_the_sdk_disabled_no_span_leaves() {
    let (url, requests) = collector();
    let disabled = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_SDK_DISABLED", "true")];
    for environment in [&disabled[..], &[]] {
        let log = run_child("flush", environment);
        assert!(log.contains("the program is still there") && !log.contains("traceparent="), "{log}");
    }
    assert!(requests.try_recv().is_err());
}

#[test]
fn rust_log_is_the_level_when_the_command_line_has_none() {
    let log = run_child("flush", &[("RUST_LOG", "warn")]);
    assert!(!log.contains("the program is still there"), "{log}");
}
