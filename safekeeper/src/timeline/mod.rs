//! Timelines: the logs of this safekeeper, and the disk threads that own them.
//!
//! ```text
//!   receive_wal ── reserve, enqueue ──> lane ──┐                        ┌──> mailbox ──> receive_wal
//!                                              ├─> disk thread, Replica ┤
//!   receive_wal ── reserve, enqueue ──> lane ──┘                        └──> snapshot ─> send_wal, replies, http
//! ```
//!
//! [`Timelines`] finds, creates and opens them. [`Timeline`] is what a connection holds; it reaches the disk thread by
//! commands, and the log's state by snapshots.

mod create;
mod directory;
mod disk_pool;
mod disk_thread;
mod handle;
mod lane_queues;
mod mailbox;
mod not_served;
mod registry;

pub(crate) use create::{CreateError, Creation, NewTimeline};
pub(crate) use disk_pool::DiskPool;
pub(crate) use handle::{LANE_BYTES_MAX, LaneSender, SnapshotWatch, ThreadEnded, Timeline};
pub(crate) use mailbox::Mail;
pub(crate) use not_served::{NotServed, NotServedCause};
pub(crate) use registry::Timelines;
