//! Tests of the HTTP client against a server that answers one connection.

use std::fs;
use std::net::SocketAddr;

use rustls::ServerConfig;
use rustls::crypto::ring;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const REQUEST: Request = Request { call: "wake_compute", query: String::new() };

/// Answers one connection, inside TLS if there is an acceptor.
async fn serve(reply: String, tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        match tls {
            None => answer(stream, &reply).await,
            Some(tls) => {
                if let Ok(stream) = tls.accept(stream).await {
                    answer(stream, &reply).await;
                }
            }
        }
    });
    address
}

async fn answer(mut stream: impl postgres_backend::Io, reply: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
    }
    stream.write_all(reply.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

async fn get(url: &str, authorities: Option<ClientTls>) -> Result<Response, ClientError> {
    Client::new(url, None, authorities).unwrap().unwrap().get(&REQUEST).await
}

fn reply_of(bytes: usize) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n{}", "x".repeat(bytes))
}

#[tokio::test]
async fn get_limits_the_reply() {
    for (bytes, fits) in [(REPLY_BYTES_MAX, true), (REPLY_BYTES_MAX + 1, false)] {
        let address = serve(reply_of(bytes), None).await;
        let result = get(&format!("http://{address}/"), None).await;
        assert_eq!(matches!(result, Err(ClientError::TooLong)), !fits, "{bytes}: {result:?}");
        assert_eq!(result.map_or(0, |response| response.body.len()), if fits { bytes } else { 0 });
    }
}

#[tokio::test]
async fn get_does_not_follow_redirects() {
    let reply = "HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
    let address = serve(reply.to_owned(), None).await;
    assert_eq!(get(&format!("http://{address}/"), None).await.unwrap().status, 307);
}

#[tokio::test]
async fn lost_connections_are_transient() {
    let address = serve("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".to_owned(), None).await;
    let url = format!("http://{address}/");
    let error = get(&url, None).await.unwrap_err();
    assert!(matches!(error, ClientError::Lost(_)) && error.is_transient(), "{error:?}");
    let error = get(&url, None).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect(_)) && error.is_transient(), "{error:?}");
    assert_eq!(error.to_string(), "cannot connect: Connection refused (os error 111)");
}

/// Only the configured authorities count, and a certificate of another one does not change by itself.
#[tokio::test]
async fn https_trusts_configured_authorities_only() {
    let files = tempfile::tempdir().unwrap();
    let ca = files.path().join("ca.pem");
    let [service, other] =
        [(); 2].map(|()| rcgen::generate_simple_self_signed(["localhost".into()]).unwrap());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![service.cert.der().clone()],
            service.signing_key.serialize_der().try_into().unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    for (authority, trusted) in [(&service, true), (&other, false)] {
        fs::write(&ca, authority.cert.pem()).unwrap();
        let address = serve(reply_of(2), Some(acceptor.clone())).await;
        let authorities = ClientTls::verify_full(&ca, None).unwrap();
        let result = get(&format!("https://localhost:{}/", address.port()), Some(authorities)).await;
        if trusted {
            assert_eq!(result.unwrap().body, "xx");
        } else {
            let error = result.unwrap_err();
            assert!(!error.is_transient(), "{error:?}");
            assert!(error.to_string().starts_with("TLS: invalid peer certificate: "), "{error}");
        }
    }
}
