//! Telemetry of a whole process, with collectors that work, refuse, and never answer.
//!
//! [`child`] is a small program, and [`server`] is one as `main` of the servers is. The tests run them as processes of
//! their own, with an environment of their own, by the names of these functions.
#![cfg(feature = "otlp")]
#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod collector;
mod ends;

use std::error::Error;
use std::fs::OpenOptions;
use std::future::pending;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use telemetry::process::TASKS_END_TIMEOUT;
use telemetry::{FLUSH_TIMEOUT, LogFormat, Options};
use tokio::sync::oneshot;
use tracing::{Instrument, info_span};

use crate::collector::{collector, contains};

/// Environment variable that selects what the child does.
const CHILD_TASK: &str = "TEST_CHILD_TASK";
/// Less than the time after which the exporter itself gives up (10 s), and far more than a flush takes.
const FLUSH_SLACK: Duration = Duration::from_secs(4);
const COLLECTOR_DEADLINE: Duration = Duration::from_secs(30);
/// Exit code of a server that did not end by itself.
const NEVER_ENDED: i32 = 3;
/// The last line that a server logs before its work ends.
const LAST_WORDS: &str = "the work ends now";
/// An hour between two batches, so that spans are sent only at the end.
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
    assert!(log.contains("cannot send the last spans"), "{log}");
    assert!(log.contains("the program is still there"), "{log}");
}

#[test]
fn refusing_collector_costs_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let log = run_child("flush", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]);
    assert_eq!(log.matches("cannot send spans to the collector").count(), 1, "{log}");
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

/// A value whose drop takes a moment, as that of a busy task does.
struct EndsSlowly;

impl Drop for EndsSlowly {
    fn drop(&mut self) {
        thread::sleep(TASKS_END_TIMEOUT / 5);
    }
}

/// Blocks a thread, as a call into an operating system whose disk has gone does. It cannot be cancelled, so the child
/// exits by itself should all else fail.
fn call_that_never_returns() {
    tokio::task::spawn_blocking(|| {
        thread::sleep(COLLECTOR_DEADLINE);
        std::process::exit(NEVER_ENDED);
    });
}

/// Spawns a task, and returns when it has been inside its span.
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
