//! Invariants of liveness: a healed cluster makes progress. Rounds stand for time: in each round every part does all
//! work that is due.

use super::violation::{Violation, ensure};

/// L1, first half, excludes: a node waits for ever for a message that is never sent, or refuses every message of every
/// proposer: a healed cluster stays undecided and no standby can be promoted.
pub(crate) fn recovery_finishes(rounds: u64, rounds_max: u64) -> Result<(), Violation> {
    ensure("recovery_finishes", rounds < rounds_max, || {
        format!("recovery not finished after {rounds_max} rounds")
    })
}

/// L1, second half, excludes: a quorum works and one node never catches up: the next failure stops the cluster.
pub(crate) fn healed_cluster_commits_and_catches_up(rounds: u64, rounds_max: u64) -> Result<(), Violation> {
    let name = "healed_cluster_commits_and_catches_up";
    ensure(name, rounds < rounds_max, || format!("commit or catch-up not finished after {rounds_max} rounds"))
}

/// L2 excludes: two proposers depose each other for ever, each with a term above the other's, and nothing is committed:
/// a back-off without jitter or without growth keeps them in step.
pub(crate) fn rival_proposers_converge(elections: u64, elections_max: u64) -> Result<(), Violation> {
    ensure("rival_proposers_converge", elections <= elections_max, || {
        format!("{elections} elections and still no commit; {elections_max} are enough")
    })
}
