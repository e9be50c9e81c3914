//! One process replaces another one and no connection is lost: the new one asks the old one for its listening sockets, says
//! when it serves them, and only then the old one drains. Until then the old one goes on, so a new one that does not come up
//! costs nothing. A connection waits in the same queue of the kernel for whichever process accepts it.
//!
//! Each process listens on `PATH.NUMBER`; `PATH` is a link to the one that has the ports. What one cannot know by itself it
//! asks of all the others ([`Peers`]): any of them may still have the session that somebody wants to cancel.
//!
//! Who may connect is who has the same account. Called by `listeners` and `server`.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::net::{UnixListener, UnixStream};

use crate::config::Config;
use crate::listeners::Listener;
use crate::peers::wire::{self, Answer, Request, Serving};
use crate::peers::{Peers, with_suffix};

/// The place of this process among those that replace each other. Without `--handover-socket` it has none.
#[derive(Debug, Default)]
pub struct Succession {
    /// Hands the listening sockets to the process after this one.
    pub(crate) handover: Option<Handover>,
    /// The process before this one; it goes on until it is told that its sockets are served.
    pub(crate) predecessor: Option<Predecessor>,
}

impl Succession {
    /// Listens for other processes, and asks the one that has the ports for them.
    pub async fn begin(config: &Config) -> anyhow::Result<(Self, Vec<Listener>)> {
        let Some(path) = &config.handover_socket else { return Ok((Self::default(), Vec::new())) };
        let handover = Handover::bind(path).context("--handover-socket")?;
        let inherited = handover.ask_predecessor().await.context("--handover-socket")?;
        let (predecessor, listeners) = inherited.unzip();
        Ok((Self { handover: Some(handover), predecessor }, listeners.unwrap_or_default()))
    }
}

/// The end of a process that others connect to.
#[derive(Debug)]
pub(crate) struct Handover {
    peers: Peers,
    listener: Arc<UnixListener>,
}

/// Who had the listening sockets before.
#[derive(Debug)]
pub(crate) struct Predecessor(UnixStream);

impl Predecessor {
    /// Its doors may close.
    pub(crate) async fn tell_it_is_replaced(mut self) {
        // It closes the connection once it drains: a signal that comes to it from now on finds it replaced.
        let told = match wire::send(&mut self.0, &Serving {}).await {
            Ok(()) => wire::closed(&mut self.0).await,
            error => error,
        };
        match told {
            Ok(()) => tracing::info!("took over from another process"),
            // It has ended in between, and the ports are ours in any case.
            Err(error) => {
                tracing::warn!(%error, "the process before this one was not told that it is replaced")
            }
        }
    }
}

impl Handover {
    /// Listens for others; nobody is led here yet.
    pub(crate) fn bind(path: &Path) -> anyhow::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_symlink()) {
            bail!("{} is there and no link to a proxy's socket", path.display());
        }
        let peers = Peers::new(path)?;
        let listener = UnixListener::bind(&peers.own).with_context(|| peers.own.display().to_string())?;
        fs::set_permissions(&peers.own, fs::Permissions::from_mode(0o600))?;
        Ok(Self { peers, listener: Arc::new(listener) })
    }

    /// Asks the process that has the ports for them, if there is one.
    pub(crate) async fn ask_predecessor(&self) -> anyhow::Result<Option<(Predecessor, Vec<Listener>)>> {
        let Some(mut stream) = self.peers.connect(&self.peers.path).await? else { return Ok(None) };
        wire::send(&mut stream, &Request::TakeOver {}).await?;
        let (answer, descriptors) = wire::receive_with(&mut stream).await?;
        let labels = match answer {
            Answer::Listeners(labels) => labels,
            Answer::Refused(reason) => bail!("the process that has the ports does not give them: {reason}"),
            _ => bail!("the process that has the ports says something else"),
        };
        if labels.len() != descriptors.len() {
            bail!("{} sockets came in place of {}", descriptors.len(), labels.len());
        }
        let inherited = labels.into_iter().zip(descriptors);
        let inherited = inherited.map(|(label, descriptor)| Listener::new(label, descriptor));
        Ok(Some((Predecessor(stream), inherited.collect::<anyhow::Result<_>>()?)))
    }

    pub(crate) fn listener(&self) -> Arc<UnixListener> {
        Arc::clone(&self.listener)
    }

    pub(crate) fn peers(&self) -> Peers {
        self.peers.clone()
    }

    /// Has the next process come here.
    pub(crate) fn lead_here(&self) -> io::Result<()> {
        let Peers { path, own, .. } = &self.peers;
        let link = with_suffix(own, "link");
        // Beside each other, wherever the directory is moved to.
        symlink(own.file_name().unwrap_or(own.as_os_str()), &link)?;
        fs::rename(&link, path)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        let Peers { path, own, .. } = &self.peers;
        let leads_here = fs::read_link(path).is_ok_and(|to| Some(to.as_os_str()) == own.file_name());
        for file in [Some(own), leads_here.then_some(path)].into_iter().flatten() {
            let _ = fs::remove_file(file);
        }
    }
}
