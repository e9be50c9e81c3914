//! Who knows endpoints: their roles' verifiers, where their computes are, and how to wake them. One trait, so that a
//! file, an HTTP service or the database itself can be asked; [`Cached`] stands before all of them.

mod cached;
mod command;
mod file;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use postgres_backend::client::ClientTls;
use pq_proto::{ErrorResponse, SqlState, Text};

pub(crate) use cached::Cached;
pub(crate) use file::FileControlPlane;

use crate::route::EndpointName;
use crate::scram::Verifier;

/// An answer that takes time. Boxed, because providers are chosen at the start of the program.
pub(crate) type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, ControlPlaneError>> + Send + 'a>>;

/// What a provider is asked.
pub(crate) trait ControlPlane: fmt::Debug + Send + Sync {
    /// The verifier of a role; `None` when the endpoint has no such role.
    fn verifier<'a>(&'a self, endpoint: &'a EndpointName, role: &'a Text) -> Reply<'a, Option<Verifier>>;

    /// Where the compute is, as far as that can be said without starting it.
    fn locate<'a>(&'a self, endpoint: &'a EndpointName) -> Reply<'a, Arc<Compute>>;

    /// Starts the compute unless it runs, and returns when it takes connections.
    fn wake<'a>(&'a self, endpoint: &'a EndpointName) -> Reply<'a, Arc<Compute>>;
}

/// No answer. Clones go to everybody who waited for the same one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlPlaneError {
    #[error("endpoint \"{0}\" is not known")]
    UnknownEndpoint(EndpointName),
    #[error("endpoint \"{0}\" does not take connections, and there is no command to start it")]
    NotStartable(EndpointName),
    #[error("endpoint \"{endpoint}\" could not be started: {reason}")]
    StartFailed { endpoint: EndpointName, reason: String },
}

impl ControlPlaneError {
    /// What a client is told.
    pub(crate) fn response(&self) -> ErrorResponse {
        let response = |sqlstate| ErrorResponse::fatal(sqlstate, self.to_string());
        match self {
            Self::UnknownEndpoint(_) => response(SqlState::INVALID_AUTHORIZATION).with_hint(
                "Look at the host name, or at the name after \"endpoint=\" or behind the last \"@\".",
            ),
            Self::NotStartable(_) | Self::StartFailed { .. } => response(SqlState::CONNECTION_FAILURE)
                .with_hint("Its operator finds the reason in the proxy's log."),
        }
    }
}

/// A PostgreSQL server that an endpoint stands for.
#[derive(Debug)]
pub(crate) struct Compute {
    pub(crate) address: Address,
    /// How to encrypt; plain when `None`.
    pub(crate) tls: Option<ClientTls>,
    /// For clients that name no database.
    pub(crate) database: Option<Text>,
}

/// `host:port`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Name or address, an IPv6 one without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A text that is not `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not host:port")]
pub(crate) struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(NoAddress)?;
        let bare =
            host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']')).ok_or(NoAddress)?;
        // Without brackets nobody can tell where an IPv6 address ends and the port begins.
        let ambiguous = bare.len() == host.len() && host.contains(':');
        match port.parse() {
            Ok(port) if port > 0 && !bare.is_empty() && !ambiguous => {
                Ok(Self { host: bare.to_owned(), port })
            }
            _ => Err(NoAddress),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brackets = if self.host.contains(':') { ["[", "]"] } else { ["", ""] };
        write!(f, "{}{}{}:{}", brackets[0], self.host, brackets[1], self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for text in ["127.0.0.1:5432", "db.internal:1", "[::1]:5432"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in
            ["", "5432", ":5432", "host", "host:", "host:0", "host:65536", "::1:5432", "[::1:5432", "[]:1"]
        {
            assert_eq!(text.parse::<Address>(), Err(NoAddress), "{text}");
        }
    }
}
