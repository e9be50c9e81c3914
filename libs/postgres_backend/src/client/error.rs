//! [`ClientError`]: a failed request of the client, and its limit for results.

use std::io;

use pq_proto::{ErrorResponse, FramedError, ProtocolError};

/// Longest message of a server outside a copy, and longest result as a whole, in bytes.
pub const RESULT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A request of the client failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server was not ready for a query in time.
    #[error("connecting to the server timed out")]
    Timeout,
    /// The TCP connection failed.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// The server refused the request for TLS.
    #[error("server does not support TLS")]
    TlsRefused,
    /// The server's name cannot be checked against a certificate.
    #[error("invalid server name for TLS: {0:?}")]
    ServerName(String),
    /// Bytes arrived before the TLS handshake; an attacker in the middle may have put them there.
    #[error("received unencrypted data after the answer to SSLRequest")]
    UnencryptedData,
    /// The server asks for a kind of authentication that this client does not support.
    #[error("server asks for an unsupported kind of authentication: {0}")]
    UnsupportedAuthentication(&'static str),
    /// The server asks for a password, and none is configured.
    #[error("server asks for a password, and none is configured")]
    NoPassword,
    /// A text to send holds a zero byte, which would end it early.
    #[error("zero byte inside {0}")]
    ZeroByte(&'static str),
    /// The server answered with an error.
    #[error(transparent)]
    Server(#[from] ErrorResponse),
    /// The stream failed, or its bytes were no valid messages.
    #[error(transparent)]
    Connection(#[from] FramedError),
    /// The server closed the connection.
    #[error("server closed the connection")]
    Closed,
    /// The server sent a message that has no place here.
    #[error("unexpected message {:?} from the server", char::from(*.0))]
    UnexpectedMessage(u8),
    /// The result is longer than this client accepts.
    #[error("result exceeds {RESULT_BYTES_MAX} bytes")]
    ResultTooLong,
}

impl From<ProtocolError> for ClientError {
    fn from(error: ProtocolError) -> Self {
        Self::Connection(error.into())
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Connection(error.into())
    }
}
