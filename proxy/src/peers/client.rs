//! [`Peers`]: client of the other proxy processes that share the listening sockets, or did. A process that has exited
//! is dropped from the list. A process that is stuck, or older and does not know a request, counts as one without an
//! answer.
//!
//! Called by `cancel`, `link`, `admin` and `control_plane`.

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

/// Time limit for a peer to pass a cancel request on, which may take a connection to the compute.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(6);
/// Time limit for answers that a peer has in memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a peer process was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A request may contain a password or a cancel key: it is only for processes of the same account.
    #[error("socket belongs to account {uid}, this process to account {own}")]
    OtherAccount { uid: u32, own: u32 },
}

/// Checks that the process at the other end has this account (unix(7), SO_PEERCRED).
pub(crate) fn check_account(stream: &UnixStream, own: u32) -> Result<(), PeerError> {
    let uid = stream.peer_cred()?.uid();
    if uid == own { Ok(()) } else { Err(PeerError::OtherAccount { uid, own }) }
}

/// The account of this process.
pub(crate) fn own_account() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The peer processes. Sends them requests and collects the answers.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    pub(crate) path: PathBuf,
    pub(crate) own: PathBuf,
    /// The account of this process. Processes of other accounts are no peers.
    account: u32,
}

impl Peers {
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        if path.file_name().is_none() {
            bail!("{}: path does not name a file", path.display());
        }
        // A random number, because process ids may be the same in two containers.
        let number: u64 = rand::rng().random();
        Ok(Self {
            path: path.to_owned(),
            own: with_suffix(path, &number.to_string()),
            account: own_account(),
        })
    }

    /// Whether a peer has a client with this key; the peer then cancels its query.
    pub(crate) async fn cancel(&self, pid: i32, key: &[u8]) -> bool {
        let request = Request::Cancel { pid, key: hex::encode(key) };
        self.any_answers(request, CANCEL_TIMEOUT, |answer| matches!(answer, Answer::Cancelled(true))).await
    }

    /// Passes on a report on a login with a browser. Whether a peer has a client that waits for it.
    pub(crate) async fn report(&self, report: &str) -> bool {
        let request = Request::Report(Confidential(report.to_owned()));
        self.any_answers(request, ANSWER_TIMEOUT, |answer| matches!(answer, Answer::Reported(true))).await
    }

    /// The sessions of all peers.
    pub(crate) async fn sessions(&self) -> Vec<Value> {
        let answers = self.ask_all(Request::Sessions {}).await.into_iter();
        let sessions = answers.filter_map(|answer| match answer {
            Some(Answer::Sessions(sessions)) => Some(sessions),
            _ => None,
        });
        sessions.flatten().collect()
    }

    /// The endpoints that peers use. `None` when one of them gives no answer.
    pub(crate) async fn uses(&self) -> Option<Vec<Used>> {
        let answers = self.ask_all(Request::Uses {}).await.into_iter();
        let uses = answers.map(|answer| match answer {
            Some(Answer::Uses(uses)) => Some(uses),
            _ => None,
        });
        Some(uses.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Whether the answer of one peer is the wanted one. Returns at the first such answer.
    async fn any_answers(
        &self,
        request: Request,
        within: Duration,
        is_wanted: impl Fn(&Answer) -> bool,
    ) -> bool {
        let mut asked = self.ask(&request, within);
        while let Some(answer) = asked.join_next().await {
            if matches!(answer, Ok(Some(Some(answer))) if is_wanted(&answer)) {
                return true;
            }
        }
        false
    }

    /// The answers of all peers, `None` for a peer that gives none.
    async fn ask_all(&self, request: Request) -> Vec<Option<Answer>> {
        let answers = self.ask(&request, ANSWER_TIMEOUT).join_all().await;
        answers.into_iter().flatten().collect()
    }

    /// Sends the request to all peers at once. In each result the outer `Option` is `None` where no process listens,
    /// the inner one where the peer gives no answer.
    fn ask(&self, request: &Request, within: Duration) -> JoinSet<Option<Option<Answer>>> {
        let mut asked = JoinSet::new();
        for socket in self.others() {
            let (peers, request) = (self.clone(), request.clone());
            asked.spawn(async move {
                match timeout(within, peers.ask_one(&socket, &request)).await {
                    Ok(Ok(answer)) => answer.map(Some),
                    Ok(Err(error)) => {
                        tracing::debug!(error = format!("{error:#}"), "peer gives no answer");
                        Some(None)
                    }
                    Err(_) => Some(None),
                }
            });
        }
        asked
    }

    /// `None` when no peer listens there.
    async fn ask_one(&self, socket: &Path, request: &Request) -> anyhow::Result<Option<Answer>> {
        match self.connect(socket).await {
            Ok(Some(mut stream)) => {
                wire::send(&mut stream, request).await?;
                Ok(Some(wire::receive_long_line(&mut stream).await?))
            }
            Ok(None) => {
                // The process that left the socket here has exited.
                let _ = fs::remove_file(socket);
                Ok(None)
            }
            Err(error @ PeerError::OtherAccount { .. }) => {
                tracing::warn!(socket = %socket.display(), %error, "process of another account is no peer");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Connects to a process of the same account. `None` when no process listens there.
    pub(crate) async fn connect(&self, socket: &Path) -> Result<Option<UnixStream>, PeerError> {
        if fs::read_link(socket).is_ok_and(|to| Some(to.as_os_str()) == self.own.file_name()) {
            return Ok(None);
        }
        let stream = match UnixStream::connect(socket).await {
            Ok(stream) => stream,
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        check_account(&stream, self.account)?;
        Ok(Some(stream))
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
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn peers_without_an_answer_leave_uses_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let socket = |name: &str| directory.path().join(name);
        let peers = Peers::new(&socket("p")).unwrap();
        assert_eq!(peers.uses().await, Some(Vec::new()));

        drop(UnixListener::bind(socket("p.1")).unwrap());
        assert_eq!(peers.uses().await, Some(Vec::new()));
        assert!(!socket("p.1").exists(), "the socket of a process that has exited is left");

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

        // An older process that does not know the request, and one that is stuck.
        let older = UnixListener::bind(socket("p.3")).unwrap();
        tokio::spawn(async move { while older.accept().await.is_ok() {} });
        assert_eq!(peers.uses().await, None);
        fs::remove_file(socket("p.3")).unwrap();
        let _silent = UnixListener::bind(socket("p.4")).unwrap();
        assert_eq!(peers.uses().await, None);
    }

    /// A request may contain a password or a cancel key.
    #[tokio::test]
    async fn peers_of_other_accounts_are_sent_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let socket = |name: &str| directory.path().join(name);
        let mut peers = Peers::new(&socket("p")).unwrap();
        let listener = UnixListener::bind(socket("p.1")).unwrap();
        peers.account += 1;
        let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                sender.send(bytes).unwrap();
            }
        });
        assert!(!peers.report("password").await);
        assert_eq!(received.recv().await.unwrap(), b"");
        // It is no peer, and its socket is left alone.
        assert_eq!(peers.uses().await, Some(Vec::new()));
        assert!(socket("p.1").exists());
        let refused = peers.connect(&socket("p.1")).await.unwrap_err().to_string();
        assert!(refused.contains("account"), "{refused}");
    }
}
