//! [`Peers`]: the other processes that share the ports, or did, and what one asks them. Those that are gone are nobody; what
//! a process cannot answer, because it is older or does not come up, it does not answer.
//!
//! Called by `cancel`, `link`, `http` and `control_plane`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use rand::RngExt;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wire::{self, Answer, Confidential, Request, Used};

/// For other processes to pass a cancel request on, which may take a connection.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(6);
/// For what they know by themselves.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    pub(crate) path: PathBuf,
    pub(crate) own: PathBuf,
}

impl Peers {
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        if path.file_name().is_none() {
            bail!("{} is no file", path.display());
        }
        // Process numbers would be the same in two containers.
        let number: u64 = rand::rng().random();
        Ok(Self { path: path.to_owned(), own: with_suffix(path, &number.to_string()) })
    }

    /// Whether one of the others had a client with this key; then what it runs is cancelled.
    pub(crate) async fn cancel(&self, pid: i32, key: &[u8]) -> bool {
        let request = Request::Cancel { pid, key: hex::encode(key) };
        self.has_one(request, CANCEL_TIMEOUT, |answer| matches!(answer, Answer::Cancelled(true))).await
    }

    /// Whether one of the others had a client that waits for this report on a login with a browser; then it has it.
    pub(crate) async fn report(&self, report: &str) -> bool {
        let request = Request::Report(Confidential(report.to_owned()));
        self.has_one(request, ANSWER_TIMEOUT, |answer| matches!(answer, Answer::Reported(true))).await
    }

    /// What the others list.
    pub(crate) async fn sessions(&self) -> Vec<Value> {
        let answers = self.ask_all(Request::Sessions {}).await.into_iter();
        let sessions = answers.filter_map(|answer| match answer {
            Some(Answer::Sessions(sessions)) => Some(sessions),
            _ => None,
        });
        sessions.flatten().collect()
    }

    /// What the others use. `None` when one of them does not tell.
    pub(crate) async fn uses(&self) -> Option<Vec<Used>> {
        let answers = self.ask_all(Request::Uses {}).await.into_iter();
        let uses = answers.map(|answer| match answer {
            Some(Answer::Uses(uses)) => Some(uses),
            _ => None,
        });
        Some(uses.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Does not wait for others once one has said it.
    async fn has_one(&self, request: Request, within: Duration, is_it: impl Fn(&Answer) -> bool) -> bool {
        let mut asked = self.ask(&request, within);
        while let Some(answer) = asked.join_next().await {
            if matches!(answer, Ok(Some(Some(answer))) if is_it(&answer)) {
                return true;
            }
        }
        false
    }

    /// What everybody who is there says, `None` for those who do not answer.
    async fn ask_all(&self, request: Request) -> Vec<Option<Answer>> {
        let answers = self.ask(&request, ANSWER_TIMEOUT).join_all().await;
        answers.into_iter().flatten().collect()
    }

    /// The outer `Option` is whether anybody is there.
    fn ask(&self, request: &Request, within: Duration) -> JoinSet<Option<Option<Answer>>> {
        let mut asked = JoinSet::new();
        for socket in self.others() {
            let (peers, request) = (self.clone(), request.clone());
            asked.spawn(async move {
                match timeout(within, peers.ask_one(&socket, &request)).await {
                    Ok(Ok(answer)) => answer.map(Some),
                    Ok(Err(error)) => {
                        tracing::debug!(error = format!("{error:#}"), "another process does not answer");
                        Some(None)
                    }
                    Err(_) => Some(None),
                }
            });
        }
        asked
    }

    /// `None` when nobody is there.
    async fn ask_one(&self, socket: &Path, request: &Request) -> anyhow::Result<Option<Answer>> {
        let Some(mut stream) = self.connect(socket).await? else {
            // Who left it here is gone.
            let _ = fs::remove_file(socket);
            return Ok(None);
        };
        wire::send(&mut stream, request).await?;
        Ok(Some(wire::receive_much(&mut stream).await?))
    }

    /// `None` when nobody is there.
    pub(crate) async fn connect(&self, socket: &Path) -> io::Result<Option<UnixStream>> {
        if fs::read_link(socket).is_ok_and(|to| Some(to.as_os_str()) == self.own.file_name()) {
            return Ok(None);
        }
        match UnixStream::connect(socket).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn others(&self) -> Vec<PathBuf> {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let beginning = with_suffix(Path::new(self.path.file_name().unwrap_or_default()), "");
        let beginning = beginning.as_os_str().as_encoded_bytes();
        let files = fs::read_dir(directory).into_iter().flatten().flatten();
        let others = files.filter(|file| {
            let name = file.file_name();
            let suffix = name.as_encoded_bytes().strip_prefix(beginning);
            suffix.is_some_and(|suffix| !suffix.is_empty() && suffix.iter().all(u8::is_ascii_digit))
        });
        others.map(|file| file.path()).filter(|path| path.file_name() != self.own.file_name()).collect()
    }
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn who_is_gone_uses_nothing_and_of_who_does_not_tell_nothing_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let socket = |name: &str| directory.path().join(name);
        let peers = Peers::new(&socket("p")).unwrap();
        assert_eq!(peers.uses().await, Some(Vec::new()));

        drop(UnixListener::bind(socket("p.1")).unwrap());
        assert_eq!(peers.uses().await, Some(Vec::new()));
        assert!(!socket("p.1").exists(), "what nobody listens to is in the way");

        let used: Used =
            serde_json::from_value(json!({"endpoint": "main", "in_use": true, "idle_ms": 0})).unwrap();
        let (listener, told) = (UnixListener::bind(socket("p.2")).unwrap(), used.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let asked: Request = wire::receive(&mut stream).await.unwrap();
                assert!(matches!(asked, Request::Uses {}), "{asked:?}");
                wire::send(&mut stream, &Answer::Uses(vec![told.clone()])).await.unwrap();
            }
        });
        assert_eq!(peers.uses().await, Some(vec![used]));

        // An older one that does not know the question, and one that does not come up.
        let older = UnixListener::bind(socket("p.3")).unwrap();
        tokio::spawn(async move { while older.accept().await.is_ok() {} });
        assert_eq!(peers.uses().await, None);
        fs::remove_file(socket("p.3")).unwrap();
        let _silent = UnixListener::bind(socket("p.4")).unwrap();
        assert_eq!(peers.uses().await, None);
    }
}
