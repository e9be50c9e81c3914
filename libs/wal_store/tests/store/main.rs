//! Tests of the store through its public API: a replica on a real disk, and on disks that fail.

#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod basics;
mod batches;
mod both_disks;
mod common;
mod crash;
mod damage;
mod damaged_log;
mod dead_tail;
mod faults;
mod handles;
mod interrupted;
mod log_checks;
mod log_start;
mod long_history;
mod loss;
mod reading;
mod removal;
mod start_history;
mod timelines;
mod truncation;
mod unchecked;
mod unreadable;
mod work;
mod world;
