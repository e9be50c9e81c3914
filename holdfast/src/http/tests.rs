//! Requests to servers that behave and to those that do not.

use std::path::Path;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::cluster_file::{HttpUrl, Token};

const PATIENCE: Duration = Duration::from_secs(10);

fn target(url: String, token: Option<&Path>) -> Target {
    Target {
        title: "safekeeper 1".into(),
        name: "1".into(),
        http: HttpUrl::try_from(url).unwrap(),
        token: token.map(|path| Token::read(path).unwrap()),
        tls: None,
    }
}

async fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let wants_token =
        async |headers: HeaderMap| match headers.get("authorization").map(|value| value.as_bytes()) {
            Some(b"Bearer s3cret") => (StatusCode::OK, "{\"x\": 1}"),
            _ => (StatusCode::UNAUTHORIZED, ""),
        };
    let full = (StatusCode::CONFLICT, r#"{"error": "another change"}"#);
    let routes = Router::new()
        .route("/token", get(wants_token))
        .route("/text", get(async || "\u{1b}[2J"))
        .route("/conflict", get(async move || full))
        .route("/silent", get(std::future::pending::<()>))
        .route("/readyz", get(async || (StatusCode::SERVICE_UNAVAILABLE, "draining\n")));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

#[tokio::test]
async fn refused_answers_say_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let [right, wrong] = ["s3cret", "other"].map(|token| {
        let path = directory.path().join(token);
        std::fs::write(&path, token).unwrap();
        path
    });
    let (url, http) = (server().await, HttpClient::new(PATIENCE));
    let get = async |path: &str, token: Option<&Path>| {
        let answer = http.get::<serde_json::Value>(&target(url.clone(), token), path).await;
        answer.map_err(|error| error.to_string())
    };

    assert_eq!(get("/token", Some(&right)).await.unwrap()["x"], 1);
    for (path, token, words) in [
        ("/token", None, "wants a token: add token_file"),
        ("/token", Some(wrong.as_path()), "refuses the token"),
        ("/text", None, "is another program listening there?"),
        ("/conflict", None, "answers 409 Conflict to /conflict: another change"),
        ("/nowhere", None, "answers 404 Not Found to /nowhere"),
    ] {
        let error = get(path, token).await.unwrap_err();
        assert!(error.contains(words), "{path}: {error}");
    }
    assert_eq!(http.readiness(&target(url, None)).await.unwrap().as_deref(), Some("draining"));
}

/// A server behind TLS, with a certificate of a new authority for `localhost`. Returns its URL and the authority's PEM.
async fn tls_server() -> (String, String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());

    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n").await;
            let _ = stream.shutdown().await;
        }
    });
    (url, cert.pem())
}

#[tokio::test]
async fn https_needs_the_named_authority() {
    let directory = tempfile::tempdir().unwrap();
    let ((url, own), (_, other)) = (tls_server().await, tls_server().await);
    let http = HttpClient::new(PATIENCE);
    let ask = async |pem: &str| {
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, pem).unwrap();
        let tls = postgres_backend::client::ClientTls::verify_full(&file, None).unwrap().config;
        http.readiness(&Target { tls: Some(tls), ..target(url.clone(), None) }).await
    };
    assert_eq!(ask(&own).await.unwrap(), None);
    let refused = ask(&other).await.unwrap_err().to_string();
    assert!(refused.contains("invalid peer certificate"), "{refused}");
}

#[tokio::test]
async fn dead_program_is_a_reason_in_time() {
    let url = server().await;
    let silent = HttpClient::new(Duration::from_millis(50)).get::<()>(&target(url, None), "/silent").await;
    assert_eq!(silent.unwrap_err().to_string(), "no answer within 50ms");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let refused = HttpClient::new(PATIENCE).get::<()>(&target(gone, None), "/").await;
    assert_eq!(refused.unwrap_err().to_string(), "Connection refused");
}
