//! Asking a database for the verifier of a role: as whom, and what may come back. Implemented by `compute`, configured in
//! the endpoints file, used by the provider `auth_query`.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pq_proto::Text;
use serde::Deserialize;

use crate::control_plane::Compute;

/// Longest password of the role that asks, in bytes.
const PASSWORD_BYTES_MAX: usize = 1024;

/// As whom a database is asked.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) user: Text,
    pub(crate) password: Bytes,
    pub(crate) database: Text,
    pub(super) wake_unauthenticated: bool,
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asker({:?})", self.user)
    }
}

/// Asks a database. Implemented by `compute`, and by tests.
pub(crate) trait AskDatabase: fmt::Debug + Send + Sync {
    /// What the database stores for this role: nothing when it cannot log in with a password.
    fn rolpassword<'a>(&'a self, compute: &'a Compute, asker: &'a Asker, role: &'a str) -> Asked<'a>;
}

/// An answer that takes time.
pub(crate) type Asked<'a> =
    std::pin::Pin<Box<dyn Future<Output = Result<Option<String>, AskError>> + Send + 'a>>;

/// No answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody takes connections there, or not yet, or not any more: it sleeps.
    #[error("{0}")]
    Asleep(io::Error),
    /// It runs, or will in a moment, and did not answer.
    #[error("{0}")]
    Failed(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuthQuery {
    user: String,
    password_file: PathBuf,
    #[serde(default = "postgres")]
    dbname: String,
    #[serde(default)]
    wake_unauthenticated: bool,
}

fn postgres() -> String {
    "postgres".into()
}

impl RawAuthQuery {
    pub(super) fn check(self, beside: &Path) -> Result<Asker, String> {
        let path = beside.join(&self.password_file);
        let problem =
            |error: &dyn fmt::Display| format!("auth_query.password_file {}: {error}", path.display());
        let password = fs::read_to_string(&path).map_err(|error| problem(&error))?;
        let password = password.trim_end_matches(['\r', '\n']);
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(problem(&"it is empty, or longer than 1024 bytes"));
        }
        Ok(Asker {
            user: self.user.into(),
            password: Bytes::copy_from_slice(password.as_bytes()),
            database: self.dbname.into(),
            wake_unauthenticated: self.wake_unauthenticated,
        })
    }
}
