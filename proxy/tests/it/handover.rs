//! One proxy replaces another: nobody notices.

use std::process::Command;

use nix::sys::signal::Signal;
use test_runner::wait;
use tokio_postgres::error::SqlState;

use crate::program::{Proxy, config_for};
use crate::support::{Installation, PATIENCE};

const REPLACEMENTS: usize = 10;

#[tokio::test]
async fn ten_replacements_lose_no_connection_no_transaction_and_no_cancel_request() {
    let installation = Installation::new("handover").await;
    let socket = installation.directory().join("handover");
    let flags = [
        "--handover-socket",
        socket.to_str().unwrap(),
        "--drain-idle",
        "1",
        "--log-level",
        "info,proxy=debug",
    ];
    let mut current = Proxy::start(&installation, "proxy-0", &flags, &[]).await;
    let (uri, address) = (current.uri(&installation), current.address);
    let (long, long_connection) = installation.connect(&current.config()).await.unwrap();
    long.batch_execute("CREATE TABLE t (x int); BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let (slow, _connection) = installation.connect(&current.config()).await.unwrap();
    let token = slow.cancel_token();
    let sleeping =
        tokio::spawn(async move { slow.batch_execute("SELECT pg_sleep(1000)").await.unwrap_err() });

    let script = installation.directory().join("select.sql");
    std::fs::write(&script, "SELECT 1;\n").unwrap();
    let pgbench = tokio::process::Command::new(installation.postgres.tools.postgres("pgbench"))
        .args(["-n", "-C", "-c", "4", "-T", "600", "-P", "1", "-f", script.to_str().unwrap(), &uri])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();

    let mut old = Vec::new();
    for number in 1..=REPLACEMENTS {
        served(&current, 20).await;
        let next = Proxy::start(&installation, &format!("proxy-{number}"), &flags, &[]).await;
        assert_eq!(next.address, address);
        old.push(std::mem::replace(&mut current, next));
        // An installer that stops what it has replaced does no harm.
        if number % 2 == 0 {
            old.last().unwrap().signal(Signal::SIGTERM);
        }
    }
    served(&current, 20).await;

    // The session is two hands away, and so is its cancel request.
    token.cancel_query(installation.tls()).await.unwrap();
    assert_eq!(sleeping.await.unwrap().code(), Some(&SqlState::QUERY_CANCELED));
    wait::until("the cancel request to be passed on", PATIENCE, async || {
        Ok(current.log().contains("passed_to_peer").then_some(()))
    })
    .await
    .unwrap();
    // All others have nothing left to do.
    for replaced in old.iter_mut().skip(1) {
        assert!(replaced.ended().await.0.success());
    }
    assert!(old[0].is_alive());
    long.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.unwrap();
    let told = long_connection.await.unwrap().unwrap_err();
    assert_eq!(told.code(), Some(&SqlState::ADMIN_SHUTDOWN));
    assert!(old[0].ended().await.0.success());
    assert_eq!(installation.ask(&uri, &["SELECT count(*) FROM t"]).await, "2");

    stop(&pgbench);
    let output = pgbench.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("progress:"), "{said}");
    for word in ["rror", "abort", "failed:", "FATAL", "terminat"] {
        let harmless = "number of failed transactions: 0";
        assert!(!said.replace(harmless, "").replace(", 0 failed", "").contains(word), "{word}: {said}");
    }
    // Nothing is left of those that ended.
    let names = std::fs::read_dir(installation.directory()).unwrap();
    let left = names.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().starts_with("handover")
    });
    assert_eq!(left.count(), 2);
    drop(current);
    installation.passed();
}

/// Waits until this process has served so many connections.
async fn served(proxy: &Proxy, count: u64) {
    wait::until("connections of pgbench", PATIENCE, async || {
        let (_, metrics) = proxy.get("/metrics").await?;
        let line = "holdfast_proxy_connections_ended_total{how=\"client_closed\"} ";
        let ended: u64 = metrics.lines().find_map(|one| one.strip_prefix(line)).unwrap_or("0").parse()?;
        Ok((ended >= count).then_some(()))
    })
    .await
    .unwrap();
}

/// pgbench has no other way to end early.
fn stop(pgbench: &tokio::process::Child) {
    let pid =
        nix::unistd::Pid::from_raw(pgbench.id().expect("it has not ended by itself").try_into().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
}

#[tokio::test]
async fn a_new_process_that_does_not_come_up_costs_nothing() {
    let installation = Installation::new("handover-fails").await;
    let socket = installation.directory().join("handover");
    let flags = ["--handover-socket", socket.to_str().unwrap()];
    let mut old = Proxy::start(&installation, "proxy-old", &flags, &[]).await;
    // A port that is taken: it has the sockets already when it fails.
    let taken = installation.address.to_string();
    let endpoints = installation.directory().join("endpoints.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_proxy"))
        .args(["--control-plane", &format!("file:{}", endpoints.display()), "--listen", &taken])
        .args(flags)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(&format!("--listen {taken}")), "{said}");
    assert_eq!(installation.ask(&old.uri(&installation), &["SELECT 1"]).await, "1");
    assert_eq!(old.get("/readyz").await.unwrap().0, 200);
    let new = Proxy::start(&installation, "proxy-new", &flags, &[]).await;
    assert!(old.ended().await.0.success());
    assert_eq!(installation.ask(&new.uri(&installation), &["SELECT 1"]).await, "1");
    drop(new);
    installation.passed();
}

#[tokio::test]
async fn a_socket_of_the_supervisor_goes_from_process_to_process() {
    let installation = Installation::new("activation").await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for number in 0..3 {
        // Waits in the queue while nobody is there.
        let (config, tls) = (config_for(address), installation.tls());
        let client = tokio::spawn(async move {
            let (client, connection) = config.connect(tls).await?;
            tokio::spawn(connection);
            client.batch_execute("SELECT 1").await
        });
        let passed = listener.try_clone().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "export LISTEN_PID=$$; exec \"$@\" 3<&0 0</dev/null", "sh"]);
        shell.arg(env!("CARGO_BIN_EXE_proxy")).stdin(std::os::fd::OwnedFd::from(passed));
        shell.envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "pg")]);
        let mut proxy = Proxy::start_by(&installation, &format!("proxy-{number}"), shell).await;
        assert_eq!(proxy.address, address);
        client.await.unwrap().unwrap();
        proxy.signal(Signal::SIGTERM);
        assert!(proxy.ended().await.0.success());
    }
    installation.passed();
}
