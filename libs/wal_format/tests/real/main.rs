//! WAL that servers of each supported major version wrote, read in pieces, cut and damaged. Needs no server: the WAL
//! lies in `tests/fixtures`, beside where the server's own reader says that its records begin and end.
//!
//! `record.sh` makes these files anew, through the one ignored test in `record.rs`, which also says what the servers
//! were made to do.

#![allow(clippy::unwrap_used, reason = "a panic here is the report of a test")]

mod cut;
mod damage;
mod fixture;
mod headers;
mod overwritten;
mod record;
mod record_ends;
#[path = "../server/mod.rs"]
mod server;
