//! A cluster in one thread: real `Replica`s on model disks, real `Proposer`s, a network that is only queues, and an
//! oracle that remembers every byte that was ever called committed.
//!
//! ```text
//!   schedule --picks an event--> cluster --+--> primary     writes WAL that differs from every other primary's
//!      (seed)                              +--> writer      a proposer and what walproposer does around it
//!                                          +--> node        a Replica<ModelDisk>, which crashes inside any operation
//!                                          +--> standby     reads what is committed, from one node after the other
//!                                          +--> invariants  each a named function; the oracle that they ask
//! ```
//!
//! One seed is one schedule: everything random comes from it, so the same seed on the same tree gives the same trace,
//! and two runs must agree on its hash. This crate is for development and tests; no program links it.

mod cluster;
mod engine;
mod invariants;
mod mirror;
mod neon;
mod node;
mod primary;
mod schedule;
mod standby;
mod stats;
mod trace;
mod writer;

pub use invariants::Violation;
pub use schedule::{ScheduleOutcome, run};
pub use stats::{COVERAGE_SCHEDULES_MIN, Stats};
