//! [`Listeners`]: the listening sockets. A supervisor has opened them before this process began (sd_listen_fds(3)), the
//! process that this one replaces has handed them over, or they are bound here. Called by `main`.

use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use anyhow::{Context, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::net::TcpListener;

use crate::config::{Config, ControlPlaneSource};

/// The first descriptor that a supervisor passes (sd_listen_fds(3), SD_LISTEN_FDS_START).
const FIRST_PASSED_FD: RawFd = 3;
/// More than anybody needs, and fewer than one message between processes can carry.
pub(crate) const LISTENERS_MAX: usize = 100;

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// Clients.
    Pg,
    /// Operators.
    Http,
    /// The service behind logins with a browser.
    Mgmt,
}

/// What a port is for, and where it was to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    pub(crate) purpose: Purpose,
    /// As configured: port 0 is a different port each time, and the same flag.
    pub(crate) address: String,
}

/// A port that is open.
#[derive(Debug)]
pub struct Listener {
    pub(crate) label: Label,
    pub(crate) socket: Arc<TcpListener>,
}

/// Ports that are open.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) pg: Vec<Listener>,
    pub(crate) http: Listener,
    pub(crate) mgmt: Option<Listener>,
}

impl Listeners {
    /// Opens what the configuration names. `inherited` are the sockets of the process that this one replaces. To be called
    /// once: the descriptors that a supervisor passes are taken here.
    pub async fn open(config: &Config, inherited: Vec<Listener>) -> anyhow::Result<Self> {
        let mut passed = Passed(from_supervisor().context("sockets of the supervisor")?);
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
            tracing::warn!(?label, "a listening socket that was passed is not needed: it is closed");
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

/// Ports that somebody else opened and that nobody has taken yet.
struct Passed(Vec<Listener>);

impl Passed {
    /// A supervisor's unit says where it listens: that goes before the flags.
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
        let socket = TcpListener::bind(address).await.with_context(|| format!("{flag} {address}"))?;
        Ok(Listener { label, socket: Arc::new(socket) })
    }
}

impl Label {
    fn supervised(purpose: Purpose) -> Self {
        Self { purpose, address: "of the supervisor".to_owned() }
    }

    /// By the name that the supervisor gave the socket (systemd.socket(5), FileDescriptorName=).
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
        // A database that is started from here must not hold our port.
        fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
        if !SockRef::from(&descriptor).is_listener().unwrap_or(false) {
            bail!("a descriptor that was passed is no listening socket");
        }
        let socket = std::net::TcpListener::from(descriptor);
        socket.set_nonblocking(true)?;
        Ok(Self { label, socket: Arc::new(TcpListener::from_std(socket)?) })
    }
}

fn from_supervisor() -> anyhow::Result<Vec<Listener>> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    // Those of somebody else are passed on by whoever knows nothing of this.
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

#[expect(unsafe_code, reason = "a number in the environment is how a supervisor passes a descriptor")]
fn passed(number: RawFd, name: &str) -> anyhow::Result<Listener> {
    // A number that is not open must not become an owner.
    let is_open = std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    if !is_open {
        bail!("descriptor {number} is not open");
    }
    // SAFETY: it is open, it was meant for this process, and nothing else takes it: this runs once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    Listener::new(Label::of_name(name), descriptor).with_context(|| format!("descriptor {number}"))
}
