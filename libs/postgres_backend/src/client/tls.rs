//! [`ClientTls`]: TLS of the client, which certificates it accepts, and the negotiation. Used by `connect`, and by
//! callers that open the stream themselves.

use std::path::Path;
use std::sync::Arc;

use pq_proto::{FramedReader, StartupPacket};
use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, SignatureScheme, WantsVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::AsyncWriteExt;

use super::error::ClientError;
use crate::error::TlsError;
use crate::io::Io;
use crate::stream::Stream;
use crate::tls::load_authorities;
use crate::tls_stream::{Engine, TlsStream};

/// TLS configuration of the client.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Decides which certificates are accepted.
    pub config: Arc<ClientConfig>,
    /// Name that the certificate must be for; the host when `None`.
    pub server_name: Option<String>,
}

impl ClientTls {
    /// Requires a certificate for the server's name that one of the authorities in this PEM file has signed: libpq's
    /// `verify-full`.
    pub fn verify_full(authorities: &Path, server_name: Option<String>) -> Result<Self, TlsError> {
        let config = builder()?.with_root_certificates(load_authorities(authorities)?).with_no_client_auth();
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// Accepts any certificate: libpq's `require`. It keeps listeners out, but not an attacker in the middle who
    /// pretends to be the server.
    pub fn require() -> Result<Self, TlsError> {
        let verifier = Arc::new(AnyCertificate(ring::default_provider().signature_verification_algorithms));
        let config = builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(Self { config: Arc::new(config), server_name: None })
    }

    /// Asks the server for TLS and runs the handshake. The certificate must be for `host` unless `server_name` is set.
    pub async fn connect<S: Io>(&self, mut stream: S, host: &str) -> Result<Stream<S>, ClientError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let server_name =
            ServerName::try_from(name.to_owned()).map_err(|_| ClientError::ServerName(name.to_owned()))?;

        let mut request = bytes::BytesMut::new();
        pq_proto::Encode::encode(&StartupPacket::Ssl, &mut request)?;
        stream.write_all(&request).await?;
        stream.flush().await?;

        let mut reader = FramedReader::new(stream);
        // An error text from before TLS may come from an attacker in the middle: it is not shown (CVE-2024-10977).
        if reader.read_byte().await?.ok_or(ClientError::Closed)? != b'S' {
            return Err(ClientError::TlsRefused);
        }
        // The server waits for the client's first TLS record: bytes behind the answer are not the server's
        // (CVE-2021-23222).
        if !reader.buffered().is_empty() {
            return Err(ClientError::UnencryptedData);
        }

        let (stream, _) = reader.into_parts();
        let connection = UnbufferedClientConnection::new(Arc::clone(&self.config), server_name)
            .map_err(|error| ClientError::Tls(std::io::Error::other(error)))?;
        let stream = TlsStream::new(stream, Engine::Client(connection), &[]);
        Ok(Stream::Tls(stream.handshake().await.map_err(ClientError::Tls)?))
    }
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?)
}

/// Accepts every certificate. The handshake still proves that the server holds its key.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
