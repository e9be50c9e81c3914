//! The safekeeper from outside: through its two ports, on a real disk, with a scripted proposer.

#![expect(clippy::unwrap_used, reason = "a panic of a test is its report")]

mod doors;
mod ends;
mod full_disk;
mod http;
mod loop_disk;
mod many_timelines;
mod process;
mod push;
mod read;
mod removal;
mod shards;
mod slots;
mod stalled;
mod strace;
mod support;
mod switch;
mod tls;
