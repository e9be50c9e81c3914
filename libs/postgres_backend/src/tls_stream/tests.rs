//! Tests of the stream against rustls' own clients: bytes in pieces, ends of every kind, key updates, hostile bytes.

use std::pin::pin;
use std::sync::Arc;
use std::task::Waker;

use proptest::prelude::*;
use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use rustls::crypto::ring;
use rustls::server::UnbufferedServerConnection;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, ConnectionTrafficSecrets, ContentType, ProtocolVersion, RootCertStore,
    ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;

type Client = tokio_rustls::client::TlsStream<DuplexStream>;

const PIPE_BYTES: usize = 1 << 20;

/// Both sides' settings for one version of TLS.
fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, ClientConfig) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    // As `ServerTls`: a client that does not read would hold up a handshake that ends with tickets.
    server.send_tls13_tickets = 0;
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), client)
}

fn engine(config: Arc<ServerConfig>) -> Engine {
    Engine::Server(UnbufferedServerConnection::new(config).unwrap())
}

async fn connected_with(
    (server, client): (Arc<ServerConfig>, ClientConfig),
    pipe_bytes: usize,
) -> (Box<TlsStream<DuplexStream>>, Client) {
    let (ours, theirs) = duplex(pipe_bytes);
    let name = ServerName::try_from("localhost").unwrap();
    let (ours, theirs) = tokio::join!(
        TlsStream::new(ours, engine(server), &[]).handshake(),
        TlsConnector::from(Arc::new(client)).connect(name, theirs)
    );
    (ours.unwrap(), theirs.unwrap())
}

async fn connected(version: &'static SupportedProtocolVersion) -> (Box<TlsStream<DuplexStream>>, Client) {
    connected_with(configs(version), PIPE_BYTES).await
}

/// One poll of a read: what a stream does with what has arrived.
fn poll_read(stream: &mut TlsStream<DuplexStream>) -> Poll<io::Result<usize>> {
    let mut cx = Context::from_waker(Waker::noop());
    pin!(stream.read(&mut [0; 1000])).poll(&mut cx)
}

#[tokio::test]
async fn tls_stream_takes_bytes_one_by_one() {
    for version in [&TLS12, &TLS13] {
        let (mut server, mut client) = connected_with(configs(version), 1).await;
        let sent: Vec<u8> = (0..40_000u32).map(|number| number as u8).collect();
        let (mut up, mut down) = (vec![0; sent.len()], vec![0; sent.len()]);
        let (client_task, server_task) = (
            async {
                client.write_all(&sent).await.unwrap();
                client.flush().await.unwrap();
                client.read_exact(&mut down).await.unwrap();
            },
            async {
                server.read_exact(&mut up).await.unwrap();
                server.write_all(&sent).await.unwrap();
                server.flush().await.unwrap();
            },
        );
        tokio::join!(client_task, server_task);
        assert!(up == sent && down == sent, "{version:?}");
    }
}

#[tokio::test]
async fn handshake_uses_bytes_read_before_it() {
    let (config, client) = configs(&TLS13);
    let (mut ours, theirs) = duplex(PIPE_BYTES);
    let name = ServerName::try_from("localhost").unwrap();
    let connecting = tokio::spawn(TlsConnector::from(Arc::new(client)).connect(name, theirs).into_fallible());
    let mut first = [0; 100];
    ours.read_exact(&mut first).await.unwrap();
    let mut server = TlsStream::new(ours, engine(config), &first).handshake().await.unwrap();
    let Ok(mut client) = connecting.await.unwrap() else { panic!("no connection") };
    client.write_all(b"first").await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
}

/// A cancel request: the client says all that it has to say at once, and closes.
#[tokio::test]
async fn handshake_keeps_data_and_close_behind_it() {
    let (config, client) = configs(&TLS13);
    let (ours, theirs) = duplex(PIPE_BYTES);
    let name = ServerName::try_from("localhost").unwrap();
    let server = async {
        let mut server = TlsStream::new(ours, engine(config), &[]).handshake().await.unwrap();
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        received
    };
    let client = async {
        let mut client = TlsConnector::from(Arc::new(client)).connect(name, theirs).await.unwrap();
        client.write_all(b"cancel").await.unwrap();
        client.shutdown().await.unwrap();
        client
    };
    let (received, _client) = tokio::join!(server, client);
    assert_eq!(received, b"cancel");
}

/// Data that arrives together with the end of the handshake, more than the reader has room for, is read in order.
#[tokio::test]
async fn small_reads_get_all_data_in_order() {
    let (mut server, mut client) = connected(&TLS13).await;
    let sent: Vec<u8> = (0..100_000u32).map(|number| (number / 7) as u8).collect();
    client.write_all(&sent).await.unwrap();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let mut piece = [0; 333];
        let count = server.read(&mut piece).await.unwrap();
        received.extend_from_slice(&piece[..count]);
        assert!(server.unread.len() <= RECORD_BYTES_MAX, "{} bytes kept", server.unread.len());
    }
    assert_eq!(received, sent);
}

/// The limits are those of 64-bit machines; the keys lie in two further allocations of about 600 bytes.
#[tokio::test]
async fn idle_tls_stream_holds_no_buffer() {
    const TLS_STREAM_BYTES_MAX: usize = 1600;
    assert!(
        size_of::<TlsStream<TcpStream>>() <= TLS_STREAM_BYTES_MAX,
        "{}",
        size_of::<TlsStream<TcpStream>>()
    );
    for version in [&TLS12, &TLS13] {
        let (mut server, mut client) = connected(version).await;
        client.write_all(&[7; 50_000]).await.unwrap();
        server.read_exact(&mut [0; 50_000]).await.unwrap();
        server.write_all(&[7; 50_000]).await.unwrap();
        client.read_exact(&mut [0; 50_000]).await.unwrap();
        assert!(poll_read(&mut server).is_pending());
        assert_eq!((server.kept.capacity(), server.unread.capacity(), server.unsent.capacity()), (0, 0, 0));
    }
}

#[tokio::test]
async fn unsent_records_have_a_limit() {
    let (mut server, mut client) = connected_with(configs(&TLS13), 4096).await;
    let sent = vec![7; 1 << 20];
    let mut written = 0;
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(count) = Pin::new(&mut *server).poll_write(&mut cx, &sent[written..]) {
        written += count.unwrap();
    }
    assert!(written <= WRITE_BYTES_MAX && server.unsent.len() <= WRITE_BYTES_MAX + 1024, "{written}");
    let (mut received, rest) = (vec![0; sent.len()], &sent[written..]);
    let writing = async {
        server.write_all(rest).await.unwrap();
        server.flush().await.unwrap();
    };
    tokio::join!(writing, async { client.read_exact(&mut received).await.unwrap() });
    assert_eq!(received, sent);
}

#[tokio::test]
async fn close_notify_ends_one_direction_only() {
    for version in [&TLS12, &TLS13] {
        let (mut server, mut client) = connected(version).await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(server.write_all(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
    }
}

#[tokio::test]
async fn end_without_close_notify_is_an_error() {
    let (mut server, mut client) = connected(&TLS13).await;
    client.write_all(b"cut").await.unwrap();
    drop(client);
    let mut received = Vec::new();
    let error = server.read_to_end(&mut received).await.unwrap_err();
    assert_eq!((error.kind(), &received[..]), (io::ErrorKind::UnexpectedEof, &b"cut"[..]));
}

#[tokio::test]
async fn forged_record_ends_the_stream_with_an_alert() {
    for version in [&TLS12, &TLS13] {
        let (mut server, mut client) = connected(version).await;
        client.write_all(b"good").await.unwrap();
        client.get_mut().0.write_all(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat()).await.unwrap();
        let mut received = [0; 100];
        assert_eq!(server.read(&mut received).await.unwrap(), 4, "what came before it is good");
        for _ in 0..2 {
            let error = server.read(&mut received).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        assert!(server.write_all(b"no").await.is_err());
        server.shutdown().await.unwrap();
        let error = client.read(&mut received).await.unwrap_err();
        let error = error.downcast::<rustls::Error>().unwrap();
        assert_eq!(error, rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
    }
}

#[tokio::test]
async fn peers_key_update_is_followed_and_answered() {
    let (mut server, mut client) = connected_with(configs(&TLS13), 64).await;
    for round in 0..3 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        let asking = async {
            client.write_all(b"new keys").await.unwrap();
            client.flush().await.unwrap();
        };
        tokio::join!(asking, async { server.read_exact(&mut [0; 8]).await.unwrap() });
        let mut received = [0; 5000];
        let answering = async {
            server.write_all(&[round; 5000]).await.unwrap();
            server.flush().await.unwrap();
        };
        tokio::join!(answering, async { client.read_exact(&mut received).await.unwrap() });
        assert_eq!(received, [round; 5000]);
    }
}

/// A peer may split a message of the handshake over two records; the server may write between them.
#[tokio::test]
async fn write_between_two_halves_of_a_key_update() {
    let (server, mut client) = configs(&TLS13);
    client.enable_secret_extraction = true;
    let (mut server, client) = connected_with((server, client), PIPE_BYTES).await;
    let (mut pipe, connection) = client.into_inner();
    let SupportedCipherSuite::Tls13(suite) = connection.negotiated_cipher_suite().unwrap() else { panic!() };
    let secrets = connection.dangerous_extract_secrets().unwrap();
    let (first, keys) = secrets.tx;
    let (ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    | ConnectionTrafficSecrets::Aes128Gcm { key, iv }
    | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = keys
    else {
        panic!()
    };
    let mut encrypter = suite.aead_alg.encrypter(key, iv);
    let mut record = |number, payload| {
        let message = OutboundPlainMessage {
            typ: ContentType::Handshake,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(payload),
        };
        encrypter.encrypt(message, first + number).unwrap().encode()
    };

    pipe.write_all(&record(0, &[24, 0])).await.unwrap();
    assert!(poll_read(&mut server).is_pending());
    assert!(!server.kept.is_empty());
    server.write_all(b"between").await.unwrap();
    pipe.write_all(&record(1, &[0, 1, 0])).await.unwrap();
    assert!(poll_read(&mut server).is_pending());
    assert!(server.kept.is_empty() && matches!(server.incoming, Incoming::Open));
    // The old keys are no longer valid.
    pipe.write_all(&record(2, &[24, 0])).await.unwrap();
    assert!(matches!(poll_read(&mut server), Poll::Ready(Err(_))));
}

proptest! {
    /// Whatever arrives in place of a handshake, in whatever pieces, ends in an error or in a wait for more.
    #[test]
    fn hostile_handshake_never_panics(bytes in prop::collection::vec(any::<u8>(), 1..400), at in 0usize..600) {
        let (config, client) = configs(&TLS13);
        let name = ServerName::try_from("localhost").unwrap();
        let mut hello = Vec::new();
        let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
        client.write_tls(&mut hello).unwrap();
        // A valid beginning, and bytes that overwrite it somewhere.
        hello.truncate(at);
        hello.extend_from_slice(&bytes);
        let (ours, mut theirs) = duplex(PIPE_BYTES);
        let mut cx = Context::from_waker(Waker::noop());
        let (before, after) = hello.split_at(at.min(bytes.len()));
        prop_assert!(pin!(theirs.write_all(after)).poll(&mut cx).is_ready());
        let mut handshake = pin!(TlsStream::new(ours, engine(config), before).handshake());
        prop_assert!(!matches!(handshake.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
    }

    /// The same inside of a session.
    #[test]
    fn hostile_records_never_panic(kind in 19u8..25, length in 0u16..300, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for version in [&TLS12, &TLS13] {
                let (mut server, mut client) = connected(version).await;
                let [high, low] = length.to_be_bytes();
                let record = [&[kind, 3, 3, high, low][..], &bytes].concat();
                for piece in record.chunks(37) {
                    client.get_mut().0.write_all(piece).await.unwrap();
                    let _ = poll_read(&mut server);
                }
                let _ = server.write_all(b"still there?").await;
                let _ = server.shutdown().await;
            }
        });
    }
}
