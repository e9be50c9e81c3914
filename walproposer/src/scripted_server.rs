//! A server at the other end of a pipe in memory that says what a test writes. For tests of clocks: without a socket,
//! time stands still until everybody waits.

use bytes::BytesMut;
use postgres_backend::client::{Client, ClientCopyBoth, ConnectOptions};
use pq_proto::{Authentication, BackendMessage, Encode, TransactionStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What the pipe holds in each direction.
const PIPE_BYTES: usize = 4096;
/// More than any startup packet or command here.
const SAID_BYTES_MAX: usize = 1024;

/// A client whose session is open.
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

/// One that has entered CopyBoth.
pub(crate) async fn copy_both() -> (ClientCopyBoth<DuplexStream>, DuplexStream) {
    let (client, mut server) = client().await;
    send(&mut server, &[BackendMessage::CopyBothResponse(pq_proto::backend::CopyFormat::default())]).await;
    let copy = client.copy_both("START").await.unwrap();
    receive(&mut server).await;
    (copy, server)
}

/// Says something as the server.
pub(crate) async fn send(server: &mut DuplexStream, messages: &[BackendMessage]) {
    let mut bytes = BytesMut::new();
    for message in messages {
        message.encode(&mut bytes).unwrap();
    }
    server.write_all(&bytes).await.unwrap();
}

/// Waits until the server is told something.
pub(crate) async fn receive(server: &mut DuplexStream) -> Vec<u8> {
    let mut said = vec![0; SAID_BYTES_MAX];
    let length = server.read(&mut said).await.unwrap();
    said.truncate(length);
    said
}
