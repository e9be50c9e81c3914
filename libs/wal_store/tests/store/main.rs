//! The store from outside: a replica on a real disk, and on one that fails.

#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod basics;
mod common;
mod crash;
mod damage;
mod dead_tail;
mod faults;
mod long_history;
mod loss;
mod reading;
mod removal;
mod timelines;
mod unchecked;
mod world;
