//! The program itself, between real clients and a real PostgreSQL. Each test has an installation of its own.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod control_planes;
mod door;
mod ends;
mod failures;
mod handover;
mod observed;
mod passwords;
mod program;
mod raw;
mod reloads;
mod sessions;
mod signals;
mod support;
mod tls;
mod wake;
