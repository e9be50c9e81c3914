//! How a connection ended: the result of a session that worked ([`SessionEnd`]), or why there was none ([`SessionError`]).

use postgres_backend::HandshakeError;
use pq_proto::{ErrorResponse, FramedError, SqlState};
use tracing::Level;

use crate::auth::AuthError;
use crate::client_facing::{ClientFacing, Response};
use crate::compute::ConnectError;
use crate::limits::connections::TooMany;
use crate::link::LinkError;
use crate::observe::session_record::Closed;
use crate::relay::RelayEnd;
use crate::route::RouteError;

/// How a connection ended in which nothing went wrong on the way to its compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The client closed the connection before it said what it wants: a port check.
    NothingAsked,
    /// The connection was a cancel request.
    CancelRequest,
    /// Bytes were relayed until one side ended.
    Relayed(RelayEnd),
}

/// Why a connection did not become a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The handshake has told the client.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error("the proxy is shutting down")]
    Draining,
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("canceling authentication due to timeout")]
    Timeout,
    /// The client's connection broke.
    #[error(transparent)]
    Client(#[from] FramedError),
}

impl ClientFacing for SessionError {
    fn label(&self) -> &'static str {
        match self {
            Self::Handshake(HandshakeError::TlsRequired) => "plaintext",
            Self::Handshake(HandshakeError::Tls(_)) => "tls_failed",
            Self::Handshake(HandshakeError::Timeout) | Self::Timeout => "client_timeout",
            Self::Handshake(error) if error.response().is_some() => "bad_startup",
            Self::Handshake(_) | Self::Client(_) => "client_left",
            Self::Draining => "draining",
            Self::TooMany(error) => error.label(),
            Self::Route(error) => error.label(),
            Self::Auth(error) => error.label(),
            Self::Link(error) => error.label(),
            Self::Connect(error) => error.label(),
        }
    }

    fn response(&self) -> Option<Response> {
        let fatal = |sqlstate| ErrorResponse::fatal(sqlstate, self.to_string());
        match self {
            Self::Draining => Some(Response::Proxy(
                fatal(SqlState::CANNOT_CONNECT_NOW).with_hint("Connect again: another one takes over."),
            )),
            Self::Timeout => Some(Response::Proxy(fatal(SqlState::QUERY_CANCELED))),
            Self::TooMany(error) => error.response(),
            Self::Route(error) => error.response(),
            Self::Auth(error) => error.response(),
            Self::Link(error) => error.response(),
            Self::Connect(error) => error.response(),
            Self::Handshake(_) | Self::Client(_) => None,
        }
    }
}

impl SessionEnd {
    /// Entry in the session's record. Port checks and cancel requests are logged at DEBUG only.
    fn closed(self) -> Closed {
        let (reason, level, message) = match self {
            Self::NothingAsked => ("nothing_asked", Level::DEBUG, "nothing asked"),
            Self::CancelRequest => ("cancel_request", Level::DEBUG, "cancel request"),
            Self::Relayed(end) => (end.label(), Level::INFO, "session ended"),
        };
        Closed { reason, level, message, error: None }
    }
}

impl SessionError {
    /// Entry in the session's record. Only faults that an operator has to look at are warnings.
    fn closed(&self) -> Closed {
        let is_fault = matches!(self, Self::Connect(error) if !error.is_refusal());
        let level = if is_fault { Level::WARN } else { Level::INFO };
        Closed { reason: self.label(), level, message: "no session", error: Some(self.to_string()) }
    }
}

/// How the connection was closed, for its record.
pub(crate) fn closed(result: &Result<SessionEnd, SessionError>) -> Closed {
    match result {
        Ok(end) => end.closed(),
        Err(error) => error.closed(),
    }
}
