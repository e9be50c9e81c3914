//! Endpoints file (TOML): describes the databases of an operator who has no service that manages them. Read by the
//! providers `file` and `auth_query`. Relative paths start at its directory.
//!
//! | key of `[endpoints.NAME]` | meaning |
//! |---|---|
//! | `address` | `host:port` of the database when it runs |
//! | `dbname` | for clients that name no database |
//! | `start` | program and arguments; returns when the database accepts connections. Without it the database is never woken |
//! | `stop`, `suspend_after_seconds` | command that stops the database, and seconds without a session before it runs |
//! | `tls` | `{ ca = "ca.pem", server_name = "db.internal" }`; the name defaults to the host of the address |
//! | `allowed_ips` | addresses, ranges and networks that clients may come from; all when missing |
//! | `roles` | names and verifiers: `SELECT rolname, rolpassword FROM pg_authid` |
//! | `auth_query` | instead of `roles`, see [`super::auth_query`] |

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postgres_backend::client::ClientTls;
use pq_proto::Text;
use scram::Verifier;
use serde::Deserialize;

use super::command::ComputeCommand;
use super::query_database::{QueryUser, RawAuthQuery};
use crate::config::describe_toml_error;
use crate::control_plane::{Compute, ControlPlaneError};
use crate::limits::allowlist::Allowlist;
use crate::route::EndpointName;

/// Longest file, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Longest `suspend_after_seconds`.
const SUSPEND_AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Error in an endpoints file. Does not repeat secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The file is not TOML, or has unknown or missing fields.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line and cause.
        message: String,
    },
    /// A value is not allowed.
    #[error("{}: endpoint \"{endpoint}\": {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The endpoint of the value.
        endpoint: String,
        /// Field and cause.
        problem: String,
    },
}

/// Checked content of the file.
#[derive(Debug, Default)]
pub(super) struct EndpointsFile {
    endpoints: HashMap<EndpointName, Endpoint>,
    /// State file of the provider `auth_query`.
    pub(super) state_file: Option<PathBuf>,
}

/// One endpoint of the file.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) compute: Arc<Compute>,
    pub(super) roles: HashMap<Text, Verifier>,
    pub(super) start: Option<ComputeCommand>,
    /// Stop command, and time without a session after which it runs.
    suspend: Option<(ComputeCommand, Duration)>,
    pub(super) allowlist: Arc<Allowlist>,
    pub(super) auth_query: Option<QueryUser>,
}

impl EndpointsFile {
    /// Reads and checks the file and the files that it names.
    pub(super) fn load(path: &Path) -> Result<Self, FileError> {
        let unreadable = |error| FileError::Io { path: path.to_owned(), error };
        let mut text = String::new();
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
        let raw: RawFile = toml::from_str(&text).map_err(|error| FileError::Syntax {
            path: path.to_owned(),
            message: describe_toml_error(&error, &text),
        })?;

        let directory = path.parent().unwrap_or(Path::new("."));
        let endpoints = raw.endpoints.into_iter().map(|(name, raw)| {
            let parsed = name.parse().map_err(|_| "name is not 1 to 63 of a-z, 0-9 and -".to_owned());
            let parsed = parsed.and_then(|name| Ok((name, raw.check(directory)?)));
            parsed.map_err(|problem| FileError::Value { path: path.to_owned(), endpoint: name, problem })
        });
        let state_file = raw.state_file.map(|path| directory.join(path));
        Ok(Self { endpoints: endpoints.collect::<Result<_, _>>()?, state_file })
    }

    pub(super) fn endpoint(&self, name: &EndpointName) -> Result<&Endpoint, ControlPlaneError> {
        self.endpoints.get(name).ok_or_else(|| ControlPlaneError::UnknownEndpoint(name.clone()))
    }

    /// Endpoints that may be suspended, and after how long without a session.
    pub(super) fn idle_limits(&self) -> HashMap<EndpointName, Duration> {
        let limit =
            |(name, endpoint): (&EndpointName, &Endpoint)| Some((name.clone(), endpoint.suspend.as_ref()?.1));
        self.endpoints.iter().filter_map(limit).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&EndpointName, &Endpoint)> {
        self.endpoints.iter()
    }
}

impl Endpoint {
    /// Runs the stop command.
    pub(super) async fn stop(&self, name: &EndpointName) -> Result<(), ControlPlaneError> {
        let failed = |reason| ControlPlaneError::StopFailed { endpoint: name.clone(), reason };
        match &self.suspend {
            Some((stop, _)) => stop.run_to_stop().await.map_err(failed),
            None => Err(failed("endpoint has no stop command any more".into())),
        }
    }

    /// Runs the start command, and returns when the database accepts connections.
    pub(super) async fn wake(&self, name: &EndpointName) -> Result<Arc<Compute>, ControlPlaneError> {
        let start = self.start.as_ref().ok_or_else(|| ControlPlaneError::NotStartable(name.clone()))?;
        let started = start.run(name.as_str()).await;
        started.map_err(|reason| ControlPlaneError::StartFailed { endpoint: name.clone(), reason })?;
        Ok(Arc::clone(&self.compute))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    state_file: Option<PathBuf>,
    #[serde(default)]
    endpoints: BTreeMap<String, RawEndpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEndpoint {
    address: String,
    dbname: Option<String>,
    #[serde(default)]
    allowed_ips: Vec<String>,
    #[serde(default)]
    roles: BTreeMap<String, String>,
    start: Option<Vec<String>>,
    stop: Option<Vec<String>>,
    suspend_after_seconds: Option<u64>,
    auth_query: Option<RawAuthQuery>,
    tls: Option<RawTls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    ca: PathBuf,
    server_name: Option<String>,
}

impl RawEndpoint {
    /// Checks the values. Relative paths start at `directory`.
    fn check(self, directory: &Path) -> Result<Endpoint, String> {
        let address =
            self.address.parse().map_err(|error| format!("address \"{}\": {error}", self.address))?;
        let command = |what: &str, words: Option<Vec<String>>| {
            let command =
                words.map(|words| ComputeCommand::new(words).ok_or(format!("{what}: program is missing")));
            command.transpose()
        };
        let start = command("start", self.start)?;
        // Checked although unused: a mistake is reported at the start, not when the database is to be stopped.
        let stop = command("stop", self.stop)?;
        let suspend = match (self.suspend_after_seconds, stop) {
            (None, _) => None,
            (Some(seconds), _) if !(1..=SUSPEND_AFTER_MAX.as_secs()).contains(&seconds) => {
                return Err("suspend_after_seconds: must be between 1 and 2592000".into());
            }
            (Some(seconds), Some(stop)) if start.is_some() => Some((stop, Duration::from_secs(seconds))),
            (Some(_), _) => return Err("suspend_after_seconds: needs start and stop".into()),
        };

        let auth_query = self.auth_query.map(|query| query.check(directory)).transpose()?;
        if auth_query.is_some() && !self.roles.is_empty() {
            return Err("must not have both roles and auth_query".into());
        }
        let role = |(name, verifier): (String, String)| match verifier.parse() {
            Ok(verifier) => Ok((Text::from(name), verifier)),
            Err(error) => Err(format!("role \"{name}\": {error}")),
        };
        let roles = self.roles.into_iter().map(role).collect::<Result<_, _>>()?;

        let tls = self.tls.map(|tls| tls.check(directory)).transpose()?;
        let database = self.dbname.filter(|name| !name.is_empty()).map(Text::from);
        let allowlist = Allowlist::parse(self.allowed_ips.iter().map(String::as_str))
            .map_err(|(entry, error)| format!("allowed_ips \"{entry}\": {error}"))?;
        Ok(Endpoint {
            compute: Arc::new(Compute { address, tls, database }),
            roles,
            start,
            suspend,
            auth_query,
            allowlist: Arc::new(allowlist),
        })
    }
}

impl RawTls {
    fn check(self, directory: &Path) -> Result<ClientTls, String> {
        ClientTls::verify_full(&directory.join(&self.ca), self.server_name)
            .map_err(|error| format!("tls.ca: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<EndpointsFile, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("endpoints.toml");
        fs::write(&path, text).unwrap();
        let error = |error: FileError| error.to_string().replace(&path.display().to_string(), "FILE");
        EndpointsFile::load(&path).map_err(error)
    }

    #[test]
    fn load_names_mistakes_and_hides_secrets() {
        for (text, expected) in [
            ("[endpoints.main", "FILE: line 1: "),
            ("[endpoints.main]\nadress = \"h:1\"\n", "FILE: line 2: unknown field `adress`"),
            ("[endpoints.main]\n", "missing field `address`"),
            ("[endpoints.Main]\naddress = \"h:1\"", "endpoint \"Main\": name is not 1 to 63 of"),
            (
                "[endpoints.main]\naddress = \"h\"",
                "endpoint \"main\": address \"h\": not in the form host:port",
            ),
            ("[endpoints.main]\naddress = \"h:1\"\nstart = []", "start: program is missing"),
            ("[endpoints.main]\naddress = \"h:1\"\nstop = [\"\"]", "stop: program is missing"),
            (
                "[endpoints.main]\naddress = \"h:1\"\nsuspend_after_seconds = 60",
                "seconds: needs start and stop",
            ),
            (
                "[endpoints.main]\naddress = \"h:1\"\nallowed_ips = [\"10.0.0.0/33\"]",
                "allowed_ips \"10.0.0.0/33\": not an address",
            ),
            ("[endpoints.main]\naddress = \"h:1\"\ntls = { ca = \"none.pem\" }", "none.pem: "),
            (
                "[endpoints.main]\naddress = \"h:1\"\nroles = { app = \"hunter2\" }",
                "role \"app\": verifier does not",
            ),
            ("[endpoints.main]\naddress = \"h:1\"\nroles = { app = \"hunter2\n", "FILE: line 3: "),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{text}\n{error}");
        }
        assert!(matches!(EndpointsFile::load(Path::new("/nonexistent/file")), Err(FileError::Io { .. })));
    }
}
