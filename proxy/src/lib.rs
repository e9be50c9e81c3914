//! One address for many PostgreSQL databases: finds the one that a client wants, authenticates the client, wakes the
//! database if it is stopped, and passes bytes.
//!
//! ```text
//!   server ── accept ─── session: the story of a connection, on one of the threads
//!      │                   postgres_backend::handshake   TLS (certificates: tls), cancel request, startup packet
//!      │                   route                         endpoint, role, what is passed on
//!      │                   auth ─ libs/scram             against a verifier of control_plane
//!      │                   compute ─ control_plane       address, wake, connect, log in with the client's key
//!      │                   cancel                        a cancel key of the proxy's own for each client
//!      │                   relay, closing                bytes until one side ends, the closing message
//!      ├─ admin            operators: sessions, caches, metrics (observe)
//!      ├─ peer_server      other proxy processes (their client: peers)
//!      └─ lifecycle        drain, handover, reload, supervision
//!
//!   control_plane          trait ControlPlane behind caches; providers: file, http, auth_query
//!   limits, config         rates, connections and allowlists; flags and settings
//! ```
//!
//! A library with [`Server`] and a thin `main.rs`: [`Succession`] asks a running proxy for its listening sockets, [`Listeners`]
//! opens the others.

mod accept;
mod admin;
mod auth;
mod cancel;
mod client_facing;
mod closing;
mod compute;
pub mod config;
mod control_plane;
mod lifecycle;
mod limits;
mod link;
mod listeners;
mod observe;
mod peer_server;
mod peers;
mod providers;
mod relay;
mod route;
mod server;
mod session;
mod socket;
mod thread_random;
mod threads;
mod tls;

pub use lifecycle::handover::Succession;
pub use listeners::{Listener, Listeners};
pub use server::{Running, Server};
