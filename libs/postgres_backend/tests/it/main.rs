//! Connections from the outside: servers and clients of this crate on pipes in memory and on loopback sockets.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod certificates;
mod copy;
mod direct_tls;
mod handshake;
mod queries;
mod support;
mod tls;
mod tls_records;
