//! Direct TLS: a client that begins with a TLS handshake and sends no SSLRequest.

use std::io;

use postgres_backend::client::Client;
use postgres_backend::tls::ALPN_POSTGRESQL;
use postgres_backend::{HandshakeError, Io, ServerTls, TlsMode};
use pq_proto::{BackendMessage, FramedReader, SqlState};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::certificates::{client_config, server_tls};
use crate::support::{SessionEnd, in_time};
use crate::tls::{options, serve};

/// TLS from the first byte, as clients do with `sslnegotiation=direct`.
async fn direct(
    alpn: &[&[u8]],
    mode: fn(ServerTls) -> TlsMode,
) -> (Result<impl Io, io::Error>, JoinHandle<SessionEnd>) {
    let (tls, certificates) = server_tls(&["localhost"]);
    let (stream, server) = serve(mode(tls));
    let connector = TlsConnector::from(client_config(&certificates, alpn));
    (in_time(connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await, server)
}

#[tokio::test]
async fn direct_tls_with_alpn_is_served() {
    let (stream, _server) = direct(&[b"http/1.1", ALPN_POSTGRESQL], TlsMode::Offered).await;
    let mut client = in_time(Client::open(stream.unwrap(), &options(None))).await.unwrap();
    assert_eq!(client.simple_query("SHOW x").await.unwrap().len(), 1);
}

#[tokio::test]
async fn direct_tls_without_alpn_is_refused() {
    let (stream, server) = direct(&[], TlsMode::Offered).await;
    let mut reader = FramedReader::new(stream.unwrap());
    let frame = in_time(reader.read_frame(1000)).await.unwrap().unwrap();
    let Ok(BackendMessage::ErrorResponse(error)) = BackendMessage::decode(frame) else { panic!("no error") };
    assert_eq!(error.sqlstate, SqlState::PROTOCOL_VIOLATION);
    assert!(matches!(
        in_time(server).await.unwrap(),
        SessionEnd::Refused(HandshakeError::DirectTlsWithoutAlpn)
    ));
}

#[tokio::test]
async fn direct_tls_with_other_alpn_fails() {
    let (stream, server) = direct(&[b"h2"], TlsMode::Offered).await;
    assert!(stream.is_err());
    assert!(matches!(in_time(server).await.unwrap(), SessionEnd::Refused(HandshakeError::Tls(_))));
}

#[tokio::test]
async fn direct_tls_without_configuration_is_closed() {
    let (stream, server) = direct(&[ALPN_POSTGRESQL], |_| TlsMode::Disabled).await;
    assert!(stream.is_err());
    assert!(matches!(in_time(server).await.unwrap(), SessionEnd::Refused(HandshakeError::TlsNotConfigured)));
}

#[tokio::test]
async fn encryption_request_inside_tls_is_a_violation() {
    let (stream, server) = direct(&[ALPN_POSTGRESQL], TlsMode::Offered).await;
    let mut stream = stream.unwrap();
    stream.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    in_time(stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"E") && answer.windows(5).any(|five| five == b"08P01"));
    assert!(matches!(
        in_time(server).await.unwrap(),
        SessionEnd::Refused(HandshakeError::UnexpectedRequest(_))
    ));
}
