//! [`Listeners`]: the listening sockets. They are passed by a supervisor (sd_listen_fds(3)), handed over by the
//! process that this one replaces, or bound here. Called by `main`.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use anyhow::{Context, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::config::{Config, ControlPlaneSource};

/// The first descriptor that a supervisor passes (sd_listen_fds(3), SD_LISTEN_FDS_START).
const FIRST_PASSED_FD: RawFd = 3;
/// Listening sockets at most: more than a configuration needs, and fewer than one message between processes can carry.
pub(crate) const LISTENERS_MAX: usize = 100;

/// What a listening socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// Clients.
    Pg,
    /// Operators.
    Http,
    /// The service that confirms logins with a browser.
    Mgmt,
}

/// What a listening socket is for, and the address that it was opened for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    pub(crate) purpose: Purpose,
    /// The value of the flag. Port 0 stays 0 here, so that the next process finds the socket by its flag.
    pub(crate) address: String,
}

/// An open listening socket. No runtime watches it: the one that accepts its connections watches a duplicate of it.
#[derive(Debug)]
pub struct Listener {
    pub(crate) label: Label,
    pub(crate) socket: Arc<TcpListener>,
}

/// All listening sockets of a proxy.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) pg: Vec<Listener>,
    pub(crate) http: Listener,
    pub(crate) mgmt: Option<Listener>,
}

impl Listeners {
    /// Opens the listening sockets that the configuration names. `inherited` are the sockets of the process that this
    /// one replaces. To be called once, because it takes ownership of the descriptors that a supervisor passes.
    pub async fn open(config: &Config, inherited: Vec<Listener>) -> anyhow::Result<Self> {
        let mut passed = Passed(from_supervisor().context("sockets passed by the supervisor")?);
        passed.0.extend(inherited);
        let mut pg = passed.take_supervised(Purpose::Pg);
        if pg.is_empty() {
            for address in &config.listen {
                pg.push(passed.take_or_bind("--listen", Purpose::Pg, address).await?);
            }
        }
        let http = passed.take_or_bind("--listen-http", Purpose::Http, &config.listen_http).await?;
        let mgmt = match config.control_plane {
            ControlPlaneSource::Link(_) => {
                Some(passed.take_or_bind("--listen-mgmt", Purpose::Mgmt, &config.listen_mgmt).await?)
            }
            _ => None,
        };
        for Listener { label, .. } in passed.0 {
            tracing::warn!(?label, "inherited listening socket is not configured, closing it");
        }
        Ok(Self { pg, http, mgmt })
    }

    /// Where clients connect.
    pub fn pg_addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.pg.iter().map(|listener| listener.socket.local_addr()).collect()
    }

    /// Where operators connect.
    pub fn http_address(&self) -> std::io::Result<SocketAddr> {
        self.http.socket.local_addr()
    }

    /// Where logins with a browser are reported.
    pub fn mgmt_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.mgmt.as_ref().map(|listener| listener.socket.local_addr()).transpose()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Listener> {
        self.pg.iter().chain([&self.http]).chain(&self.mgmt)
    }
}

/// Sockets that another process has opened, and that are not assigned to a flag yet.
struct Passed(Vec<Listener>);

impl Passed {
    /// Takes all sockets for this purpose that the supervisor passed. They override the flag.
    fn take_supervised(&mut self, purpose: Purpose) -> Vec<Listener> {
        let wanted = Label::supervised(purpose);
        self.0.extract_if(.., |listener| listener.label == wanted).collect()
    }

    async fn take_or_bind(
        &mut self,
        flag: &str,
        purpose: Purpose,
        address: &str,
    ) -> anyhow::Result<Listener> {
        let label = Label { purpose, address: address.to_owned() };
        let wanted = [Label::supervised(purpose), label.clone()];
        if let Some(at) = self.0.iter().position(|listener| wanted.contains(&listener.label)) {
            return Ok(self.0.remove(at));
        }
        let bound = tokio::net::TcpListener::bind(address).await.and_then(tokio::net::TcpListener::into_std);
        let socket = bound.with_context(|| format!("{flag} {address}"))?;
        Ok(Listener { label, socket: Arc::new(socket) })
    }
}

impl Label {
    fn supervised(purpose: Purpose) -> Self {
        Self { purpose, address: "of the supervisor".to_owned() }
    }

    /// Label of a supervisor's socket, by the name of the socket (systemd.socket(5), FileDescriptorName=).
    fn of_name(name: &str) -> Self {
        Self::supervised(match name {
            "http" => Purpose::Http,
            "mgmt" => Purpose::Mgmt,
            _ => Purpose::Pg,
        })
    }
}

impl Listener {
    pub(crate) fn new(label: Label, descriptor: OwnedFd) -> anyhow::Result<Self> {
        // A database that is started from here must not hold the port.
        fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
        if !SockRef::from(&descriptor).is_listener().unwrap_or(false) {
            bail!("inherited descriptor is no listening socket");
        }
        let socket = TcpListener::from(descriptor);
        socket.set_nonblocking(true)?;
        Ok(Self { label, socket: Arc::new(socket) })
    }
}

/// A duplicate of a listening socket that the current runtime watches.
pub(crate) fn watched(socket: &TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::from_std(socket.as_fd().try_clone_to_owned()?.into())
}

fn from_supervisor() -> anyhow::Result<Vec<Listener>> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    // A parent process may have received these variables for itself and passed them on unchanged.
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return Ok(Vec::new());
    }
    let count: usize = variable("LISTEN_FDS").parse().context("LISTEN_FDS")?;
    if count > LISTENERS_MAX {
        bail!("LISTEN_FDS={count} is more than {LISTENERS_MAX}");
    }
    let names = variable("LISTEN_FDNAMES");
    let names = names.split(':').chain(std::iter::repeat(""));
    (FIRST_PASSED_FD..).zip(names).take(count).map(|(number, name)| passed(number, name)).collect()
}

#[expect(unsafe_code, reason = "a supervisor passes descriptors as numbers in the environment")]
fn passed(number: RawFd, name: &str) -> anyhow::Result<Listener> {
    // Only an open descriptor may become an owned one.
    let is_open = std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    if !is_open {
        bail!("descriptor {number} is not open");
    }
    // SAFETY: it is open, it was meant for this process, and nothing else takes it: this runs once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    Listener::new(Label::of_name(name), descriptor).with_context(|| format!("descriptor {number}"))
}
