//! [`ServerTls`]: TLS of a server, with certificates and keys from PEM files. Used by the handshake. A resolver chooses
//! the certificate for a name, so that a server may hold many and exchange them while it runs.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{HandshakeError, TlsError};
use crate::io::Io;
use crate::stream::Stream;
use crate::tls_stream::{Engine, TlsStream};

/// The name of the protocol in ALPN, registered with IANA.
pub const ALPN_POSTGRESQL: &[u8] = b"postgresql";

/// Most bytes of plaintext in one record, as PostgreSQL sends them (its PqSendBuffer). libpq reads with at least as much
/// room (pqReadData). Of a larger record a part may stay inside its OpenSSL, and a program that waits for the socket by
/// itself (pg_basebackup, pg_receivewal, walreceiver, many drivers) would wait for ever.
const RECORD_BYTES_MAX: usize = 8192;
/// Bytes of the header of a record (RFC 8446, section 5.1), which rustls counts in its limit.
const RECORD_HEADER_BYTES: usize = 5;

/// TLS configuration of a server. A client that names protocols in ALPN must name PostgreSQL's.
#[derive(Debug, Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// TLS with one certificate chain and its key, for every name.
    pub fn from_pem_files(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        let certified = load_certified_key(certificates, key)?;
        Self::from_resolver(Arc::new(SingleCertAndKey::from(certified)))
    }

    /// TLS with a certificate that `resolver` chooses for each connection, by the server name that the client gives.
    pub fn from_resolver(resolver: Arc<dyn ResolvesServerCert>) -> Result<Self, TlsError> {
        Self::build(resolver, WebPkiClientVerifier::no_client_auth())
    }

    /// As [`from_resolver`](Self::from_resolver); and every client must show a certificate that one of the authorities in
    /// this PEM file has signed.
    pub fn with_client_authority(
        resolver: Arc<dyn ResolvesServerCert>,
        authorities: &Path,
    ) -> Result<Self, TlsError> {
        let roots = Arc::new(load_authorities(authorities)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::new(ring::default_provider()));
        Self::build(resolver, verifier.build()?)
    }

    fn build(
        resolver: Arc<dyn ResolvesServerCert>,
        clients: Arc<dyn ClientCertVerifier>,
    ) -> Result<Self, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN_POSTGRESQL.to_vec()];
        config.max_fragment_size = Some(RECORD_BYTES_MAX + RECORD_HEADER_BYTES);
        // As PostgreSQL: sessions are long, and its clients do not resume TLS.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config) })
    }

    /// Runs the TLS handshake. `read_before` are bytes of the client that were read from the stream before. Fails with
    /// [`HandshakeError::Tls`].
    pub(crate) async fn accept<S: Io>(
        &self,
        stream: S,
        read_before: &[u8],
    ) -> Result<(Stream<S>, TlsInfo), HandshakeError> {
        let mut config = ServerConfig::clone(&self.config);
        let noted = Arc::new(NotesName { resolver: config.cert_resolver, name: OnceLock::new() });
        config.cert_resolver = Arc::clone(&noted) as Arc<dyn ResolvesServerCert>;
        let connection = UnbufferedServerConnection::new(Arc::new(config))
            .map_err(|error| HandshakeError::Tls(std::io::Error::other(error)))?;

        let stream = TlsStream::new(stream, Engine::Server(connection), read_before);
        let stream = stream.handshake().await.map_err(HandshakeError::Tls)?;
        let info = TlsInfo {
            server_name: noted.name.get().cloned(),
            alpn_agreed: stream.engine().state().alpn_protocol() == Some(ALPN_POSTGRESQL),
        };
        Ok((Stream::Tls(stream), info))
    }
}

/// Chooses as `resolver` does, and notes the server name of the one client that it is made for: an unbuffered connection of
/// rustls does not give it.
#[derive(Debug)]
struct NotesName {
    resolver: Arc<dyn ResolvesServerCert>,
    name: OnceLock<String>,
}

impl ResolvesServerCert for NotesName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            // A client that is asked for another ClientHello repeats the name.
            let _ = self.name.set(name.to_owned());
        }
        self.resolver.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.resolver.only_raw_public_keys()
    }
}

/// Facts about the client from the TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// The server name that the client gave (RFC 6066, `server_name`).
    pub server_name: Option<String>,
    /// The client named PostgreSQL's protocol in ALPN.
    pub alpn_agreed: bool,
}

/// Reads a certificate chain and its private key, and checks that they belong together.
pub fn load_certified_key(certificates: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = load_certificates(certificates)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem {
        what: "a private key",
        path: key.to_owned(),
        source,
    })?;
    Ok(CertifiedKey::from_der(chain, private, &ring::default_provider())?)
}

/// Reads the certificates of authorities; a file without any is an error.
pub fn load_authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    load_certificates(path)?.into_iter().try_for_each(|certificate| roots.add(certificate))?;
    Ok(roots)
}

fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.and_then(|chain| {
        if chain.is_empty() { Err(rustls_pki_types::pem::Error::NoItemsFound) } else { Ok(chain) }
    });
    chain.map_err(|source| TlsError::Pem { what: "certificates", path: path.to_owned(), source })
}
