//! Every kind of control plane, with the real program in front of a real PostgreSQL.

use std::fs;
use std::num::NonZeroU32;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use futures::future::join_all;
use nix::sys::signal::Signal;
use scram::Verifier;
use serde::Deserialize;
use serde_json::{Value, json};
use test_runner::wait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::error::SqlState;

use crate::support::{Installation, PASSWORD, PATIENCE, Setup, verifier};

/// Clients that come at the same time.
const CROWD: usize = 100;

/// A service that manages one database.
#[derive(Default)]
pub(crate) struct Service {
    /// The port of PostgreSQL and the command that starts it.
    pub(crate) database: OnceLock<(u16, std::path::PathBuf)>,
    /// What the last question came with.
    pub(crate) authorization: Mutex<String>,
    /// Of role `app`, when it is not the usual one.
    verifier: Mutex<Option<Verifier>>,
    access_calls: AtomicUsize,
    wake_calls: AtomicUsize,
}

impl Service {
    /// Its configuration, once it listens.
    pub(crate) async fn listen(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("url = \"http://{}/api\"\n", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer).with_state(Arc::clone(self));
        tokio::spawn(async { axum::serve(listener, router).await });
        url
    }

    /// Who may come in, and where it is.
    fn calls(&self) -> [usize; 2] {
        [&self.access_calls, &self.wake_calls].map(|calls| calls.load(Ordering::Relaxed))
    }
}

#[derive(Deserialize)]
struct Asked {
    endpointish: String,
    role: Option<String>,
}

async fn answer(
    State(service): State<Arc<Service>>,
    uri: Uri,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> (StatusCode, String) {
    let is_wake = uri.path() == "/api/wake_compute";
    let calls = if is_wake { &service.wake_calls } else { &service.access_calls };
    calls.fetch_add(1, Ordering::Relaxed);
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    *service.authorization.lock().unwrap() = authorization.unwrap_or_default();
    if asked.endpointish != "main" {
        let details = json!({"error_info": {"reason": "ENDPOINT_NOT_FOUND"}});
        let error = json!({"error": "x", "status": {"code": "c", "message": "m", "details": details}});
        return (StatusCode::NOT_FOUND, error.to_string());
    }
    let answer = if is_wake {
        let (port, start) = service.database.get().unwrap();
        if TcpStream::connect(("127.0.0.1", *port)).await.is_err() {
            assert!(tokio::process::Command::new(start).status().await.unwrap().success());
        }
        json!({"address": format!("127.0.0.1:{port}"), "aux": {}})
    } else {
        let is_known = asked.role.as_deref() == Some("app");
        let verifier = service.verifier.lock().unwrap().clone().unwrap_or_else(verifier);
        let secret = if is_known { verifier.to_string() } else { String::new() };
        json!({"role_secret": secret, "project_id": "shop"})
    };
    (StatusCode::OK, answer.to_string())
}

/// A hundred clients at once cost one lookup; an endpoint that does not exist costs one lookup too.
#[tokio::test]
async fn http_provider_is_asked_once_per_crowd() {
    let service = Arc::<Service>::default();
    let url = service.listen().await;
    let flags = &["--access-rules-cache", "size=100,ttl=1m,negative_ttl=10m"];
    let setup = Setup { control_plane: "http:DIR/http.toml", flags, ..Setup::default() };
    let write = |directory: &std::path::Path| fs::write(directory.join("http.toml"), url).unwrap();
    let installation = Installation::with_files("http", &setup, write).await;
    let start = installation.directory().join("start.sh");
    service.database.set((installation.postgres.port, start)).unwrap();

    let config = installation.config();
    let clients = join_all((0..CROWD).map(|_| installation.connect(&config))).await;
    let clients: Vec<_> = clients.into_iter().map(|client| client.expect("served")).collect();
    let calls = || service.calls();
    assert_eq!((calls(), installation.starts()), ([1, 1], 1));
    drop(clients);

    for (user, sqlstate) in [("app", SqlState::INVALID_PASSWORD), ("nobody", SqlState::INVALID_PASSWORD)] {
        let mut wrong = installation.config();
        let refused = installation.connect(wrong.user(user).password("wrong")).await.err().unwrap();
        assert_eq!(refused.code(), Some(&sqlstate), "{user}");
    }
    let before = calls();
    for user in ["app", "nobody", "app"] {
        let uri = installation.uri().replace("main.", "none.").replace("app:", &format!("{user}:"));
        let refused = installation.psql(&uri, &["SELECT 1"]);
        let said = String::from_utf8_lossy(&refused.await.stderr).into_owned();
        assert!(said.contains("endpoint \"none\" is not known"), "{said}");
    }
    assert_eq!(calls(), [before[0] + 1, before[1]]);
    installation.passed();
}

/// A database that moved away without an invalidation costs one failed connect.
#[tokio::test]
async fn invalidation_makes_the_proxy_look_up_again() {
    let service = Arc::<Service>::default();
    let url = service.listen().await;
    let setup = Setup { control_plane: "http:DIR/http.toml", ..Setup::default() };
    let write = |directory: &std::path::Path| fs::write(directory.join("http.toml"), url).unwrap();
    let installation = Installation::with_files("caches", &setup, write).await;
    let start = installation.directory().join("start.sh");
    service.database.set((installation.postgres.port, start)).unwrap();
    let mut config = installation.config();
    for _ in 0..2 {
        installation.connect(&config).await.unwrap();
    }
    assert_eq!(service.calls(), [1, 1]);

    let brush = Verifier::from_password("brush", b"sixteen bytes of", NonZeroU32::new(64).unwrap());
    let superuser = installation.postgres.connect("postgres").await.unwrap();
    superuser.batch_execute(&format!("ALTER ROLE app PASSWORD '{brush}'")).await.unwrap();
    *service.verifier.lock().unwrap() = Some(brush);
    for (which, dropped) in [
        (r#"{"project": "shop", "role": "app"}"#, r#"{"compute":0,"role_secret":1,"access_rules":0}"#),
        (r#"{"endpoint": "none"}"#, r#"{"compute":0,"role_secret":0,"access_rules":0}"#),
        (r#"{"project": "shop"}"#, r#"{"compute":1,"role_secret":0,"access_rules":1}"#),
    ] {
        assert_eq!(installation.post("/v1/invalidate", which).await, (200, dropped.to_owned()), "{which}");
    }
    for (which, said) in
        [("{}", "name an endpoint"), (r#"{"endpoints": "main"}"#, "unknown field `endpoints`")]
    {
        let (status, text) = installation.post("/v1/invalidate", which).await;
        assert!(status == 422 && text.contains(said), "{status} {text}");
    }
    let refused = installation.connect(&config).await.err().unwrap();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD));
    installation.connect(config.password("brush")).await.unwrap();
    assert_eq!(service.calls(), [2, 2]);

    drop(superuser);
    installation.put_to_sleep().await;
    installation.connect(&config).await.unwrap();
    assert_eq!((service.calls(), installation.starts()), ([2, 3], 2));
    let metrics = installation.http("/metrics").await;
    for line in [
        r#"compute_connection_failures_total{kind="cached"} 1"#,
        r#"cache_spurious_hits_total{cache="compute"} 1"#,
        r#"cache_evictions_total{cache="compute",reason="stale"} 1"#,
        r#"cache_evictions_total{cache="role_secret",reason="invalidated"} 1"#,
        r#"cache_lookups_total{cache="compute",result="hit"} 2"#,
        r#"cache_lookups_total{cache="compute",result="miss"} 2"#,
        r#"cache_entries{cache="compute"} 1"#,
    ] {
        let line = format!("holdfast_proxy_{line}");
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    installation.passed();
}

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

/// A file with an error is not used; the previous content stays.
#[tokio::test]
async fn file_provider_follows_changes_of_its_file() {
    let installation = Installation::new("reload").await;
    let path = installation.directory().join("endpoints.toml");
    let before = fs::read_to_string(&path).unwrap();
    installation.ask(&installation.uri(), &["SELECT 1"]).await;
    fs::write(&path, "[endpoints.main").unwrap();
    wait::until("the complaint", PATIENCE, async || {
        Ok(installation.log().contains("cannot be used").then_some(()))
    })
    .await
    .unwrap();
    installation.ask(&installation.uri(), &["SELECT 1"]).await;
    let other = before.replace("[endpoints.main]", "[endpoints.other]");
    fs::write(&path, format!("{before}\n{other}")).unwrap();
    installation.proxy.signal(Signal::SIGHUP).unwrap();
    let uri = installation.uri().replace("main.", "other.");
    wait::until("the new endpoint", PATIENCE, async || {
        Ok(installation.psql(&uri, &["SELECT 1"]).await.status.success().then_some(()))
    })
    .await
    .unwrap();
    installation.passed();
}

const AUTH_QUERY: &str = "state_file = \"verifiers.json\"\n[endpoints.main]\naddress = \"127.0.0.1:PORT\"\n\
    start = [\"START\"]\n[endpoints.main.auth_query]\nuser = \"proxy_auth\"\npassword_file = \"proxy_auth.password\"\n";

/// Its answers last while the compute sleeps.
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
    // It sleeps, and nobody has ever asked it.
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
    wait::until("the database to be asked", PATIENCE, async || {
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

    // Asleep again, known now: the client wakes it.
    drop(superuser);
    installation.put_to_sleep().await;
    assert_eq!(refused(&config).await, None);
    assert_eq!(installation.starts(), 2);

    let superuser = installation.postgres.connect("postgres").await.unwrap();
    superuser.batch_execute("ALTER ROLE app PASSWORD 'changed'").await.unwrap();
    let old = config.clone();
    config.password("changed");
    let mut failures = 0;
    wait::until("the new password", PATIENCE, async || {
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

/// Where the operator allows it. Each such wake is counted.
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
    // One start was the test's own.
    assert_eq!(installation.starts(), 2);
    let metrics = installation.http("/metrics").await;
    assert!(metrics.contains("holdfast_proxy_wakes_total{result=\"woken\"} 1\n"), "{metrics}");
    // And it was the only one for a while, whoever comes.
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
    // Longer than it may be idle, and it is not: there is a session.
    client.batch_execute("SELECT pg_sleep(4)").await.unwrap();
    let asleep = async || Ok(installation.postmaster().is_none().then_some(()));
    assert!(asleep().await.unwrap().is_none());
    drop(client);
    wait::until("the database to be stopped", PATIENCE, asleep).await.unwrap();
    wait::until("the proxy to know it", PATIENCE, async || {
        let metrics = installation.http("/metrics").await;
        Ok(metrics.contains("holdfast_proxy_suspends_total{result=\"stopped\"} 1").then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(installation.ask(&installation.uri(), &["SELECT current_user"]).await, "app");
    assert_eq!(installation.starts(), 2);
    wait::until("it to be stopped again", PATIENCE, asleep).await.unwrap();
    installation.passed();
}
