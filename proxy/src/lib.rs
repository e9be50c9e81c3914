//! One address for many PostgreSQL databases: finds the one that a client wants, authenticates the client, wakes the
//! database if it is stopped, and passes bytes.
//!
//! ```text
//!   server ── accept ─── session: the story on one page
//!                          postgres_backend::handshake   TLS (certificates: tls), cancel, startup packet
//!                          route                         endpoint, role, what is passed on
//!                          auth ─ libs/scram             against a verifier of control_plane
//!                          compute ─ control_plane       where it is, wake, connect, log in with the client's key
//!                          cancel                        a key of our own for each client
//!                          relay                         bytes, until one side ends
//! ```
//!
//! A library with `Server` and a thin `main.rs`.

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
mod tls;

pub use lifecycle::handover::Succession;
pub use listeners::{Listener, Listeners};
pub use server::{Running, Server};
