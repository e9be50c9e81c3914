//! Simulation of a whole cluster in one thread, driven by a seed. Safekeepers are real `Replica`s on model disks,
//! proposers are real `Proposer`s, the network is a set of queues. An oracle remembers every byte that was ever
//! reported as committed.
//!
//! ```text
//!   schedule --picks an event--> cluster --+--> primary     writes WAL that differs from every other primary's
//!      (seed)                              +--> writer      a proposer, with walproposer's checks around it
//!                                          +--> node        a Replica<ModelDisk>, which can crash in any operation
//!                                          +--> standby     reads committed WAL, from one node after another
//!                                          +--> invariants  one named function each, asked of the oracle
//! ```
//!
//! One seed is one schedule: every random number comes from it. The same seed on the same sources gives the same trace,
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
