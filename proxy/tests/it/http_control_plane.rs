//! HTTP control plane: a service answers the proxy, and its requests are counted.

use std::fs;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use futures::future::join_all;
use scram::Verifier;
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::error::SqlState;

use crate::installation::{Installation, Setup, verifier};

/// Concurrent clients.
const CROWD: usize = 100;

/// A control plane service with one endpoint, `main`.
#[derive(Default)]
pub(crate) struct Service {
    /// The port of PostgreSQL and the command that starts it.
    pub(crate) database: OnceLock<(u16, std::path::PathBuf)>,
    /// Header `Authorization` of the last request.
    pub(crate) authorization: Mutex<String>,
    /// Verifier of the role `app`; `None`: the usual one.
    verifier: Mutex<Option<Verifier>>,
    access_calls: AtomicUsize,
    wake_calls: AtomicUsize,
}

impl Service {
    /// Starts the service and returns the configuration of the proxy for it.
    pub(crate) async fn listen(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("url = \"http://{}/api\"\n", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer).with_state(Arc::clone(self));
        tokio::spawn(async { axum::serve(listener, router).await });
        url
    }

    /// Numbers of requests for access rules and for wakes.
    fn calls(&self) -> [usize; 2] {
        [&self.access_calls, &self.wake_calls].map(|calls| calls.load(Ordering::Relaxed))
    }
}

/// Query parameters of a request.
#[derive(Deserialize)]
struct LookupQuery {
    endpointish: String,
    role: Option<String>,
}

async fn answer(
    State(service): State<Arc<Service>>,
    uri: Uri,
    headers: HeaderMap,
    Query(query): Query<LookupQuery>,
) -> (StatusCode, String) {
    let is_wake = uri.path() == "/api/wake_compute";
    let calls = if is_wake { &service.wake_calls } else { &service.access_calls };
    calls.fetch_add(1, Ordering::Relaxed);
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    *service.authorization.lock().unwrap() = authorization.unwrap_or_default();
    if query.endpointish != "main" {
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
        let is_known = query.role.as_deref() == Some("app");
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

/// A compute that moved without an invalidation costs one failed connect.
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
    for (which, said) in [
        ("{}", "names no endpoint, project or role"),
        (r#"{"endpoints": "main"}"#, "unknown field `endpoints`"),
    ] {
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
