//! Browser logins: shows the client a URL, and waits until the service behind that page reports which database it may have.
//!
//! The service reports to the management port ([`mgmt`]). Nothing is woken before.
//!
//! ```toml
//! uri = "https://console.example.com/psql_session/"   # the number of the login is appended
//! confirmation_seconds = 120
//! compute_ca = "ca.pem"      # optional: the authorities that must have signed the databases' certificates
//! ```
//!
//! Called by the session instead of `route` and `auth`, with `--control-plane link:PATH`.

pub(crate) mod mgmt;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postgres_backend::client::ClientTls;
use postgres_backend::{Connection, Io, TlsError};
use pq_proto::error_response::{Notice, Severity};
use pq_proto::{Authentication, BackendMessage, ErrorResponse, FramedError, SqlState, StartupParams, Text};
use rand::Rng;
use scram::Credentials;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::client_facing::{ClientFacing, Response, violation};
use crate::compute::handshake::Login;
use crate::config::describe_toml_error;
use crate::control_plane::{Address, Compute};
use crate::peers::Peers;

/// Clients that wait for a confirmation at the same time, at most.
const WAITING_MAX: usize = 10_000;
/// Random bytes in the number of a login. An attacker who guesses one could lure a person into confirming it.
const NUMBER_BYTES: usize = 16;
/// Longest time for a person to confirm.
const CONFIRMATION_MAX: Duration = Duration::from_secs(60 * 60);

/// The service's decision about a login.
#[derive(Debug, Deserialize)]
pub(crate) enum Verdict {
    /// The client may have this database.
    Success(Granted),
    /// The client may not connect, with the reason.
    Failure(String),
}

/// A database, and the role and password to log in with.
#[derive(Deserialize)]
pub(crate) struct Granted {
    host: String,
    port: u16,
    dbname: String,
    user: String,
    #[serde(default)]
    password: Option<String>,
}

impl std::fmt::Debug for Granted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Granted({}@{}:{}/{})", self.user, self.host, self.port, self.dbname)
    }
}

/// The clients that wait for a confirmation.
#[derive(Debug)]
pub(crate) struct Links {
    uri: String,
    confirmation: Duration,
    compute_tls: Option<ClientTls>,
    waiting: Mutex<HashMap<String, oneshot::Sender<Verdict>>>,
    /// Peer processes, whose clients may wait too.
    peers: OnceLock<Peers>,
}

/// A client whose login was confirmed.
#[derive(Debug)]
pub(crate) struct Linked {
    pub(crate) compute: Arc<Compute>,
    pub(crate) login: Login,
    pub(crate) role: String,
}

/// Why the client gets no database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the login was not confirmed within {} seconds", .0.as_secs())]
    NotConfirmed(Duration),
    #[error("the login was refused: {0}")]
    Refused(String),
    #[error("too many logins wait for their confirmation")]
    TooMany,
    #[error("expected nothing before the session is ready, got message {0:?}")]
    UnexpectedMessage(char),
    #[error("the client closed the connection")]
    Closed,
    #[error(transparent)]
    Connection(#[from] FramedError),
}

impl ClientFacing for LinkError {
    fn label(&self) -> &'static str {
        match self {
            Self::NotConfirmed(_) => "not_confirmed",
            Self::Refused(_) => "link_refused",
            Self::TooMany => "too_many_links",
            Self::UnexpectedMessage(_) => "bad_authentication",
            Self::Closed | Self::Connection(_) => "client_left",
        }
    }

    fn response(&self) -> Option<Response> {
        let fatal = |sqlstate| ErrorResponse::fatal(sqlstate, self.to_string());
        let response = match self {
            Self::NotConfirmed(_) => fatal(SqlState::INVALID_AUTHORIZATION)
                .with_hint("Connect again, and open the address that is shown."),
            Self::Refused(_) => fatal(SqlState::INVALID_AUTHORIZATION),
            Self::TooMany => fatal(SqlState::TOO_MANY_CONNECTIONS),
            Self::UnexpectedMessage(_) => violation(self.to_string()),
            Self::Closed | Self::Connection(_) => return None,
        };
        Some(Response::Proxy(response))
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkConfigError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("uri: must begin with http:// or https://")]
    Uri,
    #[error("confirmation_seconds: must be between 1 and 3600")]
    Confirmation,
    #[error("compute_ca: {0}")]
    Authorities(#[from] TlsError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    uri: String,
    #[serde(default = "two_minutes")]
    confirmation_seconds: u64,
    compute_ca: Option<PathBuf>,
}

const fn two_minutes() -> u64 {
    120
}

impl Links {
    pub(crate) fn load(path: &Path) -> Result<Self, LinkConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| LinkConfigError::Io { path: path.to_owned(), error })?;
        let raw: RawLink = toml::from_str(&text).map_err(|error| LinkConfigError::Syntax {
            path: path.to_owned(),
            message: describe_toml_error(&error, &text),
        })?;
        if !raw.uri.starts_with("http://") && !raw.uri.starts_with("https://") {
            return Err(LinkConfigError::Uri);
        }
        let confirmation = Duration::from_secs(raw.confirmation_seconds);
        if confirmation.is_zero() || confirmation > CONFIRMATION_MAX {
            return Err(LinkConfigError::Confirmation);
        }
        let directory = path.parent().unwrap_or(Path::new("."));
        let authorities = raw.compute_ca.map(|path| ClientTls::verify_full(&directory.join(path), None));
        let compute_tls = authorities.transpose()?;
        let (waiting, peers) = (Mutex::default(), OnceLock::new());
        Ok(Self { uri: raw.uri, confirmation, compute_tls, waiting, peers })
    }

    /// Sets the peer processes that get reports for clients that do not wait here. To be called once.
    pub(crate) fn set_peers(&self, peers: Peers) {
        let _ = self.peers.set(peers);
    }

    /// Shows the client the URL, and waits for the confirmation. AuthenticationOk is sent first: clients show no notice before
    /// it.
    ///
    /// # Errors
    ///
    /// When the login is refused, not confirmed in time, or the client leaves.
    pub(crate) async fn log_in<S: Io>(
        &self,
        client: &mut Connection<S>,
        params: StartupParams,
        random: &mut (impl Rng + Send),
    ) -> Result<Linked, LinkError> {
        let mut number = [0; NUMBER_BYTES];
        random.fill_bytes(&mut number);
        let mut waiting = self.wait(hex::encode(number))?;
        let writer = &mut client.writer;
        writer.put(&BackendMessage::Authentication(Authentication::Ok)).map_err(FramedError::from)?;
        let encoding =
            BackendMessage::ParameterStatus { name: "client_encoding".into(), value: "UTF8".into() };
        writer.put(&encoding).map_err(FramedError::from)?;
        let words = format!("Welcome!\nAuthenticate by visiting:\n    {}{}\n\n", self.uri, waiting.number);
        writer.send(&notice(words)).await?;
        let verdict = tokio::select! {
            verdict = timeout(self.confirmation, &mut waiting.verdict) => verdict,
            // Cancel safe: a message that has arrived in part stays in the reader's buffer.
            error = departure(client) => return Err(error),
        };
        match verdict {
            Ok(Ok(Verdict::Success(granted))) => {
                client.writer.send(&notice("Connecting to database.".into())).await?;
                Ok(self.linked(granted, &params))
            }
            Ok(Ok(Verdict::Failure(reason))) => Err(LinkError::Refused(reason.replace('\0', " "))),
            Ok(Err(_)) | Err(_) => Err(LinkError::NotConfirmed(self.confirmation)),
        }
    }

    /// The login at the granted database. Role and database are the granted ones; other parameters are the client's.
    fn linked(&self, granted: Granted, params: &StartupParams) -> Linked {
        let Granted { host, port, dbname, user, password } = granted;
        let kept = params.iter().filter(|(name, _)| *name != "user" && *name != "database");
        let kept = kept.map(|(name, value)| (name.clone(), value.clone()));
        let given = [("user", &user), ("database", &dbname)];
        let params = given.map(|(name, value)| (Text::from(name), Text::from(value.as_str())));
        Linked {
            compute: Arc::new(Compute {
                address: Address { host, port },
                tls: self.compute_tls.clone(),
                database: None,
            }),
            login: Login {
                params: params.into_iter().chain(kept).collect(),
                credentials: Credentials::Password(Bytes::from(password.unwrap_or_default())),
            },
            role: user,
        }
    }

    /// Passes a decision on. Returns whether a client waited for it.
    pub(crate) fn report(&self, number: &str, verdict: Verdict) -> bool {
        let waiting = self.waiting.lock().remove(number);
        waiting.is_some_and(|waiting| waiting.send(verdict).is_ok())
    }

    fn wait(&self, number: String) -> Result<Waiting<'_>, LinkError> {
        let (sender, verdict) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING_MAX {
            return Err(LinkError::TooMany);
        }
        waiting.insert(number.clone(), sender);
        Ok(Waiting { links: self, number, verdict })
    }
}

/// A waiting client's entry. Dropping it removes the entry.
struct Waiting<'l> {
    links: &'l Links,
    number: String,
    verdict: oneshot::Receiver<Verdict>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.links.waiting.lock().remove(&self.number);
    }
}

/// Returns when the client has left, or has sent a message though it has to wait.
async fn departure<S: Io>(client: &mut Connection<S>) -> LinkError {
    match client.reader.peek_byte().await {
        Ok(Some(b'X') | None) => LinkError::Closed,
        Ok(Some(tag)) => LinkError::UnexpectedMessage(char::from(tag)),
        Err(error) => LinkError::Connection(error),
    }
}

fn notice(message: String) -> BackendMessage {
    let severity = Severity::Notice(Notice::Notice);
    BackendMessage::NoticeResponse(ErrorResponse::new(severity, SqlState::SUCCESSFUL_COMPLETION, message))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../examples/link.toml");

    pub(crate) fn load(text: &str) -> Result<Links, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.toml");
        std::fs::write(&path, text).unwrap();
        let authority = rcgen::generate_simple_self_signed(["authority".to_owned()]).unwrap();
        std::fs::write(directory.path().join("ca.pem"), authority.cert.pem()).unwrap();
        Links::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn link_config_example_loads_and_mistakes_are_named() {
        let links = load(EXAMPLE).unwrap();
        assert_eq!((links.confirmation, links.compute_tls.is_some()), (Duration::from_secs(120), true));
        for (text, expected) in [
            ("", "missing field `uri`"),
            ("uri = \"psql\"", "uri: must begin with http"),
            ("uri = \"http://h/\"\nconfirmation_seconds = 0", "confirmation_seconds: "),
            ("uri = \"http://h/\"\ncompute_ca = \"none.pem\"", "none.pem"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(expected), "{text}\n{error}");
        }
    }

    #[test]
    fn report_reaches_its_waiting_client_once() {
        let links = load("uri = \"http://h/\"").unwrap();
        let failure = || Verdict::Failure("no".into());
        assert!(!links.report("aa", failure()));
        let mut waiting = links.wait("aa".into()).unwrap();
        assert!(!links.report("ab", failure()));
        assert!(links.report("aa", failure()) && !links.report("aa", failure()));
        assert!(matches!(waiting.verdict.try_recv(), Ok(Verdict::Failure(_))));
        drop(links.wait("ab".into()).unwrap());
        assert!(!links.report("ab", failure()) && links.waiting.lock().is_empty());
    }
}
