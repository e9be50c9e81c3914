//! Tests of the provider `http` against a scripted HTTP service, with the documented examples as configuration.

use std::collections::VecDeque;
use std::fs;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Mutex;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use scram::Verifier;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::client_facing::ClientFacing;

const V1: &str = include_str!("../../../examples/http-v1.toml");
const YEAR_2023: &str = include_str!("../../../examples/http-2023.toml");
const SESSION: &str = "00000000-0000-8000-8000-000000000001";

/// Replies of the service in their order, and the requests that it received.
#[derive(Debug, Default)]
struct Script {
    answers: Mutex<VecDeque<(u16, &'static str, String)>>,
    asked: Mutex<Vec<(String, HeaderMap)>>,
}

async fn answer(
    State(script): State<Arc<Script>>,
    uri: Uri,
    headers: HeaderMap,
) -> (StatusCode, [(&'static str, &'static str); 1], String) {
    script.asked.lock().unwrap().push((uri.to_string(), headers));
    let next = script.answers.lock().unwrap().pop_front();
    let (status, retry_after, body) = next.unwrap_or((500, "", String::new()));
    if status == 0 {
        std::future::pending::<()>().await;
    }
    (StatusCode::from_u16(status).unwrap(), [("retry-after", retry_after)], body)
}

struct Scene {
    plane: HttpControlPlane,
    script: Arc<Script>,
    context: LookupContext,
    _files: tempfile::TempDir,
}

impl Scene {
    async fn new(example: &str, answers: impl IntoIterator<Item = (u16, Value)>) -> Self {
        Self::with_headers(example, answers.into_iter().map(|(status, body)| (status, "", body.to_string())))
            .await
    }

    async fn with_headers(
        example: &str,
        answers: impl IntoIterator<Item = (u16, &'static str, String)>,
    ) -> Self {
        let script =
            Arc::new(Script { answers: Mutex::new(answers.into_iter().collect()), ..Script::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&script));
        tokio::spawn(async { axum::serve(listener, router).await });
        let (files, path) =
            write(&example.replace("127.0.0.1:9095", &address).replace("127.0.0.1:3000", &address));
        let plane = HttpControlPlane::load(&path).unwrap();
        Self { plane, script, context: LookupContext::for_test("main"), _files: files }
    }

    async fn access(&self, role: &str) -> Result<Access, ControlPlaneError> {
        self.plane.access(&self.context, &role.into()).await
    }

    async fn wake(&self) -> Result<Arc<Compute>, ControlPlaneError> {
        self.plane.wake(&self.context).await
    }

    fn asked(&self) -> Vec<String> {
        self.script.asked.lock().unwrap().iter().map(|(uri, _)| uri.clone()).collect()
    }
}

/// Writes the configuration and the files that the examples name.
fn write(config: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("token"), "s3cret\n").unwrap();
    let authority = rcgen::generate_simple_self_signed(["authority".to_owned()]).unwrap();
    fs::write(files.path().join("ca.pem"), authority.cert.pem()).unwrap();
    let path = files.path().join("http.toml");
    fs::write(&path, config).unwrap();
    (files, path)
}

fn verifier() -> String {
    Verifier::from_password("pencil", b"salt", NonZeroU32::MIN).to_string()
}

fn unavailable() -> ControlPlaneError {
    ControlPlaneError::Unavailable("main".parse().unwrap())
}

#[tokio::test]
async fn http_speaks_dialect_v1() {
    let secret = json!({"role_secret": verifier(), "allowed_ips": ["10.0.0.0/8"], "project_id": "p"});
    let address =
        json!({"address": "[::1]:5432", "server_name": "main.internal", "aux": {"compute_id": "c"}});
    let mut scene = Scene::new(V1, [(200, secret), (200, address)]).await;
    scene.context.application = Some("my app".into());
    let access = scene.access("a&b").await.unwrap();
    assert_eq!(access.verifier.unwrap().to_string(), verifier());
    assert!(!access.allowlist.allows(Some("11.0.0.1".parse().unwrap())));
    let compute = scene.wake().await.unwrap();
    assert_eq!(compute.address.to_string(), "[::1]:5432");
    assert_eq!(compute.tls.as_ref().unwrap().server_name.as_deref(), Some("main.internal"));
    let both = format!("session_id={SESSION}&application_name=my+app%2Ftcp&endpointish=main");
    let base = "/proxy/api/v1";
    let expected = [
        format!("{base}/get_endpoint_access_control?{both}&role=a%26b"),
        format!("{base}/wake_compute?{both}"),
    ];
    assert_eq!(scene.asked(), expected);
    let asked = scene.script.asked.lock().unwrap();
    assert!(asked.iter().all(|(_, headers)| headers["authorization"] == "Bearer s3cret"));
    let request_ids = [0, 1].map(|index: usize| {
        let id = asked[index].1["x-request-id"].to_str().unwrap();
        let uuid: uuid::Uuid = id.parse().unwrap();
        assert_eq!(
            (uuid.get_version_num(), uuid.get_variant(), id.len()),
            (4, uuid::Variant::RFC4122, 36),
            "{id}"
        );
        uuid
    });
    assert_ne!(request_ids[0], request_ids[1]);
}

#[tokio::test]
async fn http_speaks_dialect_2023() {
    let secret = json!({"role_secret": verifier()});
    let address =
        json!({"address": "10.0.0.1:5432", "aux": {"endpoint_id": "e", "project_id": "p", "branch_id": "b"}});
    let answers =
        [(200, secret), (404, json!({"error": "no"})), (200, address), (404, json!({"error": "no"}))];
    let scene = Scene::new(YEAR_2023, answers).await;
    assert_eq!(scene.access("app").await.unwrap().verifier.unwrap().to_string(), verifier());
    assert!(scene.access("ghost").await.unwrap().verifier.is_none());
    assert_eq!(scene.wake().await.unwrap().address.to_string(), "10.0.0.1:5432");
    let unknown = ControlPlaneError::UnknownEndpoint("main".parse().unwrap());
    assert_eq!(scene.wake().await.unwrap_err(), unknown);
    let both = format!("session_id={SESSION}&project=main");
    let expected = [
        format!("/authenticate/proxy_get_role_secret?{both}&role=app"),
        format!("/authenticate/proxy_get_role_secret?{both}&role=ghost"),
        format!("/authenticate/proxy_wake_compute?{both}"),
        format!("/authenticate/proxy_wake_compute?{both}"),
    ];
    assert_eq!(scene.asked(), expected);
    assert!(!scene.script.asked.lock().unwrap()[0].1.contains_key("authorization"));
}

fn failure(reason: &str) -> Value {
    json!({"error": "internal text", "status": {"code": "c", "message": "m", "details": {"error_info": {"reason": reason}}}})
}

/// Other errors reach the client at once, with their SQLSTATE and without the service's internal text.
#[tokio::test]
async fn http_retries_transient_errors_only() {
    let address = json!({"address": "h:1"});
    for (status, error) in [
        (503, json!({"error": "x"})),
        (502, json!("not even an object")),
        (409, failure("RUNNING_OPERATIONS")),
        (423, failure("PROJECT_UNDER_MAINTENANCE")),
    ] {
        let scene =
            Scene::new(V1, [(status, error.clone()), (status, error.clone()), (200, address.clone())]).await;
        assert!(scene.wake().await.is_ok(), "{error}");
        assert_eq!(scene.asked().len(), 3, "{error}");
    }
    for (status, error, sqlstate, words) in [
        (404, failure("ENDPOINT_NOT_FOUND"), "28000", "endpoint \"main\" is not known"),
        (404, json!({"error": "x"}), "28000", "endpoint \"main\" is not known"),
        (406, json!({"error": "x"}), "28000", "endpoint \"main\" is disabled"),
        (403, failure("ENDPOINT_DISABLED"), "28000", "endpoint \"main\" is disabled"),
        (423, json!({"error": "x"}), "57P03", "endpoint \"main\" is temporarily unavailable"),
        (429, failure("RATE_LIMIT_EXCEEDED"), "53300", "endpoint \"main\" gets too many connections"),
        (402, failure("DATA_TRANSFER_QUOTA_EXCEEDED"), "53400", "endpoint \"main\" is over its quota"),
        (500, json!({"error": "x"}), "08006", "the control plane gave no answer for endpoint \"main\""),
        (200, json!({"address": "nowhere"}), "08006", "the control plane gave no answer"),
        (200, json!({"role_secret": 7}), "08006", "the control plane gave no answer"),
    ] {
        let scene = Scene::new(V1, [(status, error.clone())]).await;
        let response = scene.wake().await.unwrap_err().response().unwrap().error();
        assert_eq!((response.sqlstate.to_string(), scene.asked().len()), (sqlstate.to_owned(), 1), "{error}");
        assert!(response.message.starts_with(words), "{error}: {}", response.message);
        assert!(!response.message.contains("internal text"));
    }
}

#[tokio::test]
async fn http_passes_user_facing_message_on() {
    let mut error = failure("COMPUTE_TIME_QUOTA_EXCEEDED");
    error["status"]["details"]["user_facing_message"] = json!({"message": "Your plan\u{0} is used up."});
    let scene = Scene::new(V1, [(402, error)]).await;
    assert_eq!(scene.wake().await.unwrap_err().response().unwrap().error().message, "Your plan  is used up.");
}

#[tokio::test]
async fn http_keeps_the_named_retry_delay() {
    let mut error = failure("ENDPOINT_IDLE");
    error["status"]["details"]["retry_info"] = json!({"retry_delay_ms": 700});
    let address = json!({"address": "h:1"}).to_string();
    for answers in [
        [(500, "", error.to_string()), (200, "", address.clone())],
        [(503, "1", String::new()), (200, "", address)],
    ] {
        let scene = Scene::with_headers(V1, answers).await;
        let begin = Instant::now();
        assert!(scene.wake().await.is_ok());
        assert!(begin.elapsed() >= Duration::from_millis(700), "{:?}", begin.elapsed());
        assert_eq!(scene.asked().len(), 2);
    }
}

/// Pauses of more than a year must not overflow the clock either.
#[tokio::test]
async fn http_fails_at_once_beyond_deadline() {
    for delay in [3_600_000, u64::MAX] {
        let mut error = failure("ENDPOINT_IDLE");
        error["status"]["details"]["retry_info"] = json!({"retry_delay_ms": delay});
        let scene = Scene::new(V1, [(500, error)]).await;
        assert!(matches!(scene.wake().await, Err(ControlPlaneError::Busy { .. })));
        assert_eq!(scene.asked().len(), 1);
    }
    for seconds in ["3600", "18446744073709551615"] {
        let scene = Scene::with_headers(V1, [(503, seconds, String::new())]).await;
        assert_eq!(scene.wake().await.unwrap_err(), unavailable());
        assert_eq!(scene.asked().len(), 1);
    }
}

#[tokio::test]
async fn http_retries_hanging_service_until_deadline() {
    let example = V1.replace("access_try_seconds = 5", "access_try_seconds = 1");
    let example = example.replace("access_seconds = 12", "access_seconds = 3");
    let hangs = || (0, json!(null));
    let secret = json!({"role_secret": ""});
    let scene = Scene::new(&example, [hangs(), (200, secret)]).await;
    assert!(scene.access("app").await.unwrap().verifier.is_none());
    let scene = Scene::new(&example, (0..10).map(|_| hangs())).await;
    let begin = Instant::now();
    assert_eq!(scene.access("app").await.unwrap_err(), unavailable());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!((2..=3).contains(&scene.asked().len()), "{:?}", scene.asked());
}

#[tokio::test]
async fn http_retries_refused_connections() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let (_files, path) = write(&format!("url = \"http://{address}/x\"\naccess_seconds = 10"));
    let plane = HttpControlPlane::load(&path).unwrap();
    let context = LookupContext::for_test("main");
    let role = "app".into();
    let asking = plane.access(&context, &role);
    let coming = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let listener = TcpListener::bind(address).await.unwrap();
        let router = axum::Router::new().fallback(async || json!({"role_secret": ""}).to_string());
        tokio::spawn(async { axum::serve(listener, router).await });
    };
    let (answer, ()) = tokio::join!(asking, coming);
    assert!(answer.unwrap().verifier.is_none());
}

#[tokio::test]
async fn http_refuses_long_replies_and_malformed_secrets() {
    let long = json!({"role_secret": "", "allowed_ips": ["x".repeat(70_000)]});
    let broken = json!({"role_secret": verifier().replace("$1:", "$0:")});
    for answer in [long, broken, json!({"role_secret": "md5aaaa"}), json!({})] {
        let scene = Scene::new(V1, [(200, answer), (200, json!({"role_secret": ""}))]).await;
        assert_eq!(scene.access("app").await.unwrap_err(), unavailable());
        assert_eq!(scene.asked().len(), 1);
    }
}

#[test]
fn http_loads_the_documented_examples() {
    for example in [V1, YEAR_2023] {
        let (_files, path) = write(example);
        assert!(HttpControlPlane::load(Path::new(&path)).is_ok());
    }
}
