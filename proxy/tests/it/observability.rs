//! Observability: spans, phases, one log line per session, the list of sessions, and the log level.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;
use test_runner::wait;

use crate::installation::{DEADLINE, Installation, PASSWORD, verifier};
use crate::proxy_process::Proxy;

/// Requests of HTTP clients: first line and headers in lower case, and the body.
type Requests = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Starts an HTTP server that keeps every request and answers 200 with the body that `answer` makes from its head.
fn service(answer: impl Fn(&str) -> String + Send + 'static) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let kept = Arc::clone(&requests);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_until(b'\n', &mut head).unwrap_or(0) > 0 {}
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
            stream.read_exact(&mut body).unwrap();
            let said = answer(&head);
            let head_bytes =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", said.len());
            kept.lock().unwrap().push((head, body));
            let _ = stream.get_mut().write_all((head_bytes + &said).as_bytes());
        }
    });

    (url, requests)
}

/// True when one of the bodies has these bytes.
fn has(requests: &Requests, bytes: &[u8]) -> bool {
    let requests = requests.lock().unwrap();
    requests.iter().any(|(_, body)| body.windows(bytes.len()).any(|window| window == bytes))
}

/// The control plane's request carries the same trace.
#[tokio::test]
async fn last_spans_arrive_after_every_signal() {
    let installation = Installation::new("traces").await;
    installation.start_postgres().await;
    let port = installation.postgres.port;
    let (control_plane, asked) = service(move |head| {
        if head.contains("wake_compute") {
            format!("{{\"address\": \"127.0.0.1:{port}\", \"aux\": {{}}}}")
        } else {
            format!("{{\"role_secret\": \"{}\"}}", verifier())
        }
    });
    let plane = installation.directory().join("http.toml");
    fs::write(&plane, format!("url = \"{control_plane}/api\"\n")).unwrap();
    let flag = format!("http:{}", plane.display());
    for signals in
        [&[Signal::SIGTERM][..], &[Signal::SIGTERM, Signal::SIGTERM], &[Signal::SIGINT], &[Signal::SIGQUIT]]
    {
        let (collector, spans) = service(|_| String::new());
        // The interval between batches is so long that spans are sent only at the end.
        let environment =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "3600000")];
        asked.lock().unwrap().clear();
        let mut proxy =
            Proxy::start(&installation, "proxy-traced", &["--control-plane", &flag], &environment).await;
        let (client, connection) = installation.connect(&proxy.config()).await.unwrap();
        client.batch_execute("SELECT 1").await.unwrap();
        assert!(spans.lock().unwrap().is_empty(), "the test waits for the last spans only");
        for signal in signals {
            proxy.signal(*signal);
            // Two signals at the same time would count as one.
            let seen = async || Ok(proxy.log().contains("shutting down").then_some(()));
            wait::until("the signal to be seen", DEADLINE, seen).await.unwrap();
        }
        let _ = connection.await.unwrap();
        assert!(proxy.ended().await.0.success());
        let log = proxy.log();
        assert!(!log.contains("cannot send the last spans"), "{log}");
        for name in ["session", "tls", "auth", "control_plane", "connect", "control_plane_request", "main"] {
            assert!(has(&spans, name.as_bytes()), "{signals:?}: no {name}");
        }
        // The attributes in the encoding of protocol buffers.
        let destination = b"\n\x08endpoint\x12\x06\n\x04mainJ\x0d\n\x04role\x12\x05\n\x03app";
        assert!(has(&spans, destination), "{signals:?}: no destination");
        let outcome = if signals == [Signal::SIGTERM] { "drained" } else { "cut_off" };
        assert!(has(&spans, outcome.as_bytes()), "{signals:?}: no {outcome}");
        assert!(!has(&spans, PASSWORD.as_bytes()));

        let heads: Vec<String> = asked.lock().unwrap().iter().map(|(head, _)| head.clone()).collect();
        assert!(heads.len() >= 2, "{heads:?}");
        for head in heads {
            let trace =
                head.lines().find_map(|line| line.strip_prefix("traceparent: ")).expect("traceparent");
            let parts: Vec<&str> = trace.trim().split('-').collect();
            assert_eq!((parts[0], parts[1].len(), parts[3]), ("00", 32, "01"), "{trace}");
            // The collector has the trace and the span.
            for id in [parts[1], parts[2]] {
                assert!(has(&spans, &hex::decode(id).unwrap()), "{signals:?}: {trace}");
            }
        }
    }
    installation.passed();
}

#[tokio::test]
async fn session_leaves_one_line_and_phase_metrics() {
    let installation = Installation::new("observed").await;
    let proxy = Proxy::start(&installation, "proxy-json", &["--log-format", "json"], &[]).await;
    let uri = proxy.uri(&installation);
    assert_eq!(installation.ask(&uri, &["SELECT repeat('x', 100000)"]).await.len(), 100_000);
    proxy.wait_open(0).await;
    let wrong = installation.psql(&uri.replace("app:", "mallory:"), &["SELECT 1"]).await;
    assert!(!wrong.status.success());
    let lines = wait::until("two lines", DEADLINE, async || {
        let log = proxy.log();
        // Other lines are output of the command that started PostgreSQL.
        let own = log.lines().filter(|line| line.starts_with('{'));
        let all = own.map(|line| serde_json::from_str::<Value>(line).expect("every line is JSON"));
        let ends: Vec<Value> = all.filter(|line| line["outcome"].is_string()).collect();
        Ok((ends.len() >= 2).then_some(ends))
    });
    let lines = lines.await.unwrap();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let fields = |line: usize, name: &str| lines[line][name].clone();
    for (line, role, outcome) in [(0, "app", "client_closed"), (1, "mallory", "wrong_password")] {
        assert_eq!((fields(line, "endpoint"), fields(line, "role")), ("main".into(), role.into()));
        assert_eq!(fields(line, "outcome"), outcome);
        assert_eq!(fields(line, "session").as_str().unwrap().len(), 16);
    }
    let (received, sent) = (fields(0, "received").as_u64().unwrap(), fields(0, "sent").as_u64().unwrap());
    assert!((20..10_000).contains(&received) && (100_000..200_000).contains(&sent), "{received} {sent}");
    let phases = fields(0, "phases_ms").as_str().unwrap().to_owned();
    // PostgreSQL was asleep, so there is a wake.
    let expected = ["accept", "tls", "auth", "control_plane", "wake", "connect"];
    let names: Vec<&str> = phases.split(' ').map(|phase| phase.split_once('=').unwrap().0).collect();
    assert_eq!(names, expected, "{phases}");
    let sum: f64 =
        phases.split(' ').map(|phase| phase.split_once('=').unwrap().1.parse::<f64>().unwrap()).sum();
    assert!(sum <= fields(0, "ms").as_f64().unwrap() + 1.0, "{:?}", lines[0]);

    let (_, metrics) = proxy.get("/metrics").await.unwrap();
    for (phase, count) in expected.into_iter().zip([2, 2, 2, 2, 1, 1]) {
        let line = format!("holdfast_proxy_phase_seconds_count{{phase=\"{phase}\"}} ");
        let found: u64 =
            metrics.lines().find_map(|one| one.strip_prefix(&line)).expect(phase).parse().unwrap();
        assert!(found >= count, "{phase}: {found}");
    }
    // Names that clients choose must not become labels.
    assert!(!metrics.contains("mallory") && !metrics.contains("\"main\""), "{metrics}");
    drop(proxy);
    installation.passed();
}

#[tokio::test]
async fn log_level_changes_while_the_proxy_runs() {
    let installation = Installation::new("level").await;
    let proxy = Proxy::start(&installation, "proxy-level", &["--log-level", "warn"], &[]).await;
    let uri = proxy.uri(&installation);
    installation.ask(&uri, &["SELECT 1"]).await;
    assert!(!proxy.log().contains("session ended"));
    assert_eq!(proxy.put("/v1/log-level", "info").await, (200, "info\n".to_owned()));
    assert_eq!(proxy.get("/healthz").await.unwrap(), (200, "ok\n".to_owned()));
    installation.ask(&uri, &["SELECT 1"]).await;
    wait::until("a line", DEADLINE, async || Ok(proxy.log().contains("session ended").then_some(())))
        .await
        .unwrap();
    assert_eq!(proxy.put("/v1/log-level", "loud").await.0, 400);
    drop(proxy);
    installation.passed();
}

#[tokio::test]
async fn open_session_is_listed_with_destination_and_stage() {
    let installation = Installation::new("listed").await;
    let proxy = Proxy::start(&installation, "proxy-listed", &[], &[]).await;
    let (client, connection) = installation.connect(&proxy.config()).await.unwrap();
    client.query_one("SELECT repeat('x', 100000)", &[]).await.unwrap();
    for (statement, transaction) in
        [("SELECT 1", "none"), ("BEGIN", "open"), ("SELECT 1 / 0", "failed"), ("ROLLBACK", "none")]
    {
        let _ = client.batch_execute(statement).await;
        // The error arrives before ReadyForQuery.
        let session = wait::until(transaction, DEADLINE, async || {
            let listed: Value = serde_json::from_str(&proxy.get("/v1/sessions").await?.1)?;
            let [session] = &listed["sessions"].as_array().unwrap()[..] else { panic!("{listed}") };
            Ok((session["transaction"] == transaction).then_some(session.clone()))
        });
        let session = session.await.unwrap();
        for (field, expected) in [
            ("endpoint", Value::from("main")),
            ("role", "app".into()),
            ("state", "passing".into()),
            ("pid", proxy.pid().into()),
            ("draining", false.into()),
        ] {
            assert_eq!(session[field], expected, "{statement} {session}");
        }
        let bytes = |field: &str| session[field].as_u64().unwrap();
        assert!((20..10_000).contains(&bytes("bytes_from_client")), "{session}");
        assert!((100_000..200_000).contains(&bytes("bytes_to_client")), "{session}");
        // All phases have ended.
        let phases: f64 =
            session["phases_ms"].as_object().unwrap().values().map(|ms| ms.as_f64().unwrap()).sum();
        assert!(phases > 0.0 && phases <= session["age_ms"].as_f64().unwrap() + 1.0, "{session}");
    }

    drop(client);
    connection.await.unwrap().unwrap();
    proxy.wait_open(0).await;
    drop(proxy);
    installation.passed();
}
