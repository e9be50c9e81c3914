//! The safekeeper: stores PostgreSQL's write-ahead log (WAL) durably, and votes on which proposer may write it.
//!
//! ```text
//!   server ── accept ──> session ─┬─ START_WAL_PUSH ────> receive_wal ── socket ──> shard (thread, Replicas)
//!                                 │                            ^────── socket ──────┘     │ snapshot
//!                                 ├─ START_REPLICATION ─> send_wal <──────────────────────┤
//!                                 └─ everything else ───> replies  <──────────────────────┤
//!   http  ── create, status, metrics <────────────────────────────────────────────────────┘
//! ```
//!
//! `consensus` decides about the log, and `wal_store` carries the decisions out on disk. This crate adds connections,
//! shards and the admin HTTP port.

mod auth;
mod closing;
mod command;
mod config;
mod data_dir;
mod disk;
mod feedback;
mod http;
mod metrics;
mod pg_timelines;
mod receive_wal;
mod replies;
mod retention;
mod send_wal;
mod server;
mod session;
mod shard;
mod slots;
mod socket;
mod start_history;
mod startup_options;
mod timeline;
mod timeline_metrics;

pub use auth::Token;
pub use config::{Config, ConfigError, Flags};
pub use data_dir::{DataDir, DataDirError, Identity};
pub use disk::DiskLimits;
pub use server::{Listeners, serve};
pub use wal_store::Retention;
