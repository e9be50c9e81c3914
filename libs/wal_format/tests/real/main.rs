//! Recorded WAL of every supported major version, read in pieces, truncated and damaged. Needs no server: the WAL is in
//! `tests/fixtures`, with the record positions that the server's own reader reported.
//!
//! `record.sh` records these files again, through the one ignored test in `record.rs`, which also says what the servers
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
