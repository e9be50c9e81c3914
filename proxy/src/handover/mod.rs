//! One process replaces another one and no connection is lost: the new one asks the old one for its listening sockets, says
//! when it serves them, and only then the old one drains. Until then the old one goes on, so a new one that does not come up
//! costs nothing. A connection waits in the same queue of the kernel for whichever process accepts it.
//!
//! Each process listens on `PATH.NUMBER`; `PATH` is a link to the one that has the ports. What one cannot know by itself it
//! asks of all the others ([`Peers`]): any of them may still have the session that somebody wants to cancel.
//!
//! Who may connect is who has the same account. Called by `listeners` and `server`.

mod peers;
mod wire;

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;

pub(crate) use self::peers::Peers;
use self::peers::with_suffix;
use self::wire::{Answer, Request, Serving, WireError};
use crate::activity::Activities;
use crate::compute::Dial;
use crate::link::mgmt;
use crate::listeners::{LISTENERS_MAX, Label, Listener, Listeners};
use crate::session::Services;

/// For a new process to come up once it has the sockets.
const SERVING_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after an accept that failed.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

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
        let Peers { path, own } = &self.peers;
        let link = with_suffix(own, "link");
        // Beside each other, wherever the directory is moved to.
        symlink(own.file_name().unwrap_or(own.as_os_str()), &link)?;
        fs::rename(&link, path)
    }
}

/// Answers others, for as long as it is polled.
pub(crate) async fn answer<D: Dial>(listener: Arc<UnixListener>, host: Arc<Host<D>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let host = Arc::clone(&host);
                tokio::spawn(async move {
                    if let Err(error) = host.answer(stream).await {
                        tracing::warn!(error = format!("{error:#}"), "talk with another process");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of another process");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        let Peers { path, own } = &self.peers;
        let leads_here = fs::read_link(path).is_ok_and(|to| Some(to.as_os_str()) == own.file_name());
        for file in [Some(own), leads_here.then_some(path)].into_iter().flatten() {
            let _ = fs::remove_file(file);
        }
    }
}

/// What others may ask of this process.
#[derive(Debug)]
pub(crate) struct Host<D> {
    /// Not held: a door that closes must close its socket.
    listeners: Vec<(Label, Weak<TcpListener>)>,
    services: Arc<Services<D>>,
    activities: Arc<Activities>,
    /// One process at a time replaces this one.
    replacing: Semaphore,
}

impl<D: Dial> Host<D> {
    pub(crate) fn new(
        listeners: &Listeners,
        services: Arc<Services<D>>,
        activities: Arc<Activities>,
    ) -> Self {
        let listeners = listeners
            .all()
            .map(|listener| (listener.label.clone(), Arc::downgrade(&listener.socket)))
            .collect();
        Self { listeners, services, activities, replacing: Semaphore::new(1) }
    }

    async fn answer(&self, mut stream: UnixStream) -> anyhow::Result<()> {
        let (uid, own) = (stream.peer_cred()?.uid(), nix::unistd::geteuid().as_raw());
        if uid != own {
            bail!("it has account {uid} and not {own}");
        }
        let answer = match wire::receive(&mut stream).await? {
            Request::TakeOver {} => return self.hand_over(stream).await,
            Request::Cancel { pid, key } => {
                let (cancels, dial) = (&self.services.cancels, &self.services.dial);
                Answer::Cancelled(cancels.pass_on_here(dial, pid, &hex::decode(key)?).await)
            }
            Request::Report(report) => {
                let links = self.services.links.as_deref();
                Answer::Reported(
                    links.is_some_and(|links| mgmt::take_here(links, &report.0).unwrap_or(false)),
                )
            }
            Request::Sessions {} => Answer::Sessions(self.sessions()?),
            Request::Uses {} => Answer::Uses(self.services.control_plane.uses()),
        };
        Ok(wire::send(&mut stream, &answer).await?)
    }

    fn sessions(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        let is_draining = self.services.drain.has_begun();
        self.activities.views(is_draining).into_iter().map(serde_json::to_value).collect()
    }

    async fn hand_over(&self, mut stream: UnixStream) -> anyhow::Result<()> {
        let (permit, sockets) = (self.replacing.try_acquire(), self.sockets());
        let (Ok(_replacing), Some((labels, sockets))) = (permit, sockets) else {
            let reason = "it drains already, or another process is just replacing it";
            return Ok(wire::send(&mut stream, &Answer::Refused(reason.to_owned())).await?);
        };
        wire::send_with(&mut stream, &Answer::Listeners(labels), &sockets).await?;
        drop(sockets);
        tracing::info!("another process has the listening sockets, too");
        let serving: Result<Serving, WireError> = wire::receive_within(&mut stream, SERVING_TIMEOUT).await;
        serving.context("the new process did not come up, this one goes on")?;
        self.services.drain.hand_over();
        Ok(())
    }

    /// All of them, or nothing when a door has closed.
    fn sockets(&self) -> Option<(Vec<Label>, Vec<Arc<TcpListener>>)> {
        if self.services.drain.has_begun() || self.listeners.len() > LISTENERS_MAX {
            return None;
        }
        let both = self.listeners.iter().map(|(label, socket)| Some((label.clone(), socket.upgrade()?)));
        Some(both.collect::<Option<Vec<_>>>()?.into_iter().unzip())
    }
}
