//! The provider for whoever does not want to copy verifiers into a file: the databases themselves are asked for them, by
//! a role that may read `pg_authid`. Addresses and start commands are in a file as in [`super::file`]:
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
//! A database that sleeps cannot be asked. So the verifiers that were last seen are kept in the state file, for its owner
//! only and over restarts, and clients of a sleeping database are checked against these. A role that was never seen gets
//! what a wrong password gets, and so does one whose password was changed since, until somebody else wakes the database.
//! With `wake_unauthenticated` [`Access::may_wake`] says that such a client may have it woken: then a stranger can do so
//! too, once in [`WAKE_UNAUTHENTICATED_INTERVAL`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pq_proto::Text;
use scram::Verifier;
use tokio::time::Instant;

use super::endpoints_file::{Endpoint, EndpointsFile, FileError};
use super::file::Reloaded;
use super::query_database::{AskDatabase, AskError};
use crate::control_plane::{Access, Compute, ControlPlane, ControlPlaneError, Reply, Wanted};
use crate::lifecycle::reload::Take;
use crate::route::EndpointName;

/// A client that has proven nothing wakes a database at most once in this time.
pub(super) const WAKE_UNAUTHENTICATED_INTERVAL: Duration = Duration::from_secs(60);
/// Longest state file, in bytes.
const STATE_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// See [`Access::may_wake`].
type MayWake = bool;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct AuthQueryControlPlane {
    file: Reloaded,
    database: Box<dyn AskDatabase>,
    seen: Seen,
    /// When a client that had proven nothing last woke an endpoint.
    woken: Mutex<HashMap<EndpointName, Instant>>,
}

impl AuthQueryControlPlane {
    pub(crate) fn load(path: &Path, database: Box<dyn AskDatabase>) -> Result<Self, FileError> {
        let file = Reloaded::load(path, |path, content| Self::check(path, content).map(|_| ()))?;
        let seen = Seen::load(Self::check(path, &file.content())?)?;
        Ok(Self { file, database, seen, woken: Mutex::default() })
    }

    /// Returns the state file.
    fn check(path: &Path, content: &EndpointsFile) -> Result<PathBuf, FileError> {
        if let Some((name, _)) = content.iter().find(|(_, endpoint)| endpoint.auth_query.is_none()) {
            let problem = "it has no auth_query".into();
            return Err(FileError::Value { path: path.to_owned(), endpoint: name.to_string(), problem });
        }
        content.state_file.clone().ok_or_else(|| FileError::Syntax {
            path: path.to_owned(),
            message: "missing field `state_file`".into(),
        })
    }

    async fn verifier(
        &self,
        wanted: &Wanted,
        endpoint: &Endpoint,
        role: &Text,
    ) -> Result<(Option<Verifier>, MayWake), ControlPlaneError> {
        let (name, unavailable) =
            (&wanted.endpoint, || ControlPlaneError::Unavailable(wanted.endpoint.clone()));
        // A name that the database cannot have.
        let Ok(role) = role.to_str() else { return Ok((None, false)) };
        let Some(asker) = &endpoint.auth_query else { return Ok((None, false)) };
        let answer = self.database.rolpassword(&endpoint.compute, asker, role).await;
        if let Err(AskError::Asleep(error)) = &answer {
            tracing::debug!(endpoint = %name, %error, "a database that sleeps was not asked for a verifier");
            let seen = self.seen.get(name, role);
            let is_good = seen.as_ref().is_some_and(|seen| !seen.is_doubted);
            let may_wake = !is_good && asker.wake_unauthenticated && self.may_wake(name);
            return Ok((seen.map(|seen| seen.verifier), may_wake));
        }
        let stored = answer.map_err(|error| {
            tracing::error!(endpoint = %name, %error, "the database was not asked for a verifier");
            unavailable()
        })?;
        let verifier = stored.map(|text| text.parse::<Verifier>()).transpose().map_err(|error| {
            tracing::error!(endpoint = %name, role, %error, "what the database has stored is no verifier");
            unavailable()
        })?;
        self.seen.put(name, role, verifier.as_ref());
        Ok((verifier, false))
    }

    /// The verifiers of all roles that were seen, because nobody can ask for them while the database sleeps.
    async fn read_once_more(&self, name: &EndpointName, endpoint: &Endpoint) {
        let Some(asker) = &endpoint.auth_query else { return };
        for role in self.seen.roles(name) {
            match self.database.rolpassword(&endpoint.compute, asker, &role).await {
                Ok(stored) => {
                    let verifier = stored.and_then(|text| text.parse().ok());
                    self.seen.put(name, &role, verifier.as_ref());
                }
                Err(error) => {
                    tracing::warn!(endpoint = %name, %error, "the verifiers that are kept may be old");
                    return;
                }
            }
        }
    }

    fn may_wake(&self, endpoint: &EndpointName) -> bool {
        let (mut woken, now) = (self.woken.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        // As many as there are endpoints in the file at most.
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
    fn access<'a>(&'a self, wanted: &'a Wanted, role: &'a Text) -> Reply<'a, Access> {
        Box::pin(async move {
            let content = self.file.content();
            let endpoint = content.endpoint(&wanted.endpoint)?;
            let (verifier, may_wake) = self.verifier(wanted, endpoint, role).await?;
            let allowlist = Arc::clone(&endpoint.allowlist);
            Ok(Access { verifier, allowlist, may_wake, ..Access::default() })
        })
    }

    fn locate<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>> {
        let content = self.file.content();
        let compute = content.endpoint(&wanted.endpoint).map(|endpoint| Arc::clone(&endpoint.compute));
        Box::pin(std::future::ready(compute))
    }

    fn wake<'a>(&'a self, wanted: &'a Wanted) -> Reply<'a, Arc<Compute>> {
        let content = self.file.content();
        Box::pin(async move { content.endpoint(&wanted.endpoint)?.wake(&wanted.endpoint).await })
    }

    fn doubted(&self, wanted: &Wanted, role: &Text) {
        if let Ok(role) = role.to_str() {
            self.seen.doubt(&wanted.endpoint, role);
        }
    }

    /// Addresses are, but whoever asks the databases should not have to do so for each login.
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
            self.read_once_more(endpoint, stopped).await;
            stopped.stop(endpoint).await
        })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.file.files()
    }

    fn read(&self) -> Result<Take<'_>, String> {
        self.file.read_again()
    }
}

/// The verifiers that were last seen, and the file that keeps them.
#[derive(Debug)]
struct Seen {
    path: PathBuf,
    verifiers: Mutex<Verifiers>,
    /// Those that a client's password did not fit since. Never more than there are verifiers.
    doubted: Mutex<BTreeSet<(String, String)>>,
}

/// By endpoint and role.
type Verifiers = BTreeMap<String, BTreeMap<String, String>>;

/// What a database said when it was last awake.
struct LastSeen {
    verifier: Verifier,
    is_doubted: bool,
}

impl Seen {
    /// A file that is not there is an empty one.
    fn load(path: PathBuf) -> Result<Self, FileError> {
        let unreadable = |error| FileError::Io { path: path.clone(), error };
        let text = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > STATE_FILE_BYTES_MAX => {
                return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, "it is too long")));
            }
            Ok(_) => fs::read(&path).map_err(unreadable)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
            Err(error) => return Err(unreadable(error)),
        };
        let verifiers = serde_json::from_slice(&text).map_err(|error| FileError::Syntax {
            path: path.clone(),
            message: format!("it is not what was written: {:?} at line {}", error.classify(), error.line()),
        })?;
        Ok(Self { path, verifiers: Mutex::new(verifiers), doubted: Mutex::default() })
    }

    fn get(&self, endpoint: &EndpointName, role: &str) -> Option<LastSeen> {
        let verifier = self.lock().get(endpoint.as_str())?.get(role)?.parse().ok()?;
        let is_doubted = self.doubted().contains(&(endpoint.to_string(), role.to_owned()));
        Some(LastSeen { verifier, is_doubted })
    }

    fn roles(&self, endpoint: &EndpointName) -> Vec<String> {
        self.lock().get(endpoint.as_str()).map(|roles| roles.keys().cloned().collect()).unwrap_or_default()
    }

    fn doubt(&self, endpoint: &EndpointName, role: &str) {
        if self.get(endpoint, role).is_some() {
            self.doubted().insert((endpoint.to_string(), role.to_owned()));
        }
    }

    /// What the database said last; writes the file only when that is new.
    fn put(&self, endpoint: &EndpointName, role: &str, verifier: Option<&Verifier>) {
        self.doubted().remove(&(endpoint.to_string(), role.to_owned()));
        let mut verifiers = self.lock();
        let roles = verifiers.entry(endpoint.to_string()).or_default();
        let before = match verifier {
            Some(verifier) => roles.insert(role.to_owned(), verifier.to_string()),
            None => roles.remove(role),
        };
        if before == verifier.map(Verifier::to_string) {
            return;
        }
        if let Err(error) = write(&self.path, &verifiers) {
            tracing::error!(path = %self.path.display(), %error, "the verifiers that were seen are not kept");
        }
    }

    // Nothing panics under these locks.
    fn doubted(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Verifiers> {
        self.verifiers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All or nothing, for the owner only.
fn write(path: &Path, verifiers: &Verifiers) -> io::Result<()> {
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // What a crash left behind may have other rights.
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
