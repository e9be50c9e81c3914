//! TLS with real certificates: negotiated and direct, chosen by name, refused where it must be.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use postgres_backend::client::{Client, ClientError, ClientTls, ConnectOptions};
use postgres_backend::tls::{ALPN_POSTGRESQL, load_certified_key};
use postgres_backend::{
    Accepted, HandshakeConfig, HandshakeError, Io, ServerTls, TlsError, TlsPolicy, handshake,
};
use pq_proto::{FramedReader, SqlState};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert, ResolvesServerCertUsingSni};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, copy, duplex, split,
};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::support::{DEADLINE, End, in_time, serve_one};

const PIPE_BYTES: usize = 64 * 1024;

fn self_signed(name: &str) -> CertifiedKey<KeyPair> {
    generate_simple_self_signed([name.to_owned()]).unwrap()
}

fn usable(certified: &CertifiedKey<KeyPair>) -> rustls::sign::CertifiedKey {
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    rustls::sign::CertifiedKey::from_der(vec![certified.cert.der().clone()], key, &ring::default_provider())
        .unwrap()
}

/// A server with one self-signed certificate for each name, and those certificates.
pub(crate) fn server_tls(names: &[&str]) -> (ServerTls, Vec<CertificateDer<'static>>) {
    let mut resolver = ResolvesServerCertUsingSni::new();
    let mut certificates = Vec::new();
    for name in names {
        let certified = self_signed(name);
        certificates.push(certified.cert.der().clone());
        resolver.add(name, usable(&certified)).unwrap();
    }
    (ServerTls::from_resolver(Arc::new(resolver)).unwrap(), certificates)
}

fn client_config(trusted: &[CertificateDer<'static>], alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|certificate| roots.add(certificate.clone()).unwrap());
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

fn options(tls: Option<ClientTls>) -> ConnectOptions {
    ConnectOptions {
        host: "localhost".to_owned(),
        port: 0,
        user: "me".to_owned(),
        params: Vec::new(),
        password: None,
        tls,
    }
}

fn serve(policy: TlsPolicy) -> (DuplexStream, JoinHandle<End>) {
    let (client, server) = duplex(PIPE_BYTES);
    (client, tokio::spawn(serve_one(server, HandshakeConfig::new(policy), None, Arc::default())))
}

#[tokio::test]
async fn session_inside_negotiated_tls_is_served() {
    let (tls, certificates) = server_tls(&["localhost"]);
    let (stream, _server) = serve(TlsPolicy::Required(tls));
    let tls = ClientTls { config: client_config(&certificates, &[]), server_name: None };
    let mut client = in_time(Client::open(stream, &options(Some(tls)))).await.unwrap();
    assert_eq!(client.simple_query("SHOW x").await.unwrap()[0].get("x"), Some("16MB"));

    // Large enough for many TLS records in both directions.
    let mut copy = client.copy_both("ECHO").await.unwrap();
    let payload = vec![b'x'; 500_000];
    let (sent, received) =
        in_time(async { tokio::join!(copy.writer.send(&payload), copy.reader.next(payload.len())) }).await;
    sent.unwrap();
    assert_eq!(received.unwrap(), postgres_backend::client::ClientCopyMessage::Data(payload.clone().into()));
}

/// Everything that a server says on the wire, once it has closed.
fn recorded(wire: DuplexStream) -> (DuplexStream, JoinHandle<Vec<u8>>) {
    let (client, ours) = duplex(PIPE_BYTES);
    let recording = async move {
        let ((mut from_server, mut to_server), (mut from_client, mut to_client)) = (split(wire), split(ours));
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
    let (wire, _server) = serve(TlsPolicy::Offered(tls));
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
    tokio::spawn(serve_one(server, HandshakeConfig::new(TlsPolicy::Required(tls)), None, Arc::default()));
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

#[tokio::test]
async fn client_tls_require_accepts_any_certificate() {
    let (tls, _) = server_tls(&["localhost"]);
    let (stream, _server) = serve(TlsPolicy::Required(tls));
    let mut options = options(Some(ClientTls::require().unwrap()));
    options.host = "127.0.0.1".to_owned();
    // The certificate is chosen by name here, and an address is none.
    options.tls.as_mut().unwrap().server_name = Some("localhost".to_owned());
    let mut client = in_time(Client::open(stream, &options)).await.unwrap();
    assert_eq!(client.simple_query("SHOW x").await.unwrap().len(), 1);
}

#[tokio::test]
async fn client_authority_admits_only_its_own_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("authority.pem");
    let (server, known, stranger) = (self_signed("localhost"), self_signed("known"), self_signed("stranger"));
    std::fs::write(&authority, known.cert.pem()).unwrap();
    let resolver = Arc::new(SingleCertAndKey::from(usable(&server)));
    let tls = ServerTls::with_client_authority(resolver, &authority).unwrap();
    for (shown, is_let_in) in [(Some(&known), true), (Some(&stranger), false), (None, false)] {
        let (stream, _server) = serve(TlsPolicy::Required(tls.clone()));
        let mut config = client_config(&[server.cert.der().clone()], &[]);
        if let Some(shown) = shown {
            Arc::make_mut(&mut config).client_auth_cert_resolver =
                Arc::new(SingleCertAndKey::from(usable(shown)));
        }
        let tls = ClientTls { config, server_name: None };
        let opened = in_time(Client::open(stream, &options(Some(tls)))).await;
        assert_eq!(opened.is_ok(), is_let_in, "{:?}", opened.err());
    }
    std::fs::write(&authority, "nothing").unwrap();
    let resolver = Arc::new(SingleCertAndKey::from(usable(&server)));
    assert!(matches!(ServerTls::with_client_authority(resolver, &authority), Err(TlsError::Pem { .. })));
}

#[tokio::test]
async fn verify_full_checks_authority_and_name() {
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("authority.pem");
    let (ours, other) = (self_signed("localhost"), self_signed("localhost"));
    for (trusted, server_name, is_believed) in
        [(&ours, None, true), (&ours, Some("elsewhere"), false), (&other, None, false)]
    {
        std::fs::write(&authority, trusted.cert.pem()).unwrap();
        let resolver = Arc::new(SingleCertAndKey::from(usable(&ours)));
        let (stream, _server) = serve(TlsPolicy::Required(ServerTls::from_resolver(resolver).unwrap()));
        let tls = ClientTls::verify_full(&authority, server_name.map(str::to_owned)).unwrap();
        let opened = in_time(Client::open(stream, &options(Some(tls)))).await;
        assert_eq!(opened.is_ok(), is_believed, "{:?}", opened.err());
    }
}

#[tokio::test]
async fn server_name_selects_the_certificate() {
    let names = ["one.example", "two.example"];
    let (tls, certificates) = server_tls(&names);
    for (name, certificate) in names.iter().zip(certificates) {
        let (client, server) = duplex(PIPE_BYTES);
        let config = HandshakeConfig::new(TlsPolicy::Required(tls.clone()));
        let accepting = tokio::spawn(async move { handshake::accept(server, &config).await });
        // Trusting this certificate only, the client would refuse the other one.
        let tls =
            ClientTls { config: client_config(&[certificate], &[]), server_name: Some((*name).to_owned()) };
        let opening = tokio::spawn(async move { Client::open(client, &options(Some(tls))).await });
        let Ok(Accepted::Session(session)) = in_time(accepting).await.unwrap() else { panic!("no session") };
        let info = session.tls.as_ref().unwrap();
        assert_eq!((info.server_name.as_deref(), info.alpn_agreed), (Some(*name), false));
        drop(session);
        assert!(in_time(opening).await.unwrap().is_err());
    }
}

/// TLS from the first byte, as clients do with `sslnegotiation=direct`.
async fn direct(
    alpn: &[&[u8]],
    policy: fn(ServerTls) -> TlsPolicy,
) -> (Result<impl Io, io::Error>, JoinHandle<End>) {
    let (tls, certificates) = server_tls(&["localhost"]);
    let (stream, server) = serve(policy(tls));
    let connector = TlsConnector::from(client_config(&certificates, alpn));
    (in_time(connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await, server)
}

#[tokio::test]
async fn direct_tls_with_alpn_is_served() {
    let (stream, _server) = direct(&[b"http/1.1", ALPN_POSTGRESQL], TlsPolicy::Offered).await;
    let mut client = in_time(Client::open(stream.unwrap(), &options(None))).await.unwrap();
    assert_eq!(client.simple_query("SHOW x").await.unwrap().len(), 1);
}

#[tokio::test]
async fn direct_tls_without_alpn_is_refused() {
    let (stream, server) = direct(&[], TlsPolicy::Offered).await;
    let mut reader = FramedReader::new(stream.unwrap());
    let frame = in_time(reader.read_frame(1000)).await.unwrap().unwrap();
    let Ok(pq_proto::BackendMessage::ErrorResponse(error)) = pq_proto::BackendMessage::decode(frame) else {
        panic!("no error")
    };
    assert_eq!(error.sqlstate, SqlState::PROTOCOL_VIOLATION);
    assert!(matches!(in_time(server).await.unwrap(), End::Refused(HandshakeError::DirectTlsWithoutAlpn)));
}

#[tokio::test]
async fn direct_tls_with_other_alpn_fails() {
    let (stream, server) = direct(&[b"h2"], TlsPolicy::Offered).await;
    assert!(stream.is_err());
    assert!(matches!(in_time(server).await.unwrap(), End::Refused(HandshakeError::Tls(_))));
}

#[tokio::test]
async fn direct_tls_without_configuration_is_closed() {
    let (stream, server) = direct(&[ALPN_POSTGRESQL], |_| TlsPolicy::Disabled).await;
    assert!(stream.is_err());
    assert!(matches!(in_time(server).await.unwrap(), End::Refused(HandshakeError::TlsNotConfigured)));
}

#[tokio::test]
async fn encryption_request_inside_tls_is_a_violation() {
    let (stream, server) = direct(&[ALPN_POSTGRESQL], TlsPolicy::Offered).await;
    let mut stream = stream.unwrap();
    stream.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    in_time(stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"E") && answer.windows(5).any(|five| five == b"08P01"));
    assert!(matches!(in_time(server).await.unwrap(), End::Refused(HandshakeError::UnexpectedRequest(_))));
}

/// A server that answers SSLRequest with these bytes.
async fn open_against(answer: &'static [u8]) -> Result<(), ClientError> {
    let (client, mut server) = duplex(PIPE_BYTES);
    let serving = tokio::spawn(async move {
        server.read_exact(&mut [0; 8]).await.unwrap();
        server.write_all(answer).await.unwrap();
        server.shutdown().await.unwrap();
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        rest
    });
    let tls = ClientTls { config: client_config(&[], &[]), server_name: None };
    let opened = tokio::time::timeout(DEADLINE, Client::open(client, &options(Some(tls)))).await.unwrap();
    assert_eq!(in_time(serving).await.unwrap(), b"", "nothing may be sent in clear");
    opened.map(drop)
}

#[tokio::test]
async fn client_tls_sends_nothing_in_clear() {
    assert!(matches!(open_against(b"N").await, Err(ClientError::TlsRefused)));
    assert!(matches!(open_against(b"E\0\0\0\x10Mgive me money").await, Err(ClientError::TlsRefused)));
    assert!(matches!(open_against(b"").await, Err(ClientError::Closed)));
}

#[tokio::test]
async fn client_tls_refuses_bytes_behind_the_answer() {
    assert!(matches!(open_against(b"SR\0\0\0\x08\0\0\0\0").await, Err(ClientError::UnencryptedData)));
}

#[test]
fn certified_key_needs_a_matching_pair() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let (ours, other) = (self_signed("localhost"), self_signed("localhost"));
    let certificate = write("tls.crt", &ours.cert.pem());
    let key = write("tls.key", &ours.signing_key.serialize_pem());
    let other_key = write("other.key", &other.signing_key.serialize_pem());
    let empty = write("empty", "");
    let missing = directory.path().join("missing");

    assert!(ServerTls::from_pem_files(&certificate, &key).is_ok());
    assert!(matches!(load_certified_key(&certificate, &other_key), Err(TlsError::Unusable(_))));
    for (certificate, key) in
        [(&missing, &key), (&certificate, &missing), (&empty, &key), (&certificate, &empty)]
    {
        let error = load_certified_key(certificate, key).unwrap_err();
        assert!(matches!(error, TlsError::Pem { .. }), "{error}");
    }
}

#[test]
fn server_tls_accepts_any_certificate_resolver() {
    #[derive(Debug)]
    struct Never;
    impl ResolvesServerCert for Never {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            None
        }
    }
    assert!(ServerTls::from_resolver(Arc::new(Never)).is_ok());
}
