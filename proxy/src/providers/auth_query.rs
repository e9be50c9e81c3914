//! Provider `auth_query`: asks the databases themselves for verifiers, with a role that may read `pg_authid`. For
//! operators who do not want to copy verifiers into a file. Addresses and start commands are in a file as in
//! [`super::file`]:
//!
//! ```toml
//! state_file = "verifiers.json"
//! [endpoints.main.auth_query]
//! user = "proxy_auth"
//! password_file = "proxy_auth.password"
//! dbname = "postgres"            # optional; this is the default
//! wake_unauthenticated = false   # optional; see below
//! ```
//!
//! A suspended database cannot be asked. The last known verifiers are therefore kept in the state file, readable by
//! its owner only, also over restarts; clients of a suspended database are checked against them. A role that is not in
//! the state file is treated like a wrong password, and so is a role whose password has changed since, until another
//! client wakes the database. With `wake_unauthenticated`, [`Access::may_wake`] lets such a client wake it: then any
//! client can, once in [`WAKE_UNAUTHENTICATED_INTERVAL`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pq_proto::Text;
use scram::Verifier;
use tokio::time::Instant;

use super::endpoints_file::{Endpoint, EndpointsFile, FileError};
use super::file::ReloadableFile;
use super::query_database::{QueryDatabase, QueryError};
use crate::control_plane::{Access, Compute, ControlPlane, ControlPlaneError, LookupContext, Reply};
use crate::lifecycle::reload::Apply;
use crate::route::EndpointName;

/// Unauthenticated clients wake one database at most once in this time.
pub(super) const WAKE_UNAUTHENTICATED_INTERVAL: Duration = Duration::from_secs(60);
/// Longest state file, in bytes.
const STATE_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Value of [`Access::may_wake`].
type MayWake = bool;

/// Control plane that asks the databases for verifiers.
#[derive(Debug)]
pub(crate) struct AuthQueryControlPlane {
    file: ReloadableFile,
    database: Box<dyn QueryDatabase>,
    known: KnownVerifiers,
    /// When an unauthenticated client last woke an endpoint.
    woken: Mutex<HashMap<EndpointName, Instant>>,
}

impl AuthQueryControlPlane {
    /// Reads the endpoints file and the state file.
    pub(crate) fn load(path: &Path, database: Box<dyn QueryDatabase>) -> Result<Self, FileError> {
        let file = ReloadableFile::load(path, |path, content| Self::check(path, content).map(|_| ()))?;
        let known = KnownVerifiers::load(Self::check(path, &file.content())?)?;
        Ok(Self { file, database, known, woken: Mutex::default() })
    }

    /// Checks that the file suits this provider, and returns the path of the state file.
    fn check(path: &Path, content: &EndpointsFile) -> Result<PathBuf, FileError> {
        if let Some((name, _)) = content.iter().find(|(_, endpoint)| endpoint.auth_query.is_none()) {
            let problem = "auth_query is missing".into();
            return Err(FileError::Value { path: path.to_owned(), endpoint: name.to_string(), problem });
        }
        content.state_file.clone().ok_or_else(|| FileError::Syntax {
            path: path.to_owned(),
            message: "missing field `state_file`".into(),
        })
    }

    async fn verifier(
        &self,
        context: &LookupContext,
        endpoint: &Endpoint,
        role: &Text,
    ) -> Result<(Option<Verifier>, MayWake), ControlPlaneError> {
        let (name, unavailable) =
            (&context.endpoint, || ControlPlaneError::Unavailable(context.endpoint.clone()));
        // A role name in a database is UTF-8.
        let Ok(role) = role.to_str() else { return Ok((None, false)) };
        let Some(user) = &endpoint.auth_query else { return Ok((None, false)) };

        let answer = self.database.rolpassword(&endpoint.compute, user, role).await;
        if let Err(QueryError::Suspended(error)) = &answer {
            tracing::debug!(endpoint = %name, %error, "database is suspended, using the last known verifier");
            let known = self.known.get(name, role);
            let is_good = known.as_ref().is_some_and(|known| !known.is_doubted);
            let may_wake = !is_good && user.wake_unauthenticated && self.may_wake(name);
            return Ok((known.map(|known| known.verifier), may_wake));
        }

        let stored = answer.map_err(|error| {
            tracing::error!(endpoint = %name, %error, "cannot read a verifier from the database");
            unavailable()
        })?;
        let verifier = stored.map(|text| text.parse::<Verifier>()).transpose().map_err(|error| {
            tracing::error!(endpoint = %name, role, %error, "stored password is not a SCRAM verifier");
            unavailable()
        })?;
        self.known.record(name, role, verifier.as_ref());
        Ok((verifier, false))
    }

    /// Reads the verifiers of all known roles again before a stop: a suspended database cannot be asked.
    async fn refresh_verifiers(&self, name: &EndpointName, endpoint: &Endpoint) {
        let Some(user) = &endpoint.auth_query else { return };
        for role in self.known.roles(name) {
            match self.database.rolpassword(&endpoint.compute, user, &role).await {
                Ok(stored) => {
                    let verifier = stored.and_then(|text| text.parse().ok());
                    self.known.record(name, &role, verifier.as_ref());
                }
                Err(error) => {
                    tracing::warn!(endpoint = %name, %error, "cannot refresh verifiers before the stop, keeping older ones");
                    return;
                }
            }
        }
    }

    /// Claims the one wake of this interval. Returns false when it is used up.
    fn may_wake(&self, endpoint: &EndpointName) -> bool {
        let (mut woken, now) = (self.woken.lock(), Instant::now());
        // Bounded by the endpoints in the file.
        let last = woken.entry(endpoint.clone());
        let mut may = true;
        last.and_modify(|last| {
            may = now.duration_since(*last) >= WAKE_UNAUTHENTICATED_INTERVAL;
            if may {
                *last = now;
            }
        })
        .or_insert(now);
        may
    }
}

impl ControlPlane for AuthQueryControlPlane {
    fn access<'a>(&'a self, context: &'a LookupContext, role: &'a Text) -> Reply<'a, Access> {
        Box::pin(async move {
            let content = self.file.content();
            let endpoint = content.endpoint(&context.endpoint)?;
            let (verifier, may_wake) = self.verifier(context, endpoint, role).await?;
            let allowlist = Arc::clone(&endpoint.allowlist);
            Ok(Access { verifier, allowlist, may_wake, ..Access::default() })
        })
    }

    fn locate<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        let content = self.file.content();
        let compute = content.endpoint(&context.endpoint).map(|endpoint| Arc::clone(&endpoint.compute));
        Box::pin(std::future::ready(compute))
    }

    fn wake<'a>(&'a self, context: &'a LookupContext) -> Reply<'a, Arc<Compute>> {
        let content = self.file.content();
        Box::pin(async move { content.endpoint(&context.endpoint)?.wake(&context.endpoint).await })
    }

    fn report_doubt(&self, context: &LookupContext, role: &Text) {
        if let Ok(role) = role.to_str() {
            self.known.doubt(&context.endpoint, role);
        }
    }

    /// Addresses are in memory; verifiers are cached, so that not every login asks a database.
    fn is_in_memory(&self) -> bool {
        false
    }

    fn idle_limits(&self) -> HashMap<EndpointName, Duration> {
        self.file.content().idle_limits()
    }

    fn stop<'a>(&'a self, endpoint: &'a EndpointName) -> Reply<'a, ()> {
        let content = self.file.content();
        Box::pin(async move {
            let stopped = content.endpoint(endpoint)?;
            self.refresh_verifiers(endpoint, stopped).await;
            stopped.stop(endpoint).await
        })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.file.files()
    }

    fn read(&self) -> Result<Apply<'_>, String> {
        self.file.read_again()
    }
}

/// Last known verifiers, and the state file that keeps them.
#[derive(Debug)]
struct KnownVerifiers {
    path: PathBuf,
    verifiers: Mutex<Verifiers>,
    /// Endpoints and roles whose stored verifier did not fit a client's password. Bounded by the verifiers.
    doubted: Mutex<BTreeSet<(String, String)>>,
}

/// Texts of verifiers by endpoint and role.
type Verifiers = BTreeMap<String, BTreeMap<String, String>>;

/// Verifier that a database had when it was last asked.
struct KnownVerifier {
    verifier: Verifier,
    is_doubted: bool,
}

impl KnownVerifiers {
    /// Reads the state file. A missing file counts as empty.
    fn load(path: PathBuf) -> Result<Self, FileError> {
        let unreadable = |error| FileError::Io { path: path.clone(), error };
        let text = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > STATE_FILE_BYTES_MAX => {
                return Err(unreadable(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    "state file exceeds 16 MiB",
                )));
            }
            Ok(_) => fs::read(&path).map_err(unreadable)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
            Err(error) => return Err(unreadable(error)),
        };

        let verifiers = serde_json::from_slice(&text).map_err(|error| FileError::Syntax {
            path: path.clone(),
            message: format!("state file is malformed: {:?} at line {}", error.classify(), error.line()),
        })?;
        Ok(Self { path, verifiers: Mutex::new(verifiers), doubted: Mutex::default() })
    }

    fn get(&self, endpoint: &EndpointName, role: &str) -> Option<KnownVerifier> {
        let verifier = self.verifiers.lock().get(endpoint.as_str())?.get(role)?.parse().ok()?;
        let is_doubted = self.doubted.lock().contains(&(endpoint.to_string(), role.to_owned()));
        Some(KnownVerifier { verifier, is_doubted })
    }

    fn roles(&self, endpoint: &EndpointName) -> Vec<String> {
        self.verifiers
            .lock()
            .get(endpoint.as_str())
            .map(|roles| roles.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Marks a verifier that a client's password did not fit: it may have changed since.
    fn doubt(&self, endpoint: &EndpointName, role: &str) {
        if self.get(endpoint, role).is_some() {
            self.doubted.lock().insert((endpoint.to_string(), role.to_owned()));
        }
    }

    /// Records the database's present verifier, or that there is none. Writes the file only after a change.
    fn record(&self, endpoint: &EndpointName, role: &str, verifier: Option<&Verifier>) {
        self.doubted.lock().remove(&(endpoint.to_string(), role.to_owned()));
        let mut verifiers = self.verifiers.lock();
        let roles = verifiers.entry(endpoint.to_string()).or_default();

        let before = match verifier {
            Some(verifier) => roles.insert(role.to_owned(), verifier.to_string()),
            None => roles.remove(role),
        };
        if before == verifier.map(Verifier::to_string) {
            return;
        }
        if let Err(error) = write(&self.path, &verifiers) {
            tracing::error!(path = %self.path.display(), %error, "cannot write the state file, verifiers are lost at a restart");
        }
    }
}

/// Replaces the state file as a whole. Only its owner can read it.
fn write(path: &Path, verifiers: &Verifiers) -> io::Result<()> {
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // A file left by a crash may have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }

    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(verifiers)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests;
