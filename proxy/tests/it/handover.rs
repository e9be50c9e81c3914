//! Handover: a new proxy process replaces the old one, and clients do not notice.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use test_runner::wait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio_postgres::error::SqlState;

use crate::installation::{DEADLINE, Installation, PASSWORD, Setup};
use crate::proxy_process::{Proxy, config_for};

/// Number of processes that follow each other.
const REPLACEMENTS: usize = 10;

/// No connection, no transaction and no cancel request fails while ten processes follow each other.
#[tokio::test]
async fn handover_ten_times_loses_nothing() {
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
    fs::write(&script, "SELECT 1;\n").unwrap();
    let pgbench = tokio::process::Command::new(installation.postgres.tools.postgres("pgbench"))
        .args(["-n", "-C", "-c", "4", "-T", "600", "-P", "1", "-f", script.to_str().unwrap(), &uri])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();

    let mut old = Vec::new();
    for number in 1..=REPLACEMENTS {
        served(&current, 20).await;
        let next = Proxy::start(&installation, &format!("proxy-{number}"), &flags, &[]).await;
        assert_eq!(next.address, address);
        old.push(std::mem::replace(&mut current, next));
        // SIGTERM to a process that was replaced, as an installer may send it, does no harm.
        if number % 2 == 0 {
            old.last().unwrap().signal(Signal::SIGTERM);
        }
    }
    served(&current, 20).await;

    // The process of the session is several handovers old; its cancel request is passed to it.
    token.cancel_query(installation.tls()).await.unwrap();
    assert_eq!(sleeping.await.unwrap().code(), Some(&SqlState::QUERY_CANCELED));
    wait::until("the cancel request to be passed on", DEADLINE, async || {
        Ok(current.log().contains("passed_to_peer").then_some(()))
    })
    .await
    .unwrap();
    // The other processes have no session left.
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
    // Ended processes leave no socket behind.
    assert_eq!(sockets(&installation), 2);
    drop(current);
    installation.passed();
}

/// Number of handover sockets, the link to the current one included.
fn sockets(installation: &Installation) -> usize {
    let names = fs::read_dir(installation.directory()).unwrap();
    let sockets = names.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().starts_with("handover")
    });
    sockets.count()
}

/// Waits until this process has served `count` connections.
async fn served(proxy: &Proxy, count: u64) {
    wait::until("connections of pgbench", DEADLINE, async || {
        let (_, metrics) = proxy.get("/metrics").await?;
        let line = "holdfast_proxy_connections_closed_total{reason=\"client_closed\"} ";
        let ended: u64 = metrics.lines().find_map(|one| one.strip_prefix(line)).unwrap_or("0").parse()?;
        Ok((ended >= count).then_some(()))
    })
    .await
    .unwrap();
}

/// Stops pgbench, which has no other way to end early.
fn stop(pgbench: &tokio::process::Child) {
    let pid = nix::unistd::Pid::from_raw(pgbench.id().expect("pgbench still runs").try_into().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
}

#[tokio::test]
async fn handover_to_a_failing_process_costs_nothing() {
    let installation = Installation::new("handover-fails").await;
    let socket = installation.directory().join("handover");
    let flags = ["--handover-socket", socket.to_str().unwrap()];
    let mut old = Proxy::start(&installation, "proxy-old", &flags, &[]).await;
    // The new process fails at a taken port, after it has received the sockets.
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
async fn handover_survives_a_killed_predecessor() {
    let installation = Installation::new("handover-killed").await;
    let socket = installation.directory().join("handover");
    let flags = ["--handover-socket", socket.to_str().unwrap()];
    let mut killed = Proxy::start(&installation, "proxy-killed", &flags, &[]).await;
    killed.signal(Signal::SIGKILL);
    assert!(!killed.ended().await.0.success());
    let new = Proxy::start(&installation, "proxy-new", &flags, &[]).await;
    assert_eq!(installation.ask(&new.uri(&installation), &["SELECT 1"]).await, "1");
    new.wait_open(0).await;
    assert_eq!(sockets(&installation), 2);
    drop(new);
    installation.passed();
}

#[tokio::test]
async fn handover_suspends_only_computes_that_no_process_uses() {
    let pid = "DIR/data/postmaster.pid";
    let stop = format!("kill -INT $(head -1 {pid}); while test -e {pid}; do sleep 0.1; done");
    let endpoint = format!("suspend_after_seconds = 2\nstop = [\"/bin/sh\", \"-c\", \"{stop}\"]\n");
    let installation = Installation::with_endpoint("handover-idle", &endpoint).await;
    let socket = installation.directory().join("handover");
    let flags = ["--handover-socket", socket.to_str().unwrap()];
    let mut old = Proxy::start(&installation, "proxy-old", &flags, &[]).await;
    let (long, _connection) = installation.connect(&old.config()).await.unwrap();
    long.batch_execute("BEGIN").await.unwrap();
    let mut new = Proxy::start(&installation, "proxy-new", &flags, &[]).await;
    // In the new process the compute has no session for longer than `suspend_after_seconds`.
    assert_eq!(installation.ask(&new.uri(&installation), &["SELECT 1"]).await, "1");
    long.batch_execute("SELECT pg_sleep(5)").await.unwrap();
    wait::until("the session of the old process", DEADLINE, async || {
        let (_, listed) = new.get("/v1/sessions").await?;
        let listed: Value = serde_json::from_str(&listed)?;
        let [session] = &listed["sessions"].as_array().unwrap()[..] else { return Ok(None) };
        assert_eq!((&session["pid"], &session["draining"]), (&json!(old.pid()), &json!(true)), "{listed}");
        assert_eq!((&session["endpoint"], &session["transaction"]), (&json!("main"), &json!("open")));
        Ok(Some(()))
    })
    .await
    .unwrap();

    long.batch_execute("COMMIT").await.unwrap();
    assert!(old.ended().await.0.success());
    let asleep = async || Ok(installation.postmaster().is_none().then_some(()));
    wait::until("the database to be stopped", DEADLINE, asleep).await.unwrap();
    // Only a process that has exited has used the compute since its wake.
    assert_eq!(installation.ask(&new.uri(&installation), &["SELECT 1"]).await, "1");
    let third = Proxy::start(&installation, "proxy-third", &flags, &[]).await;
    assert!(new.ended().await.0.success());
    wait::until("the database to be stopped again", DEADLINE, asleep).await.unwrap();
    drop(third);
    installation.passed();
}

/// The login begins before the handover and is confirmed after it.
#[tokio::test]
async fn handover_keeps_a_pending_browser_login() {
    let setup = Setup { control_plane: "link:DIR/link.toml", ..Setup::default() };
    let write = |directory: &std::path::Path| {
        fs::write(directory.join("link.toml"), "uri = \"https://console.test/login/\"\n").unwrap();
    };
    let installation = Installation::with_files("handover-link", &setup, write).await;
    installation.start_postgres().await;
    let directory = installation.directory();
    let (socket, plane) = (directory.join("handover"), format!("link:{}/link.toml", directory.display()));
    let flags = ["--control-plane", &plane, "--handover-socket", socket.to_str().unwrap()];
    let old = Proxy::start(&installation, "proxy-old", &flags, &[]).await;
    let uri = old.uri(&installation).replace("main.db.test", "localhost").replace("verify-full", "require");
    let psql = installation.postgres.tools.postgres("psql");
    let mut person = tokio::process::Command::new(&psql)
        .args(["-X", "-A", "-t", "-d", &uri, "-c", "SELECT current_user || current_database()"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(person.stderr.take().unwrap()).lines();
    let number = loop {
        let line = shown.next_line().await.unwrap().expect("the address");
        if let Some(number) = line.trim().strip_prefix("https://console.test/login/") {
            break number.to_owned();
        }
    };
    let new = Proxy::start(&installation, "proxy-new", &flags, &[]).await;
    wait::until("the old one to close its ports", DEADLINE, async || {
        Ok(old.log().contains("handed over to another process").then_some(()))
    })
    .await
    .unwrap();

    let told = fs::read_to_string(directory.join("proxy-new.address")).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    let console = format!("postgresql://console@{}/any?sslmode=disable", told["mgmt"].as_str().unwrap());
    let report = |number: &str| {
        let granted = json!({"host": "127.0.0.1", "port": installation.postgres.port, "dbname": "app", "user": "app",
            "password": PASSWORD, "aux": {}});
        json!({"session_id": number, "result": {"Success": granted}}).to_string()
    };
    let wrong = installation.psql(&console, &[&report("0000")]).await;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no client waits for this session_id"));
    assert_eq!(installation.ask(&console, &[&report(&number)]).await, "ok");
    let mut output = String::new();
    person.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
    assert_eq!(output.trim(), "appapp");
    assert!(!old.log().contains(PASSWORD) && !new.log().contains(PASSWORD));
    drop((old, new));
    installation.passed();
}

#[tokio::test]
async fn handover_passes_on_the_supervisors_socket() {
    let installation = Installation::new("activation").await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for number in 0..3 {
        // The client waits in the queue of the socket while no proxy runs.
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
