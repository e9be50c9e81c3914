//! The walproposer: makes the commits of an **unpatched** PostgreSQL wait for a quorum of safekeepers.
//!
//! ```text
//!   PostgreSQL --WAL--> primary --> leadership --> campaign --> safekeeper_link --> safekeepers
//!      ^                                |     (consensus::Proposer)   ^
//!      +---------- commit_lsn ----------+                        safekeeper_dialer  (opens the connections)
//!                                                                donor_stream  (reads WAL from one safekeeper for
//!                                                                               another one that lacks it)
//! ```
//!
//! All of the upper line is one task: it owns every socket that a commit passes through and hands nothing on. Dialling,
//! donors, HTTP and the watch over the primary's settings are tasks beside it, on the same thread.
//!
//! It is the primary's synchronous standby. Start reading at `leadership`: one connection to the primary, one term.
//! The walproposer keeps nothing on disk: after a restart it learns everything from the safekeepers and the primary.
//!
//! The subcommand `run` uses all of it; [`recover`] holds an election without a primary.

mod admin_requests;
mod auth_token;
mod campaign;
mod change_result;
pub mod config;
mod conninfo;
mod donor_stream;
pub mod flags;
mod http;
mod leadership;
mod leadership_loop;
mod metrics;
mod primary;
mod primary_name;
mod primary_settings;
pub mod recover;
mod safekeeper_client;
mod safekeeper_dialer;
mod safekeeper_link;
#[cfg(test)]
mod scripted_server;
mod server;
mod settings_watch;
mod status;

pub use conninfo::{ConnInfo, ConnInfoError};
pub use primary_name::{PrimaryName, PrimaryNameError};
pub use server::serve;
