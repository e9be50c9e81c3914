//! Goals of `wal-commit`, its quantities, and the names of its situations.

use std::time::Duration;

use crate::goals::{Goal, Requirement};
use crate::quantity::Quantity;

pub(super) const COMMITS: Quantity = Quantity::higher("commits", "1/s");
pub(super) const CPU: Quantity = Quantity::lower("CPU of all log parts a commit", "µs");
pub(super) const CPU_HOP: Quantity = Quantity::lower("CPU of relay or walproposer a commit", "µs");
pub(super) const CPU_NODE: Quantity = Quantity::lower("CPU of one log node a commit", "µs");
pub(super) const CPU_PRIMARY: Quantity = Quantity::lower("CPU of the primary a commit", "µs");
pub(super) const CPU_LINKS: Quantity = Quantity::lower("CPU of the links a commit", "µs");
pub(super) const WAKE_UPS: Quantity = Quantity::lower("wake-ups of all log parts a commit", "count");
pub(super) const SYNCS: Quantity = Quantity::lower("syncs a commit, one log node", "count");
pub(super) const CALLS_HOP: Quantity =
    Quantity::lower("system calls of relay or walproposer a commit", "count");
pub(super) const CALLS_NODE: Quantity = Quantity::lower("system calls of one log node a commit", "count");
pub(super) const MEMORY_HOP: Quantity = Quantity::lower("memory of relay or walproposer", "KiB");
pub(super) const MEMORY_NODE: Quantity = Quantity::lower("memory of one log node", "KiB");
pub(super) const P99: Quantity = Quantity::lower("p99 of a commit's latency", "ms");
pub(super) const P50: Quantity = Quantity::lower("p50 of a commit's latency", "ms");

/// Round trips of the links.
pub(super) const LINKS: [Duration; 3] =
    [Duration::from_micros(500), Duration::from_micros(1000), Duration::from_micros(2000)];
/// Number of clients over links that goals are about.
pub(super) const LINKED_CLIENTS: u32 = 8;
/// The situation of a node that stalls.
pub(super) const STALLED: &str =
    "INSERT, 500 a second, links of 1 ms, one log node stalls 100 ms each second";

/// A run in which the floor commits less than this share of `any2` is void.
const FLOOR_OF_ANY2: Requirement = Requirement { variant: "floor", against: "any2", bound: 0.75 };

/// Name of a situation on one machine.
pub(super) fn situation(script: &str, clients: u32) -> String {
    format!("{script}, {} on one machine", clients_text(clients))
}

/// Name of a situation over links.
pub(super) fn linked(clients: u32, round_trip: Duration) -> String {
    format!("INSERT, {}, links of {} ms", clients_text(clients), round_trip.as_secs_f64() * 1e3)
}

fn clients_text(clients: u32) -> String {
    if clients == 1 { "1 client".into() } else { format!("{clients} clients") }
}

/// All goals.
pub(super) fn all() -> Vec<Goal> {
    let goal = |what: String, quantity, peer, bound| Goal {
        what,
        quantity,
        ours: "ours",
        peer,
        bound,
        requires: None,
    };
    let mut all = Vec::new();
    for clients in [1, 8, 32] {
        let what = situation("INSERT", clients);
        let commits = goal(what.clone(), COMMITS, Some("floor"), 0.95);
        all.push(Goal { requires: Some(FLOOR_OF_ANY2), ..commits });
        all.push(goal(what, CPU, Some("floor"), 1.25));
    }
    all.push(goal(situation("INSERT", 32), SYNCS, None, 0.2));
    for round_trip in LINKS {
        for (peer, bound) in [("any2", 0.97), ("standby", 1.0), ("floor", 0.97)] {
            all.push(goal(linked(LINKED_CLIENTS, round_trip), COMMITS, Some(peer), bound));
        }
    }
    all.push(goal(STALLED.into(), P99, Some("standby"), 0.2));
    all
}
