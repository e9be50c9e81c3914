//! What can go wrong on a connection, by who can do something about it. Made by every file of this crate.

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
        /// Certificate or key.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// The key does not fit the certificate, or is of a kind that is not supported.
    #[error("cannot use certificate and key: {0}")]
    Unusable(#[from] rustls::Error),
    /// No certificate of a client can be checked with these authorities.
    #[error("cannot check certificates of clients: {0}")]
    ClientVerifier(#[from] VerifierBuilderError),
}

/// A connection did not get as far as its first query.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer took too long.
    #[error("handshake took too long")]
    Timeout,
    /// The stream failed, or carried no messages.
    #[error(transparent)]
    Connection(#[from] FramedError),
    /// The peer closed the connection when it had to answer.
    #[error("connection closed during the handshake")]
    Closed,
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// Bytes came behind a request for encryption, before the answer to it.
    #[error("received unencrypted data after {0}")]
    UnencryptedData(&'static str),
    /// The same request for encryption twice, or one inside TLS.
    #[error("unexpected {0}")]
    UnexpectedRequest(&'static str),
    /// A session without TLS where TLS is required.
    #[error("session without TLS")]
    TlsRequired,
    /// A TLS handshake where TLS is not configured.
    #[error("TLS is not configured")]
    TlsNotConfigured,
    /// A TLS handshake without SSLRequest that does not name the protocol.
    #[error("direct TLS without the ALPN protocol \"postgresql\"")]
    DirectTlsWithoutAlpn,
    /// The client was told to go, in these words.
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
    /// What the client is told, when there is a point in telling it.
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
    /// The client is told, and the connection goes on unless the severity is fatal.
    #[error(transparent)]
    Response(#[from] ErrorResponse),
    /// The connection is beyond use.
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

/// True for the errors that mean no more than "the peer is gone".
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
