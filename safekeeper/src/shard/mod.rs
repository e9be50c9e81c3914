//! Shards: each is a thread with the timelines that are pinned to it, and with the connections of their proposers.
//!
//! ```text
//!   session, main runtime                     shard: one thread, one task
//!   START_WAL_PUSH ── LentCopy ──> connection ── message ──> lane ──> Replica: write all, then sync
//!                                       │ <──────────────── reply ───────┘           │
//!   closing message <─ ReturnedCopy ────┘                                            └─> snapshot ─> send_wal, http
//! ```
//!
//! A turn of a shard reads all that has arrived, lets every timeline with messages write, syncs one after the other, and
//! writes each one's replies to its sockets at once. Nothing is handed to another thread on the way, so a small append
//! costs the system calls of its IO and one wait. In return nothing in a turn may wait for a peer, and what must not wait
//! for a disk does not belong on a shard: such messages take a connection of their own, which stays on the main runtime.

mod command;
mod lane_queues;
mod lent_copy;
mod owned_timeline;
mod pool;
mod proposer_connection;
mod ready_list;
mod reply_queue;
mod rounds;
mod task;
mod workers;

pub(crate) use command::{ShardCommand, ShardEnded, ShardSender, TimelineKey};
pub(crate) use lent_copy::{LentCopy, PushEnd, ReturnedCopy};
pub(crate) use owned_timeline::OpenedTimeline;
pub(crate) use pool::ShardPool;
