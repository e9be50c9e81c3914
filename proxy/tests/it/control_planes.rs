//! Control planes `file`, `auth_query` and `link`, and the limits and suspends that all control planes share. The HTTP
//! control plane has a file of its own.

use std::fs;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use test_runner::wait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio_postgres::error::SqlState;

use crate::installation::{DEADLINE, Installation, PASSWORD, Setup};

#[tokio::test]
async fn login_and_wake_limits_refuse_with_a_hint() {
    let flags = &["--endpoint-limit", "rate=0.01,burst=3", "--wake-limit", "rate=0.01,burst=1"];
    let installation = Installation::with("limits", &Setup { flags, ..Setup::default() }).await;
    let config = installation.config();
    drop(installation.connect(&config).await.unwrap());
    installation.put_to_sleep().await;
    for (sqlstate, hint) in [("53400", "Try again in"), ("53400", "Try again in"), ("53300", "Try again in")]
    {
        let refused = installation.connect(&config).await.err().unwrap();
        let refused = refused.as_db_error().unwrap();
        assert_eq!(refused.code().code(), sqlstate);
        assert!(refused.hint().unwrap().starts_with(hint), "{refused:?}");
    }
    assert_eq!(installation.starts(), 1);
    installation.passed();
}

/// A file with an error is not used; the previous content stays in use.
#[tokio::test]
async fn file_provider_follows_changes_of_its_file() {
    let installation = Installation::new("reload").await;
    let path = installation.directory().join("endpoints.toml");
    let before = fs::read_to_string(&path).unwrap();
    installation.ask(&installation.uri(), &["SELECT 1"]).await;
    fs::write(&path, "[endpoints.main").unwrap();
    wait::until("the complaint", DEADLINE, async || {
        Ok(installation.log().contains("reload failed, keeping the previous configuration").then_some(()))
    })
    .await
    .unwrap();

    installation.ask(&installation.uri(), &["SELECT 1"]).await;
    let other = before.replace("[endpoints.main]", "[endpoints.other]");
    fs::write(&path, format!("{before}\n{other}")).unwrap();
    installation.proxy.signal(Signal::SIGHUP).unwrap();
    let uri = installation.uri().replace("main.", "other.");
    wait::until("the new endpoint", DEADLINE, async || {
        Ok(installation.psql(&uri, &["SELECT 1"]).await.status.success().then_some(()))
    })
    .await
    .unwrap();
    installation.passed();
}

/// `endpoints.toml` of the `auth_query` control plane.
const AUTH_QUERY: &str = "state_file = \"verifiers.json\"\n[endpoints.main]\naddress = \"127.0.0.1:PORT\"\n\
    start = [\"START\"]\n[endpoints.main.auth_query]\nuser = \"proxy_auth\"\npassword_file = \"proxy_auth.password\"\n";

/// Known roles can log in while the compute sleeps.
#[tokio::test]
async fn auth_query_reads_roles_from_the_compute() {
    let setup = Setup {
        control_plane: "auth_query:DIR/endpoints.toml",
        endpoints: AUTH_QUERY,
        hba: "host all proxy_auth 127.0.0.1/32 scram-sha-256",
        ..Setup::default()
    };
    let write =
        |directory: &std::path::Path| fs::write(directory.join("proxy_auth.password"), "s3cret\n").unwrap();
    let installation = Installation::with_files("auth-query", &setup, write).await;
    let mut config = installation.config();
    let refused = async |config: &tokio_postgres::Config| {
        installation.connect(config).await.err().and_then(|error| error.code().cloned())
    };
    // The compute sleeps, and no role was read from it yet.
    assert_eq!(refused(&config).await, Some(SqlState::INVALID_PASSWORD));
    assert_eq!(installation.starts(), 0);

    installation.start_postgres().await;
    let superuser = installation.postgres.connect("postgres").await.unwrap();
    let columns = "rolname, rolpassword, rolcanlogin, rolvaliduntil";
    superuser
        .batch_execute(&format!(
            "CREATE ROLE proxy_auth LOGIN PASSWORD 's3cret'; GRANT SELECT ({columns}) ON pg_authid TO proxy_auth;
             CREATE ROLE \"o'clock\" LOGIN PASSWORD 'tea'; CREATE ROLE gone LOGIN PASSWORD 'x' VALID UNTIL '2000-01-01'"
        ))
        .await
        .unwrap();
    wait::until("the database to be asked", DEADLINE, async || {
        Ok(refused(&config).await.is_none().then_some(()))
    })
    .await
    .unwrap();
    for (user, password) in
        [("app", "wrong"), ("nobody", "wrong"), ("gone", "x"), ("x' OR rolname = 'app", PASSWORD)]
    {
        let mut wrong = installation.config();
        assert_eq!(
            refused(wrong.user(user).password(password)).await,
            Some(SqlState::INVALID_PASSWORD),
            "{user}"
        );
    }

    // The compute sleeps again, and the role is known now: the client wakes it.
    drop(superuser);
    installation.put_to_sleep().await;
    assert_eq!(refused(&config).await, None);
    assert_eq!(installation.starts(), 2);

    let superuser = installation.postgres.connect("postgres").await.unwrap();
    superuser.batch_execute("ALTER ROLE app PASSWORD 'changed'").await.unwrap();
    let old = config.clone();
    config.password("changed");
    let mut failures = 0;
    wait::until("the new password", DEADLINE, async || {
        let is_in = refused(&config).await.is_none();
        failures += usize::from(!is_in);
        Ok(is_in.then_some(()))
    })
    .await
    .unwrap();
    assert!(failures <= 15, "{failures}");
    assert_eq!(refused(&old).await, Some(SqlState::INVALID_PASSWORD));
    drop(superuser);
    installation.passed();
}

/// With `wake_unauthenticated` a client of an unknown role wakes the compute. The wake limit applies, and each such
/// wake is counted.
#[tokio::test]
async fn wake_unauthenticated_wakes_for_an_unknown_role() {
    let endpoints = format!("{AUTH_QUERY}wake_unauthenticated = true\n");
    let setup = Setup {
        control_plane: "auth_query:DIR/endpoints.toml",
        endpoints: &endpoints,
        flags: &["--wake-limit", "rate=0.01,burst=1"],
        hba: "host all proxy_auth 127.0.0.1/32 scram-sha-256",
        ..Setup::default()
    };

    let write =
        |directory: &std::path::Path| fs::write(directory.join("proxy_auth.password"), "s3cret\n").unwrap();
    let installation = Installation::with_files("stranger", &setup, write).await;
    installation.start_postgres().await;
    let superuser = installation.postgres.connect("postgres").await.unwrap();
    superuser
        .batch_execute(
            "CREATE ROLE proxy_auth LOGIN PASSWORD 's3cret';
             GRANT SELECT (rolname, rolpassword, rolcanlogin, rolvaliduntil) ON pg_authid TO proxy_auth",
        )
        .await
        .unwrap();
    drop(superuser);
    installation.put_to_sleep().await;
    installation.connect(&installation.config()).await.unwrap();
    // One start was made by the test itself.
    assert_eq!(installation.starts(), 2);
    let metrics = installation.http("/metrics").await;
    assert!(metrics.contains("holdfast_proxy_wakes_total{result=\"woken\"} 1\n"), "{metrics}");
    // The wake limit refuses the next one.
    installation.wait_no_sessions().await;
    installation.put_to_sleep().await;
    let refused = installation.connect(&installation.config()).await.err().unwrap();
    assert_eq!(refused.code(), Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED));
    installation.passed();
}

#[tokio::test]
async fn a_person_logs_in_with_a_browser() {
    let setup = Setup { control_plane: "link:DIR/link.toml", ..Setup::default() };
    let write = |directory: &std::path::Path| {
        fs::write(directory.join("link.toml"), "uri = \"https://console.test/login/\"\n").unwrap();
    };
    let installation = Installation::with_files("link", &setup, write).await;
    installation.start_postgres().await;
    let uri = format!(
        "postgresql://me@localhost:{}/mine?hostaddr=127.0.0.1&sslmode=require",
        installation.address.port()
    );
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
    let mgmt = installation.mgmt.unwrap();
    let console = format!("postgresql://console@{mgmt}/any?sslmode=disable");
    let report = |number: &str| -> Value {
        let granted = json!({"host": "127.0.0.1", "port": installation.postgres.port, "dbname": "app", "user": "app",
            "password": PASSWORD, "aux": {}});
        json!({"session_id": number, "result": {"Success": granted}})
    };
    let wrong = installation.psql(&console, &[&report("0000").to_string()]).await;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no client waits for this session_id"));
    assert_eq!(installation.ask(&console, &[&report(&number).to_string()]).await, "ok");
    let mut output = String::new();
    person.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
    assert_eq!(output.trim(), "appapp");
    assert!(person.wait().await.unwrap().success());
    assert!(!installation.log().contains(PASSWORD));
    installation.passed();
}

#[tokio::test]
async fn idle_compute_is_suspended_and_woken_again() {
    let pid = "DIR/data/postmaster.pid";
    let stop = format!("kill -INT $(head -1 {pid}); while test -e {pid}; do sleep 0.1; done");
    let endpoint = format!("suspend_after_seconds = 2\nstop = [\"/bin/sh\", \"-c\", \"{stop}\"]\n");
    let installation = Installation::with_endpoint("suspend", &endpoint).await;
    let (client, _connection) = installation.connect(&installation.config()).await.unwrap();
    // The query takes longer than `suspend_after_seconds`, but a session is open.
    client.batch_execute("SELECT pg_sleep(4)").await.unwrap();
    let asleep = async || Ok(installation.postmaster().is_none().then_some(()));
    assert!(asleep().await.unwrap().is_none());
    drop(client);
    wait::until("the database to be stopped", DEADLINE, asleep).await.unwrap();
    wait::until("the proxy to know it", DEADLINE, async || {
        let metrics = installation.http("/metrics").await;
        Ok(metrics.contains("holdfast_proxy_suspends_total{result=\"stopped\"} 1").then_some(()))
    })
    .await
    .unwrap();

    assert_eq!(installation.ask(&installation.uri(), &["SELECT current_user"]).await, "app");
    assert_eq!(installation.starts(), 2);
    wait::until("the compute to be stopped again", DEADLINE, asleep).await.unwrap();
    installation.passed();
}
