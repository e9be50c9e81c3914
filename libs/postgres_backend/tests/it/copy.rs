//! CopyBoth between this crate's server and client, over a real socket and over pipes.

use std::net::SocketAddr;
use std::sync::Arc;

use postgres_backend::client::{Client, ClientCopyMessage, ClientError, ConnectOptions};
use postgres_backend::{ClosedBy, HandshakeConfig, TlsMode};
use pq_proto::{FrontendMessage, SqlState};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::support::{DEADLINE, MESSAGE_BYTES_MAX, RawClient, SessionEnd, in_time, serve_one};

/// A server for one connection.
async fn server() -> (ConnectOptions, JoinHandle<SessionEnd>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = options(listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let config = HandshakeConfig::new(TlsMode::Disabled);
        serve_one(stream, config, Some("token"), Arc::new(Notify::new())).await
    });
    (options, server)
}

fn options(address: SocketAddr) -> ConnectOptions {
    ConnectOptions {
        host: address.ip().to_string(),
        port: address.port(),
        user: "me".to_owned(),
        params: vec![("replication".to_owned(), "true".to_owned())],
        password: Some("token".to_owned()),
        tls: None,
    }
}

/// More bytes than the sockets buffer go each way, and the connection can be used afterwards.
#[tokio::test]
async fn copy_both_runs_both_ways_at_once() {
    let (options, server) = server().await;
    let mut client = Client::connect(&options, DEADLINE).await.unwrap();
    assert_eq!(client.parameter("server_version"), Some("15.4"));
    let rows = client.simple_query("NULLS").await.unwrap();
    assert_eq!((rows[0].get("a"), rows[0].get("b"), rows[0].get("c")), (None, Some("2"), None));

    let copy = client.copy_both("ECHO").await.unwrap();
    // More than the sockets buffer: neither side can send everything before the other one reads.
    const MESSAGES: usize = 300;
    const PAYLOAD_BYTES: usize = 100_000;
    let (mut reader, mut writer) = (copy.reader, copy.writer);
    let sending = tokio::spawn(async move {
        for number in 0..MESSAGES {
            writer.send(&vec![number as u8; PAYLOAD_BYTES]).await.unwrap();
        }
        writer
    });
    for number in 0..MESSAGES {
        let ClientCopyMessage::Data(payload) = in_time(reader.next(MESSAGE_BYTES_MAX)).await.unwrap() else {
            panic!("the server stopped after {number} messages");
        };
        assert!(payload.len() == PAYLOAD_BYTES && payload.iter().all(|byte| *byte == number as u8));
    }
    let writer = in_time(sending).await.unwrap();

    let joined = postgres_backend::client::ClientCopyBoth { reader, writer };
    let (mut client, rows) = in_time(joined.finish(MESSAGE_BYTES_MAX)).await.unwrap();
    assert!(rows.is_empty());
    assert_eq!(client.simple_query("SHOW x").await.unwrap()[0].at(0), Some("16MB"));
    client.terminate().await.unwrap();
    assert!(matches!(in_time(server).await.unwrap(), SessionEnd::Served(Ok(ClosedBy::Client))));
}

#[tokio::test]
async fn wrong_token_gets_an_error_response() {
    let (mut options, server) = server().await;
    options.password = Some("guess".to_owned());
    let Err(ClientError::Server(response)) = Client::connect(&options, DEADLINE).await else {
        panic!("let in")
    };
    assert_eq!(response.sqlstate, SqlState::INVALID_PASSWORD);
    assert!(matches!(in_time(server).await.unwrap(), SessionEnd::Refused(_)));
}

#[tokio::test]
async fn copy_fail_leaves_a_usable_connection() {
    let mut client = RawClient::ready().await;
    client.send(&FrontendMessage::Query("ECHO".into())).await;
    client.send(&FrontendMessage::CopyFail("enough".into())).await;
    // Messages that were on their way are ignored.
    client.send(&FrontendMessage::CopyData("late".into())).await;
    client.send(&FrontendMessage::CopyDone).await;
    assert_eq!(client.until_ready().await, "WEZ");
    client.send(&FrontendMessage::Query("SHOW x".into())).await;
    assert_eq!(client.until_ready().await, "TDCZ");
}

#[tokio::test]
async fn query_sent_behind_copy_done_is_answered() {
    let mut client = RawClient::ready().await;
    let query = |text: &str| FrontendMessage::Query(text.into());
    client.send_all(&[query("ECHO"), FrontendMessage::CopyDone, query("SHOW x")]).await;
    assert_eq!(client.until_ready().await, "WcCCZ");
    assert_eq!(client.until_ready().await, "TDCZ");
}

#[tokio::test]
async fn terminate_inside_a_copy_is_no_error() {
    let mut client = RawClient::ready().await;
    client.send(&FrontendMessage::Query("ECHO".into())).await;
    client.send(&FrontendMessage::Terminate).await;
    assert_eq!(client.receive().await.unwrap().tag(), b'W');
    assert_eq!(client.receive().await, None);
    assert!(matches!(client.end().await, SessionEnd::Served(Ok(ClosedBy::Server))));
}

/// The client gets one of the two errors, and the connection goes on.
#[tokio::test]
async fn copy_failing_both_ways_reports_one_error() {
    let mut client = RawClient::ready().await;
    client.send(&FrontendMessage::Query("BOTH FAIL".into())).await;
    assert_eq!(client.until_ready().await, "WEZ");
}

#[tokio::test]
async fn copy_payload_above_the_limit_is_refused() {
    let mut client = RawClient::ready().await;
    client.send(&FrontendMessage::Query("ECHO".into())).await;
    client.send_raw(b"d\x7f\xff\xff\xff").await;
    assert_eq!(client.receive().await.unwrap().tag(), b'W');
    assert_eq!(client.last_error().await.sqlstate, SqlState::PROTOCOL_VIOLATION);
    assert!(matches!(client.end().await, SessionEnd::Served(Err(_))));
}
