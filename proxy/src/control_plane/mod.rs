//! Who knows endpoints: their roles' verifiers, where their computes are, and how to wake them. One trait, so that a
//! file, an HTTP service or the database itself can be asked; [`Cached`] stands before all of them.

mod auth_query;
mod cache;
mod cached;
mod cached_access;
mod command;
mod endpoints_file;
mod file;
mod http;
mod idle;
mod upkeep;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use postgres_backend::client::ClientTls;
use pq_proto::{ErrorResponse, SqlState, Text};
use scram::Verifier;

pub(crate) use auth_query::{AskDatabase, AskError, Asked, Asker, AuthQueryControlPlane};
pub(crate) use cached::Cached;
pub(crate) use cached_access::Accessed;
pub(crate) use file::FileControlPlane;
pub(crate) use http::{HttpControlPlane, TokenFile};
pub(crate) use idle::{InUse, Used};
pub(crate) use upkeep::{Dropped, Invalidation};

use crate::activity::SessionId;
use crate::allowlist::Allowlist;
use crate::reload::Take;
use crate::route::EndpointName;

/// An answer that takes time. Boxed, because providers are chosen at the start of the program.
pub(crate) type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, ControlPlaneError>> + Send + 'a>>;

/// What a provider is asked.
pub(crate) trait ControlPlane: fmt::Debug + Send + Sync {
    /// Who may come in as this role.
    fn access<'a>(&'a self, wanted: &'a Wanted, role: &'a Text) -> Reply<'a, Access>;

    /// Where the compute is, as far as that can be said without starting it.
    fn locate<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>>;

    /// Starts the compute unless it runs, and returns when it takes connections.
    fn wake<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>>;

    /// A client of this role did not know the password that fits what was said last.
    fn doubted(&self, wanted: &Wanted, role: &Text) {
        let _ = (wanted, role);
    }

    /// Whether it has all answers in memory and knows of every change. Nothing is kept of what it says.
    fn is_in_memory(&self) -> bool {
        true
    }

    /// Whether to locate a compute is to wake it, which is limited.
    fn locating_wakes(&self) -> bool {
        false
    }

    /// After how long without a session which computes may be stopped.
    fn idle_limits(&self) -> HashMap<EndpointName, Duration> {
        HashMap::new()
    }

    /// Stops a compute that nobody uses.
    fn stop<'a>(&'a self, endpoint: &'a EndpointName) -> Reply<'a, ()> {
        Box::pin(std::future::ready(Err(ControlPlaneError::UnknownEndpoint(endpoint.clone()))))
    }

    /// The files that its answers come from.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Reads them again, as a [`crate::reload::Source`].
    fn read(&self) -> Result<Take<'_>, String> {
        Ok(Box::new(|| ()))
    }
}

/// An endpoint, and for whom it is asked.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) endpoint: EndpointName,
    /// The session that asks. What is shared or kept carries the one that asked first.
    pub(crate) session: SessionId,
    /// What the client calls itself.
    pub(crate) application: Option<Text>,
}

#[cfg(test)]
impl Wanted {
    pub(crate) fn for_test(endpoint: &str) -> Self {
        Self { endpoint: endpoint.parse().unwrap(), session: SessionId(1), application: None }
    }
}

/// Who may come in. A copy is cheap enough for every login.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// `None` when the endpoint has no such role, or the role has no password.
    pub(crate) verifier: Option<Verifier>,
    pub(crate) allowlist: Arc<Allowlist>,
    /// To whom the endpoint belongs, where that is told.
    pub(crate) project: Option<Project>,
    /// The compute sleeps, and would know better: it may be woken and asked again, once.
    pub(crate) may_wake: bool,
}

/// Name of a project: endpoints that belong together.
pub(crate) type Project = Arc<str>;

/// No answer. Clones go to everybody who waited for the same one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlPlaneError {
    #[error("endpoint \"{0}\" is not known")]
    UnknownEndpoint(EndpointName),
    /// It is known and closed. The words are the control plane's, and meant for people.
    #[error("{message}")]
    Refused { sqlstate: SqlState, message: String },
    /// Something is going on with it that ends by itself.
    #[error("{message}")]
    Busy { message: String },
    /// Nothing can be said about the endpoint; the log has the reason.
    #[error("the control plane gave no answer for endpoint \"{0}\"")]
    Unavailable(EndpointName),
    #[error("endpoint \"{0}\" does not take connections, and there is no command to start it")]
    NotStartable(EndpointName),
    #[error("endpoint \"{endpoint}\" could not be started: {reason}")]
    StartFailed { endpoint: EndpointName, reason: String },
    /// It was started so often in a short time that it is not tried again now.
    #[error("endpoint \"{endpoint}\" was started too often in a short time")]
    TooManyWakes { endpoint: EndpointName, retry_after: Duration },
    /// For the log: no client waits for it.
    #[error("endpoint \"{endpoint}\" could not be stopped: {reason}")]
    StopFailed { endpoint: EndpointName, reason: String },
}

impl ControlPlaneError {
    /// It would be the same for whoever asks next.
    const fn is_about_the_endpoint(&self) -> bool {
        matches!(self, Self::UnknownEndpoint(_) | Self::Refused { .. })
    }

    /// What a client is told.
    pub(crate) fn response(&self) -> ErrorResponse {
        let response = |sqlstate| ErrorResponse::fatal(sqlstate, self.to_string());
        match self {
            Self::UnknownEndpoint(_) => response(SqlState::INVALID_AUTHORIZATION).with_hint(
                "Look at the host name, or at the name after \"endpoint=\" or behind the last \"@\".",
            ),
            Self::Refused { sqlstate, .. } => response(*sqlstate),
            Self::Busy { .. } => response(SqlState::CANNOT_CONNECT_NOW).with_hint("Try again in a moment."),
            Self::TooManyWakes { retry_after, .. } => response(SqlState::CONFIGURATION_LIMIT_EXCEEDED)
                .with_hint(format!("Try again in {} s.", retry_after.as_secs().saturating_add(1))),
            Self::NotStartable(_)
            | Self::StartFailed { .. }
            | Self::StopFailed { .. }
            | Self::Unavailable(_) => response(SqlState::CONNECTION_FAILURE)
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

/// Knows no endpoint: for a proxy whose clients do not name one.
#[derive(Debug)]
pub(crate) struct NoControlPlane;

impl NoControlPlane {
    fn unknown<T>(wanted: &Wanted) -> Reply<'_, T>
    where
        T: Send + 'static,
    {
        Box::pin(std::future::ready(Err(ControlPlaneError::UnknownEndpoint(wanted.endpoint.clone()))))
    }
}

impl ControlPlane for NoControlPlane {
    fn access<'a>(&'a self, wanted: &'a Wanted, _: &'a Text) -> Reply<'a, Access> {
        Self::unknown(wanted)
    }

    fn locate<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>> {
        Self::unknown(wanted)
    }

    fn wake<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>> {
        Self::unknown(wanted)
    }
}

/// Line and reason. The library's own text shows the line itself, in which there may be a secret.
pub(crate) fn describe_toml_error(error: &toml::de::Error, text: &str) -> String {
    let line = |start| text.get(..start).unwrap_or_default().matches('\n').count() + 1;
    match error.span() {
        Some(span) => format!("line {}: {}", line(span.start), error.message()),
        None => error.message().to_owned(),
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
