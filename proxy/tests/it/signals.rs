//! Signals: effect and delay of each. `cargo nextest run -p proxy signals --no-capture` prints the table of the README
//! with the times of this machine.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_runner::wait;
use tokio_postgres::error::SqlState;

use crate::installation::{DEADLINE, Installation};
use crate::proxy_process::Proxy;

/// One second.
const SECOND: Duration = Duration::from_secs(1);
/// Delay that a busy machine may add.
const SLACK: Duration = Duration::from_secs(4);
/// Time limit for an immediate end, spans included.
const AT_ONCE: Duration = Duration::from_secs(2);

#[expect(clippy::print_stdout, reason = "the table is the output of this test")]
fn row(signal: &str, what: &str, within: Duration) {
    println!("| {signal} | {what} | {:.2} s |", within.as_secs_f64());
}

#[tokio::test]
async fn sigterm_ends_one_thing_after_the_other() {
    let installation = Installation::new("sigterm").await;
    let flags = ["--drain-grace", "3", "--drain-idle", "4", "--drain-timeout", "8"];
    let mut proxy = Proxy::start(&installation, "proxy-drained", &flags, &[]).await;
    let config = proxy.config();
    let (idle, idle_connection) = installation.connect(&config).await.unwrap();
    let (busy, busy_connection) = installation.connect(&config).await.unwrap();
    let (stuck, _connection) = installation.connect(&config).await.unwrap();
    let (slow, _connection) = installation.connect(&config).await.unwrap();
    let (cancel, late_cancel) = (slow.cancel_token(), stuck.cancel_token());
    let (watcher, _connection) = installation.connect(&installation.config()).await.unwrap();
    idle.batch_execute("SELECT 1").await.unwrap();
    busy.batch_execute("BEGIN").await.unwrap();
    let long = tokio::spawn(async move { stuck.batch_execute("SELECT pg_sleep(1000)").await.unwrap_err() });
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(1%' \
                   AND pid <> pg_backend_pid()";
    let slow = tokio::spawn(async move { slow.batch_execute("SELECT pg_sleep(2000)").await.unwrap_err() });
    let running = running.replace("pg_sleep(1%", "pg_sleep(%");
    let count = async || watcher.query_one(&running, &[]).await.unwrap().get::<_, i64>(0);
    wait::until("both queries", DEADLINE, async || Ok((count().await == 2).then_some(()))).await.unwrap();
    assert_eq!(proxy.get("/readyz").await.unwrap().0, 200);

    let begin = Instant::now();
    proxy.signal(Signal::SIGTERM);
    let draining = wait::until("readiness to fail", DEADLINE, async || {
        Ok((proxy.get("/readyz").await?.0 == 503).then(|| begin.elapsed()))
    });
    let unready = draining.await.unwrap();
    let refused = installation.connect(&config).await.err().unwrap();
    assert_eq!(refused.code(), Some(&SqlState::CANNOT_CONNECT_NOW), "{refused:?}");
    let refused = begin.elapsed();
    cancel.cancel_query(installation.tls()).await.unwrap();
    assert_eq!(slow.await.unwrap().code(), Some(&SqlState::QUERY_CANCELED));
    let canceled = begin.elapsed();
    let closed = wait::until("the port to close", DEADLINE, async || {
        Ok(TcpStream::connect(proxy.address).is_err().then(|| begin.elapsed()))
    });
    let closed = closed.await.unwrap();
    // No process accepts cancel requests any more.
    late_cancel.cancel_query(installation.tls()).await.unwrap_err();
    let told = idle_connection.await.unwrap().unwrap_err();
    let idle_ended = begin.elapsed();
    assert_eq!(told.code(), Some(&SqlState::ADMIN_SHUTDOWN));
    assert_eq!(busy.query_one("SELECT 42", &[]).await.unwrap().get::<_, i32>(0), 42);
    busy.batch_execute("COMMIT").await.unwrap();
    assert_eq!(busy_connection.await.unwrap().unwrap_err().code(), Some(&SqlState::ADMIN_SHUTDOWN));
    assert_eq!(long.await.unwrap().code(), Some(&SqlState::ADMIN_SHUTDOWN));
    let cut_off = begin.elapsed();
    let (status, ended) = proxy.ended().await;
    let ended = ended - begin;
    assert!(status.success(), "{}", proxy.log());
    wait::until("the query to end", DEADLINE, async || Ok((count().await == 0).then_some(()))).await.unwrap();

    let name = "SIGTERM";
    for (what, seen, from) in [
        ("`/readyz` answers 503", unready, Duration::ZERO),
        ("new sessions get 57P03", refused, Duration::ZERO),
        ("cancel requests are passed on", canceled, Duration::ZERO),
        ("ports close (`--drain-grace 3`)", closed, 3 * SECOND),
        ("idle sessions get 57P01 (`--drain-idle 4`)", idle_ended, 4 * SECOND),
        ("the others get 57P01, their queries are cancelled (`--drain-timeout 8`)", cut_off, 8 * SECOND),
        ("the process ends with 0", ended, 8 * SECOND),
    ] {
        row(name, what, seen);
        assert!(seen >= from && seen < from + SLACK, "{what}: {seen:?}");
    }
    installation.passed();
}

#[tokio::test]
async fn sigterm_waits_for_the_last_transaction() {
    let installation = Installation::new("sigterm-last").await;
    let mut proxy = Proxy::start(&installation, "proxy-last", &["--drain-idle", "1"], &[]).await;
    let (client, connection) = installation.connect(&proxy.config()).await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    let begin = Instant::now();
    proxy.signal(Signal::SIGTERM);
    // Without `--drain-grace` the port closes at once.
    let closed = wait::until("the port to close", DEADLINE, async || {
        Ok(TcpStream::connect(proxy.address).is_err().then(|| begin.elapsed()))
    });
    let closed = closed.await.unwrap();
    client.batch_execute("SELECT pg_sleep(3)").await.unwrap();
    assert!(proxy.is_alive());
    let begin = Instant::now();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(connection.await.unwrap().unwrap_err().code(), Some(&SqlState::ADMIN_SHUTDOWN));
    let told = begin.elapsed();
    let (status, ended) = proxy.ended().await;
    let ended = ended - begin;
    row("SIGTERM", "ports close", closed);
    row("SIGTERM", "a session gets 57P01 at the end of its transaction", told);
    row("SIGTERM", "the process ends with 0 after its last session", ended);
    assert!(status.success(), "{}", proxy.log());
    for seen in [closed, told, ended] {
        assert!(seen < SLACK, "{seen:?}");
    }
    installation.passed();
}

/// The trace collector accepts connections and never answers.
#[tokio::test]
async fn second_sigterm_and_sigint_end_at_once() {
    let installation = Installation::new("at-once").await;
    // Accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    for (name, signals) in [
        ("SIGTERM, SIGTERM", &[Signal::SIGTERM, Signal::SIGTERM][..]),
        ("SIGINT", &[Signal::SIGINT]),
        ("SIGQUIT", &[Signal::SIGQUIT]),
    ] {
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str())];
        let mut proxy = Proxy::start(&installation, "proxy-at-once", &[], &environment).await;
        let (client, connection) = installation.connect(&proxy.config()).await.unwrap();
        client.batch_execute("BEGIN").await.unwrap();
        let mut begin = Instant::now();
        for signal in signals {
            // Two signals at the same time would count as one.
            begin = Instant::now();
            proxy.signal(*signal);
            wait::until("the signal to be seen", DEADLINE, async || {
                Ok(proxy.log().contains("shutting down").then_some(()))
            })
            .await
            .unwrap();
        }
        let _ = connection.await.unwrap();
        let cut_off = begin.elapsed();
        let (status, ended) = proxy.ended().await;
        let ended = ended - begin;
        row(name, "sessions are cut off", cut_off);
        row(name, "the process ends with 0, spans flushed or given up", ended);
        assert!(status.success() && ended < AT_ONCE + SLACK, "{ended:?} {}", proxy.log());
        let log = proxy.log();
        let line = log.lines().find(|line| line.contains("session cut off")).expect("a line for the session");
        assert!(line.contains("endpoint=\"main\"") && line.contains("outcome=\"cut_off\""), "{line}");
        assert!(log.contains("ended drained=Interrupted"), "{log}");
    }
    installation.passed();
}

#[tokio::test]
async fn sighup_takes_all_files_or_none_of_them() {
    let installation = Installation::new("sighup").await;
    let endpoints = installation.directory().join("endpoints.toml");
    let right = fs::read_to_string(&endpoints).unwrap();
    let limits = installation.directory().join("limits.toml");
    fs::write(&limits, "max_connections = 1").unwrap();
    let flags = ["--limits-file", limits.to_str().unwrap()];
    let proxy = Proxy::start(&installation, "proxy-reloads", &flags, &[]).await;
    let uri = proxy.uri(&installation);
    assert_eq!(installation.ask(&uri, &["SELECT 1"]).await, "1");
    let reload = async |path: &std::path::Path, content: &str, said: &str| {
        fs::write(path, content).unwrap();
        let (before, begin) = (proxy.log().matches(said).count(), Instant::now());
        proxy.signal(Signal::SIGHUP);
        wait::until(said, DEADLINE, async || {
            Ok((proxy.log().matches(said).count() > before).then(|| begin.elapsed()))
        })
        .await
        .unwrap()
    };

    let refused = reload(&endpoints, "[endpoints", "reload failed, keeping the previous configuration").await;
    proxy.wait_open(0).await;
    assert_eq!(installation.ask(&uri, &["SELECT 1"]).await, "1");
    proxy.wait_open(0).await;
    let (_first, _connection) = installation.connect(&proxy.config()).await.unwrap();
    let second = async || {
        proxy.wait_open(1).await;
        installation.connect(&proxy.config()).await.err().and_then(|error| error.code().cloned())
    };
    assert_eq!(second().await, Some(SqlState::TOO_MANY_CONNECTIONS));
    // One invalid file is enough to refuse the reload.
    reload(&limits, "max_connections = 2", "reload failed, keeping the previous configuration").await;
    assert_eq!(second().await, Some(SqlState::TOO_MANY_CONNECTIONS));
    reload(&endpoints, &right, "configuration reloaded").await;
    assert_eq!(second().await, None);
    reload(&limits, "max_connections = 1\nmax = 7", "reload failed, keeping the previous configuration")
        .await;
    assert_eq!(second().await, None);
    proxy.wait_open(1).await;
    let other =
        right.replace("[endpoints.main]", "[endpoints.other]").replace("endpoints.main.", "endpoints.other.");
    fs::write(&endpoints, &other).unwrap();
    let taken = reload(&limits, "max_connections = 3", "configuration reloaded").await;
    let gone = installation.psql(&uri, &["SELECT 1"]).await;
    assert!(!gone.status.success());
    proxy.wait_open(1).await;
    assert_eq!(installation.ask(&uri.replace("main.", "other."), &["SELECT 1"]).await, "1");
    row("SIGHUP", "certificates, endpoints, token and limits are read again", taken);
    row("SIGHUP", "a wrong file is logged, and the previous configuration stays", refused);
    drop(proxy);
    installation.passed();
}
