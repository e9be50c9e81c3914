//! Raw client: sends chosen bytes before the session, such as a PROXY header, and starts TLS without a request for it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::installation::{DEADLINE, Installation};

/// A header of the PROXY protocol v2 for a client with this IPv4 address and port 12345.
pub(crate) fn header(client: [u8; 4]) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &client[..], &[127, 0, 0, 1], &[0x30, 0x39, 0x15, 0x38]].concat()
}

/// Sends `before`, then starts TLS at once, with these protocols in ALPN.
pub(crate) async fn direct_tls(
    address: SocketAddr,
    authority: &Path,
    before: &[u8],
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(before).await?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from("main.db.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Opens a session inside a TLS stream.
pub(crate) async fn session(
    installation: &Installation,
    stream: TlsStream<TcpStream>,
) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let mut config = installation.config();
    config.ssl_mode(SslMode::Disable);
    let (client, connection) = config.connect_raw(stream, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Sends these bytes and returns all bytes of the answer until the connection ends, with zero bytes as spaces.
pub(crate) async fn answer_to(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).replace('\0', " ")
}
