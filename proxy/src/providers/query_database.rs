//! Interface to a database that is asked for verifiers: the role that asks, and the possible results. Implemented by
//! `compute`, configured in the endpoints file, used by the provider `auth_query`.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pq_proto::Text;
use serde::Deserialize;

use crate::control_plane::Compute;

/// Longest password of the asking role, in bytes.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Role that asks a database for verifiers. `Debug` does not show its password.
#[derive(Clone)]
pub(crate) struct QueryUser {
    pub(crate) name: Text,
    pub(crate) password: Bytes,
    pub(crate) database: Text,
    /// Whether a client that has proved nothing may have the database woken.
    pub(super) wake_unauthenticated: bool,
}

impl fmt::Debug for QueryUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueryUser({:?})", self.name)
    }
}

/// Connection to databases that are asked for verifiers. Implemented by `compute`, and by tests.
pub(crate) trait QueryDatabase: fmt::Debug + Send + Sync {
    /// Reads what the database stores for `role`. `None` when the role cannot log in with a password.
    fn rolpassword<'a>(&'a self, compute: &'a Compute, user: &'a QueryUser, role: &'a str) -> QueryReply<'a>;
}

/// Future of the stored text.
pub(crate) type QueryReply<'a> =
    std::pin::Pin<Box<dyn Future<Output = Result<Option<String>, QueryError>> + Send + 'a>>;

/// Reason why a database gave no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    /// The database is suspended, starting or stopping: nothing accepts connections.
    #[error("{0}")]
    Suspended(io::Error),
    /// The database runs and gave no usable result.
    #[error("{0}")]
    Failed(String),
}

/// Table `auth_query` of an endpoint, unchecked.
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
    /// Checks the table and reads the password file. Relative paths start at `directory`.
    pub(super) fn check(self, directory: &Path) -> Result<QueryUser, String> {
        let path = directory.join(&self.password_file);
        let problem =
            |error: &dyn fmt::Display| format!("auth_query.password_file {}: {error}", path.display());
        let password = fs::read_to_string(&path).map_err(|error| problem(&error))?;
        let password = password.trim_end_matches(['\r', '\n']);
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(problem(&"password is empty or longer than 1024 bytes"));
        }
        Ok(QueryUser {
            name: self.user.into(),
            password: Bytes::copy_from_slice(password.as_bytes()),
            database: self.dbname.into(),
            wake_unauthenticated: self.wake_unauthenticated,
        })
    }
}
