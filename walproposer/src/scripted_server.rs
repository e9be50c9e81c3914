//! Test server at the other end of an in-memory pipe, which sends what a test writes.
//!
//! For tests of timeouts: without a socket, tokio's paused clock moves only when every task waits.

use bytes::BytesMut;
use postgres_backend::client::{Client, ClientCopyBoth, ConnectOptions};
use pq_proto::{Authentication, BackendMessage, Encode, TransactionStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Capacity of the pipe in each direction.
const PIPE_BYTES: usize = 4096;
/// Longer than any startup packet or command here.
const RECEIVED_BYTES_MAX: usize = 1024;

/// A client with an open session, and its server.
pub(crate) async fn client() -> (Client<DuplexStream>, DuplexStream) {
    let (near, mut server) = tokio::io::duplex(PIPE_BYTES);
    let ready = BackendMessage::ReadyForQuery(TransactionStatus::Idle);
    send(&mut server, &[BackendMessage::Authentication(Authentication::Ok), ready]).await;
    let options = ConnectOptions {
        host: "nowhere".into(),
        port: 0,
        user: "walproposer".into(),
        params: Vec::new(),
        password: None,
        tls: None,
    };
    let client = Client::open(near, &options).await.unwrap();
    receive(&mut server).await;
    (client, server)
}

/// A client that has entered CopyBoth, and its server.
pub(crate) async fn copy_both() -> (ClientCopyBoth<DuplexStream>, DuplexStream) {
    let (client, mut server) = client().await;
    send(&mut server, &[BackendMessage::CopyBothResponse(pq_proto::backend::CopyFormat::default())]).await;
    let copy = client.copy_both("START").await.unwrap();
    receive(&mut server).await;
    (copy, server)
}

/// Sends messages as the server.
pub(crate) async fn send(server: &mut DuplexStream, messages: &[BackendMessage]) {
    let mut bytes = BytesMut::new();
    for message in messages {
        message.encode(&mut bytes).unwrap();
    }
    server.write_all(&bytes).await.unwrap();
}

/// Waits until the server receives bytes, and returns them.
pub(crate) async fn receive(server: &mut DuplexStream) -> Vec<u8> {
    let mut received = vec![0; RECEIVED_BYTES_MAX];
    let length = server.read(&mut received).await.unwrap();
    received.truncate(length);
    received
}
