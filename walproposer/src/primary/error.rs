//! [`PrimaryError`]: error of the primary, or of the connection to it.

use std::time::Duration;

use postgres_backend::client::ClientError;
use thiserror::Error;

/// Time for the answer to a command.
pub(super) const PRIMARY_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Error of the primary, or of the connection to it.
#[derive(Debug, Error)]
pub(crate) enum PrimaryError {
    /// No server answers, or the server has stopped or is about to: normal, and tried again soon.
    #[error("the primary is down: {0}")]
    Down(String),
    /// The server answers a request with an error.
    #[error("the primary refused a request: {0}")]
    Refused(String),
    /// The server no longer has the requested WAL, or never had it.
    #[error("the primary lacks the requested WAL: {0}")]
    WalRemoved(String),
    /// The server is not a primary whose commits may depend on a quorum.
    #[error("{0}")]
    Unfit(String),
}

impl From<ClientError> for PrimaryError {
    fn from(error: ClientError) -> Self {
        match error {
            // Class 57: shutting down, starting up, crashed.
            ClientError::Server(response) if response.sqlstate.to_string().starts_with("57P") => {
                Self::Down(response.message)
            }
            ClientError::Server(response) => Self::Refused(response.to_string()),
            ClientError::UnsupportedAuthentication(_) | ClientError::NoPassword => {
                Self::Refused(error.to_string())
            }
            other => Self::Down(other.to_string()),
        }
    }
}

/// The primary did not answer within [`PRIMARY_ANSWER_TIMEOUT`].
pub(super) fn no_answer(command: &str) -> PrimaryError {
    PrimaryError::Down(format!("no answer to {command}"))
}
