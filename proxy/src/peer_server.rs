//! Server for peer processes: answers their requests, and hands the listening sockets over to a new process. The clients are
//! [`crate::peers`] and [`crate::lifecycle::handover`]. Called by `server`.

use std::net::TcpListener;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use utils::accept_loop::accept_loop;

use crate::compute::Dial;
use crate::link::mgmt;
use crate::listeners::{LISTENERS_MAX, Label, Listeners};
use crate::observe::activity::Activities;
use crate::peers::wire::{self, Answer, Request, Serving, WireError};
use crate::peers::{check_account, own_account};
use crate::session::Services;

/// Time limit for a new process to serve the sockets after it has got them.
const SERVING_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers peers until the task is aborted.
pub(crate) async fn answer<D: Dial>(listener: Arc<UnixListener>, host: Arc<Host<D>>) {
    let serve = |stream, _| {
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            if let Err(error) = host.answer(stream).await {
                tracing::warn!(error = format!("{error:#}"), "peer connection failed");
            }
        });
    };
    accept_loop(&*listener, std::future::pending(), serve, |error| {
        tracing::warn!(%error, "cannot accept a connection of a peer process");
    })
    .await;
}

/// State of this process that its answers to peers are made from.
#[derive(Debug)]
pub(crate) struct Host<D> {
    /// Weak references: a listener that ends must close its socket.
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
        check_account(&stream, own_account())?;
        let answer = match wire::receive(&mut stream).await? {
            Request::TakeOver {} => return self.hand_over(stream).await,
            Request::Cancel { pid, key } => {
                let (cancels, dial) = (&self.services.cancels, &self.services.dial);
                Answer::Cancelled(cancels.pass_on_here(dial, pid, &hex::decode(key)?).await)
            }
            Request::Report(report) => {
                let links = self.services.links.as_deref();
                Answer::Reported(
                    links.is_some_and(|links| mgmt::deliver_here(links, &report.0).unwrap_or(false)),
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
            let reason = "already draining, or another process is replacing it";
            return Ok(wire::send(&mut stream, &Answer::Refused(reason.to_owned())).await?);
        };
        wire::send_with(&mut stream, &Answer::Listeners(labels), &sockets).await?;
        drop(sockets);
        tracing::info!("handing the listening sockets over");
        let serving: Result<Serving, WireError> = wire::receive_within(&mut stream, SERVING_TIMEOUT).await;
        serving.context("new process did not come up, this one goes on")?;
        self.services.drain.hand_over();
        Ok(())
    }

    /// All listening sockets, or `None` when one is closed.
    fn sockets(&self) -> Option<(Vec<Label>, Vec<Arc<TcpListener>>)> {
        if self.services.drain.has_begun() || self.listeners.len() > LISTENERS_MAX {
            return None;
        }
        let both = self.listeners.iter().map(|(label, socket)| Some((label.clone(), socket.upgrade()?)));
        Some(both.collect::<Option<Vec<_>>>()?.into_iter().unzip())
    }
}
