//! The program itself, between real clients and a real PostgreSQL. Each test has an installation of its own.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod failures;
mod sessions;
mod support;
mod wake;
