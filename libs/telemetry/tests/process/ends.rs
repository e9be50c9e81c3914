//! Ends of a server: by its work, by an error, by a panic, with collectors that answer and that are silent.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use telemetry::process::END_TIMEOUT;

use crate::collector::{collector, contains};
use crate::{CHILD_TASK, COLLECTOR_DEADLINE, FLUSH_SLACK, LAST_WORDS, ONLY_AT_THE_END};

/// Runs a server. Returns its log, its exit status, and the time from the end of its work to its exit.
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
    assert!(line["location"].as_str().unwrap().contains("process/main.rs:"), "{line}");
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
        assert!(log.contains("cannot send the last spans"), "{log}");
        println!("{child} {task}: {answered:?} with a collector, {unanswered:?} with one that is silent");
        for took in [answered, unanswered] {
            assert!(took < END_TIMEOUT + FLUSH_SLACK, "{child} {task}: {took:?} {log}");
        }
    }
}
