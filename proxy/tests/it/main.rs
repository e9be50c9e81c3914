//! The program itself, between real clients and a real PostgreSQL. Each test has an installation of its own.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod admission;
mod control_planes;
mod failures;
mod handover;
mod http_control_plane;
mod installation;
mod observability;
mod passwords;
mod process_end;
mod proxy_process;
mod raw_client;
mod reload;
mod sessions;
mod signals;
mod tls;
mod wake;
