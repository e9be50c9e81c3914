//! Errors of a connection, one type for each stage: TLS files, handshake, command. Made by every file of this crate.

use std::io;
use std::path::PathBuf;

use pq_proto::{ErrorResponse, FramedError, ProtocolError, ProtocolVersion, SqlState};
use rustls::server::VerifierBuilderError;

/// A certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or holds no PEM of the expected kind.
    #[error("cannot read {what} from {}: {source}", path.display())]
    Pem {
        /// Kind of content: certificates or a private key.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        source: rustls_pki_types::pem::Error,
    },
    /// The key does not fit the certificate, or is of a kind that is not supported.
    #[error("cannot use certificate and key: {0}")]
    Unusable(#[from] rustls::Error),
    /// The authorities cannot be used to check client certificates.
    #[error("cannot use the authorities for client certificates: {0}")]
    ClientVerifier(#[from] VerifierBuilderError),
}

/// A connection ended before its first query.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client did not finish the handshake before the deadline.
    #[error("handshake timed out")]
    Timeout,
    /// The stream failed, or its bytes were no valid messages.
    #[error(transparent)]
    Connection(#[from] FramedError),
    /// The client closed the connection instead of an answer.
    #[error("connection closed during the handshake")]
    Closed,
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// Bytes arrived behind a request for encryption before it was answered.
    #[error("received unencrypted data after {0}")]
    UnencryptedData(&'static str),
    /// The client repeated a request for encryption, or sent one inside TLS.
    #[error("unexpected {0}")]
    UnexpectedRequest(&'static str),
    /// The client asked for a session without TLS where TLS is required.
    #[error("session without TLS where TLS is required")]
    TlsRequired,
    /// The client began a TLS handshake where TLS is not configured.
    #[error("TLS handshake where TLS is not configured")]
    TlsNotConfigured,
    /// The client began TLS without SSLRequest and did not name the protocol in ALPN.
    #[error("direct TLS without the ALPN protocol \"postgresql\"")]
    DirectTlsWithoutAlpn,
    /// The client was refused with this response.
    #[error("refused: {0}")]
    Refused(#[source] ErrorResponse),
}

impl From<ProtocolError> for HandshakeError {
    fn from(error: ProtocolError) -> Self {
        Self::Connection(error.into())
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Connection(error.into())
    }
}

impl HandshakeError {
    /// The response for the client; `None` when it could not read one, or expects none.
    pub fn response(&self) -> Option<ErrorResponse> {
        let violation = |message: String| Some(ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, message));
        match self {
            Self::Timeout => Some(ErrorResponse::fatal(
                SqlState::QUERY_CANCELED,
                "canceling authentication due to timeout",
            )),
            Self::Closed | Self::Tls(_) | Self::TlsNotConfigured => None,
            Self::Connection(FramedError::Protocol(error @ ProtocolError::UnsupportedVersion(_))) => {
                let message = format!("{error}: server supports 3.0 to {}", ProtocolVersion::NEWEST);
                Some(ErrorResponse::fatal(SqlState::FEATURE_NOT_SUPPORTED, message))
            }
            Self::Connection(FramedError::Protocol(error)) => violation(format!("invalid message before the session: {error}")),
            Self::Connection(FramedError::Io(_) | FramedError::ClosedInsideMessage) => None,
            Self::UnencryptedData(_) => violation(self.to_string()).map(|reply| {
                reply.with_detail(
                    "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
                )
            }),
            Self::UnexpectedRequest(_) | Self::DirectTlsWithoutAlpn => violation(self.to_string()),
            Self::TlsRequired => Some(ErrorResponse::fatal(
                SqlState::INVALID_AUTHORIZATION,
                "connection is insecure (try using `sslmode=require`)",
            )),
            Self::Refused(response) => Some(response.clone()),
        }
    }
}

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The client gets this response. The connection goes on unless the severity is fatal.
    #[error(transparent)]
    Response(#[from] ErrorResponse),
    /// The connection failed and cannot be used any more.
    #[error(transparent)]
    Connection(#[from] FramedError),
}

impl From<ProtocolError> for QueryError {
    fn from(error: ProtocolError) -> Self {
        Self::Connection(error.into())
    }
}

impl From<io::Error> for QueryError {
    fn from(error: io::Error) -> Self {
        Self::Connection(error.into())
    }
}

/// True for an error that only means that the peer has disconnected.
pub fn is_disconnect(error: &FramedError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    match error {
        FramedError::ClosedInsideMessage => true,
        FramedError::Io(error) => {
            matches!(
                error.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
            )
        }
        FramedError::Protocol(_) => false,
    }
}
