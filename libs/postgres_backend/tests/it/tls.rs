//! TLS with real certificates: negotiated and direct, chosen by name, refused where it must be.

use std::sync::Arc;

use postgres_backend::client::{Client, ClientCopyMessage, ClientError, ClientTls, ConnectOptions};
use postgres_backend::tls::load_certified_key;
use postgres_backend::{Accepted, HandshakeConfig, ServerTls, TlsError, TlsMode, handshake};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use crate::certificates::{client_config, self_signed, server_tls, usable};
use crate::support::{DEADLINE, SessionEnd, in_time, serve_one};

pub(crate) const PIPE_BYTES: usize = 64 * 1024;

pub(crate) fn options(tls: Option<ClientTls>) -> ConnectOptions {
    ConnectOptions {
        host: "localhost".to_owned(),
        port: 0,
        user: "me".to_owned(),
        params: Vec::new(),
        password: None,
        tls,
    }
}

pub(crate) fn serve(mode: TlsMode) -> (DuplexStream, JoinHandle<SessionEnd>) {
    let (client, server) = duplex(PIPE_BYTES);
    (client, tokio::spawn(serve_one(server, HandshakeConfig::new(mode), None, Arc::default())))
}

#[tokio::test]
async fn session_inside_negotiated_tls_is_served() {
    let (tls, certificates) = server_tls(&["localhost"]);
    let (stream, _server) = serve(TlsMode::Required(tls));
    let tls = ClientTls { config: client_config(&certificates, &[]), server_name: None };
    let mut client = in_time(Client::open(stream, &options(Some(tls)))).await.unwrap();
    assert_eq!(client.simple_query("SHOW x").await.unwrap()[0].get("x"), Some("16MB"));

    // Large enough for many TLS records in both directions, and small ones that are read ahead together.
    let copy = client.copy_both("ECHO").await.unwrap();
    let payloads = [500_000, 10, 20, 30, 20_000].map(|bytes| vec![b'x'; bytes]);
    let (mut reader, mut writer) = (copy.reader, copy.writer);
    let sending = async {
        payloads.iter().try_for_each(|payload| writer.put(payload)).unwrap();
        writer.flush().await.unwrap();
    };
    let receiving = async {
        for payload in &payloads {
            let received = reader.next(payload.len()).await.unwrap();
            assert!(received == ClientCopyMessage::Data(payload.clone().into()));
        }
    };
    in_time(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn client_tls_require_accepts_any_certificate() {
    let (tls, _) = server_tls(&["localhost"]);
    let (stream, _server) = serve(TlsMode::Required(tls));
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
        let (stream, _server) = serve(TlsMode::Required(tls.clone()));
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
    let (own, other) = (self_signed("localhost"), self_signed("localhost"));
    for (trusted, server_name, is_believed) in
        [(&own, None, true), (&own, Some("elsewhere"), false), (&other, None, false)]
    {
        std::fs::write(&authority, trusted.cert.pem()).unwrap();
        let resolver = Arc::new(SingleCertAndKey::from(usable(&own)));
        let (stream, _server) = serve(TlsMode::Required(ServerTls::from_resolver(resolver).unwrap()));
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
        let config = HandshakeConfig::new(TlsMode::Required(tls.clone()));
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
    let (own, other) = (self_signed("localhost"), self_signed("localhost"));
    let certificate = write("tls.crt", &own.cert.pem());
    let key = write("tls.key", &own.signing_key.serialize_pem());
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
