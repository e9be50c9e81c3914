//! TLS records as they travel: their size, and how many of them one write carries.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use postgres_backend::client::{Client, ClientTls};
use postgres_backend::tls::ALPN_POSTGRESQL;
use postgres_backend::{HandshakeConfig, TlsMode};
use rustls::pki_types::ServerName;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, copy, duplex, split,
};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::certificates::{client_config, server_tls};
use crate::support::{in_time, serve_one};
use crate::tls::{PIPE_BYTES, options, serve};

/// Records all bytes of a server; the task returns them when the server has closed the connection.
fn recorded(wire: DuplexStream) -> (DuplexStream, JoinHandle<Vec<u8>>) {
    let (client, recorder) = duplex(PIPE_BYTES);
    let recording = async move {
        let ((mut from_server, mut to_server), (mut from_client, mut to_client)) =
            (split(wire), split(recorder));
        let upward = async {
            let _ = copy(&mut from_client, &mut to_server).await;
            let _ = to_server.shutdown().await;
        };
        let downward = async {
            let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                said.extend_from_slice(&buffer[..count]);
                let _ = to_client.write_all(&buffer[..count]).await;
            }
            said
        };
        tokio::join!(upward, downward).1
    };
    (client, tokio::spawn(recording))
}

/// libpq always has this much room; of a larger record a rest may stay inside of its OpenSSL.
#[tokio::test]
async fn tls_records_hold_8_kib_at_most() {
    let (tls, certificates) = server_tls(&["localhost"]);
    let (wire, _server) = serve(TlsMode::Offered(tls));
    let (stream, said) = recorded(wire);
    let connector = TlsConnector::from(client_config(&certificates, &[ALPN_POSTGRESQL]));
    let stream =
        in_time(connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await.unwrap();
    let client = in_time(Client::open(stream, &options(None))).await.unwrap();
    let mut copy = client.copy_both("ECHO").await.unwrap();
    let payload = vec![b'x'; 100_000];
    let (sent, _) =
        in_time(async { tokio::join!(copy.writer.send(&payload), copy.reader.next(payload.len())) }).await;
    sent.unwrap();
    drop(copy);

    let said = in_time(said).await.unwrap();
    let (mut rest, mut largest) = (&said[..], 0);
    while let [_, _, _, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        largest = largest.max(length);
        rest = &after[length.min(after.len())..];
    }
    // Type and tag of TLS 1.3 come on top (RFC 8446, section 5.2).
    assert_eq!(largest, 8192 + 1 + 16);
}

/// A pipe that counts how often it is written to: each time is a system call on a socket.
struct CountsWrites {
    pipe: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for CountsWrites {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CountsWrites {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.pipe).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.pipe.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// rustls hands all waiting records to one vectored write; a stream that does not pass it on pays a write for each.
#[tokio::test]
async fn tls_stream_writes_many_records_at_once() {
    let (tls, certificates) = server_tls(&["localhost"]);
    let (client, pipe) = duplex(1 << 20);
    let writes = Arc::new(AtomicUsize::new(0));
    let server = CountsWrites { pipe, writes: Arc::clone(&writes) };
    tokio::spawn(serve_one(server, HandshakeConfig::new(TlsMode::Required(tls)), None, Arc::default()));
    let tls = ClientTls { config: client_config(&certificates, &[]), server_name: None };
    let client = in_time(Client::open(client, &options(Some(tls)))).await.unwrap();
    let mut copy = client.copy_both("ECHO").await.unwrap();
    let payload = vec![b'x'; 200_000];

    let before = writes.load(Ordering::Relaxed);
    let (sent, received) =
        in_time(async { tokio::join!(copy.writer.send(&payload), copy.reader.next(payload.len())) }).await;
    sent.unwrap();
    received.unwrap();
    let counted = writes.load(Ordering::Relaxed) - before;
    // 25 records of 8 KiB; rustls buffers 64 KiB.
    assert!(counted <= 8, "{counted} writes");
}
