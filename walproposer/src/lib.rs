//! The walproposer: makes the commits of an **unpatched** PostgreSQL wait for a quorum of safekeepers.
//!
//! ```text
//!   primary --WAL--> primary --> cycle --> campaign --> safekeeper_link --> safekeepers
//!      ^                           |        (consensus::Proposer)   |
//!      +------- commit_lsn --------+                              donor  (a safekeeper that lags reads from another)
//! ```
//!
//! It is the primary's synchronous standby. `cycle` is the story: one connection to the primary, one term. It keeps
//! nothing on disk: what it must know after a restart the safekeepers and the primary tell it.

mod admin_requests;
mod auth_token;
mod campaign;
pub mod config;
mod configuration_change;
mod conninfo;
mod continuation;
mod donor_stream;
pub mod flags;
mod http;
mod leadership;
mod leadership_loop;
pub mod members;
mod metrics;
mod primary;
mod primary_name;
pub mod recover;
mod retry_policy;
mod safekeeper_client;
mod safekeeper_link;
#[cfg(test)]
mod scripted_server;
mod server;
mod status;

pub use conninfo::{ConnInfo, ConnInfoError};
pub use primary_name::{PrimaryName, PrimaryNameError};
pub use server::serve;
