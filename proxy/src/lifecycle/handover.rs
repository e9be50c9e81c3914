//! Handover: a new proxy process replaces an old one, and no connection is lost. The new process asks the old one for its
//! listening sockets and tells it when it serves them; only then the old one drains. A new process that does not come up
//! costs nothing, because the old one goes on until then. A connection waits in the kernel's queue for either process.
//!
//! Each process listens on `PATH.NUMBER`; `PATH` is a link to the process that has the ports. Only processes of the same
//! account may connect. The old process's side is [`crate::peer_server`]. Called by `main` and `server`.

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

/// Connections of this process to the process that it replaces and to the one that replaces it. Both fields are
/// `None` without `--handover-socket`.
#[derive(Debug, Default)]
pub struct Succession {
    /// The socket by which the next process asks for the listening sockets.
    pub(crate) handover: Option<Handover>,
    /// The process that this one replaces. It goes on until it is told that its sockets are served.
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

/// The socket of this process for its peers.
#[derive(Debug)]
pub(crate) struct Handover {
    peers: Peers,
    listener: Arc<UnixListener>,
}

/// The process that this one replaces, as the connection to it.
#[derive(Debug)]
pub(crate) struct Predecessor(UnixStream);

impl Predecessor {
    /// Tells the old process that its sockets are served. It then closes its listeners and drains.
    pub(crate) async fn replace(mut self) {
        // The old process closes this connection when it drains. A signal after that finds it replaced.
        let told = match wire::send(&mut self.0, &Serving {}).await {
            Ok(()) => wire::closed(&mut self.0).await,
            error => error,
        };
        match told {
            Ok(()) => tracing::info!("took over from another process"),
            // The old process has exited. This process has the sockets all the same.
            Err(error) => {
                tracing::warn!(%error, "cannot tell the previous process that it is replaced")
            }
        }
    }
}

impl Handover {
    /// Listens for peers. The link `PATH` does not point to this process yet.
    pub(crate) fn bind(path: &Path) -> anyhow::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_symlink()) {
            bail!(
                "{}: exists and is no link to a proxy's socket; remove it or name another path",
                path.display()
            );
        }
        let peers = Peers::new(path)?;
        let listener = UnixListener::bind(&peers.own).with_context(|| peers.own.display().to_string())?;
        fs::set_permissions(&peers.own, fs::Permissions::from_mode(0o600))?;
        Ok(Self { peers, listener: Arc::new(listener) })
    }

    /// Asks the process that has the ports for them, where there is one.
    pub(crate) async fn ask_predecessor(&self) -> anyhow::Result<Option<(Predecessor, Vec<Listener>)>> {
        let Some(mut stream) = self.peers.connect(&self.peers.path).await? else { return Ok(None) };
        wire::send(&mut stream, &Request::TakeOver {}).await?;
        let (answer, descriptors) = wire::receive_with(&mut stream).await?;
        let labels = match answer {
            Answer::Listeners(labels) => labels,
            Answer::Refused(reason) => bail!("running process refuses to hand its sockets over: {reason}"),
            _ => bail!("running process gave an unexpected answer"),
        };
        if labels.len() != descriptors.len() {
            bail!("running process announced {} sockets and sent {}", labels.len(), descriptors.len());
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

    /// Makes the link `PATH` point to the socket of this process.
    pub(crate) fn point_link_here(&self) -> io::Result<()> {
        let Peers { path, own, .. } = &self.peers;
        let link = with_suffix(own, "link");
        // Relative, so that the directory can be moved.
        symlink(own.file_name().unwrap_or(own.as_os_str()), &link)?;
        fs::rename(&link, path)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        let Peers { path, own, .. } = &self.peers;
        let points_here = fs::read_link(path).is_ok_and(|to| Some(to.as_os_str()) == own.file_name());
        for file in [Some(own), points_here.then_some(path)].into_iter().flatten() {
            let _ = fs::remove_file(file);
        }
    }
}
