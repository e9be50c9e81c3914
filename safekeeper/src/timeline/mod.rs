//! Timelines: the logs of this safekeeper, and what connections hold of them.
//!
//! [`Timelines`] finds, creates and opens them, and gives each to the shard that owns it. [`Timeline`] is what a connection
//! holds: a proposer's copy moves to the shard through it, and it shows the log's state by snapshots.

mod create;
mod directory;
mod handle;
mod not_served;
mod open_retries;
mod opening;
mod push;
mod registry;

pub(crate) use create::{BootstrapError, CreateError, Creation, NewTimeline};
pub(crate) use handle::{SnapshotWatch, Timeline};
pub(crate) use not_served::{NotServed, NotServedCause};
pub(crate) use registry::Timelines;
