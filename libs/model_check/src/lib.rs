//! Model checking of the consensus core: every order of steps, up to bounds, where a simulation takes random ones.
//!
//! The product's own [`consensus::Acceptor`] and [`consensus::Proposer`] run, with a driver that carries out their
//! effects as the WAL store and the walproposer do. The log is counted in records, and a disk never fails.
//!
//! ```text
//!   check ---explores---> cluster --+--> state     nodes, writers, links between them, and the observer's ledger
//!                         (model)   +--> action    one step: a message, a crash, a campaign, ...
//!                                   +--> step      carries out an action; parts in pre_vote, deliver, observe, reduce
//!                                   +--> properties  check of each invariant, with earlier and seen
//! ```
//!
//! Its own program (`model_check`) and its tests call it.

mod action;
mod audit;
mod bounds;
mod check;
mod cluster;
mod coverage;
mod deliver;
mod earlier;
mod invariant;
mod ledger;
mod link;
mod names;
mod node;
mod observe;
mod pre_vote;
mod properties;
mod record;
mod reduce;
mod seen;
mod shared;
mod state;
mod step;
mod symmetry;
mod writer;

pub use audit::{Audit, audit};
pub use bounds::{Bounds, Kind};
pub use check::{Report, Verdict, check, check_and_collect};
pub use invariant::Invariant;
