//! Test server at the other end of an in-memory pipe or a socket, which sends what a test writes.
//!
//! The pipe is for tests of timeouts: without a socket, tokio's paused clock moves only when every task waits.

use bytes::BytesMut;
use postgres_backend::Io;
use postgres_backend::client::{Client, ClientCopyBoth, ConnectOptions};
use pq_proto::{Authentication, BackendMessage, Encode, TransactionStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

/// Capacity of the pipe in each direction.
const PIPE_BYTES: usize = 4096;
/// Longer than any startup packet or command here.
const RECEIVED_BYTES_MAX: usize = 1024;

/// A client with an open session, and its server.
pub(crate) async fn client() -> (Client<DuplexStream>, DuplexStream) {
    let (near, server) = tokio::io::duplex(PIPE_BYTES);
    open(near, server).await
}

/// A client that has entered CopyBoth, and its server.
pub(crate) async fn copy_both() -> (ClientCopyBoth<DuplexStream>, DuplexStream) {
    let (client, server) = client().await;
    enter_copy(client, server).await
}

/// As [`copy_both`], on a socket.
pub(crate) async fn copy_both_on_socket() -> (ClientCopyBoth, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (client, server) = open(near, listener.accept().await.unwrap().0).await;
    enter_copy(client, server).await
}

async fn open<S: Io>(near: S, mut server: S) -> (Client<S>, S) {
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

async fn enter_copy<S: Io>(client: Client<S>, mut server: S) -> (ClientCopyBoth<S>, S) {
    send(&mut server, &[BackendMessage::CopyBothResponse(pq_proto::backend::CopyFormat::default())]).await;
    let copy = client.copy_both("START").await.unwrap();
    receive(&mut server).await;
    (copy, server)
}

/// Sends messages as the server.
pub(crate) async fn send(server: &mut impl Io, messages: &[BackendMessage]) {
    let mut bytes = BytesMut::new();
    for message in messages {
        message.encode(&mut bytes).unwrap();
    }
    server.write_all(&bytes).await.unwrap();
}

/// Waits until the server receives bytes, and returns them.
pub(crate) async fn receive(server: &mut impl Io) -> Vec<u8> {
    let mut received = vec![0; RECEIVED_BYTES_MAX];
    let length = server.read(&mut received).await.unwrap();
    received.truncate(length);
    received
}
