//! Connections from the outside: servers and clients of this crate on pipes in memory and on loopback sockets.

mod copy;
mod handshake;
mod queries;
mod support;
mod tls;
