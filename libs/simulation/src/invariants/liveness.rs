//! Invariants of liveness: a healed cluster makes progress. Rounds stand for time: in each round every part does all
//! work that is due.

use wal_types::Term;

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

/// L3 excludes: a clone of the primary that can never lead deposes the leader again and again, and each time the leader
/// waits longer before it comes back: a server that is useless stops the one that works.
pub(crate) fn rightful_leader_leads(led: u64, rounds: u64) -> Result<(), Violation> {
    ensure("rightful_leader_leads", led * 100 >= rounds * 99, || {
        format!("the rightful leader led in {led} of {rounds} rounds beside a diverged rival")
    })
}

/// Excludes: a diverged clone asks for votes before it compares its WAL with the log, and the leader loses its term to a
/// candidate that must not lead.
pub(crate) fn diverged_rival_spends_no_term(term: Term) -> Result<(), Violation> {
    ensure("diverged_rival_spends_no_term", term == Term::ZERO, || {
        format!("a diverged rival asked for votes in term {term}")
    })
}

/// Excludes: a diverged clone reads a segment of its primary and of a safekeeper every few seconds, for days.
pub(crate) fn diverged_rival_stays_away(attempts: u64, attempts_max: u64) -> Result<(), Violation> {
    ensure("diverged_rival_stays_away", attempts <= attempts_max, || {
        format!("a diverged rival tried {attempts} times in ten minutes; it may try {attempts_max} times")
    })
}

/// L4 excludes: one member of three is dead, or its disk is full, slow or fails for good, and the others wait for it: commits
/// stop, or every new leader asks it first.
pub(crate) fn persistent_fault_stops_no_commit(
    fault: &str,
    rounds: u64,
    rounds_max: u64,
) -> Result<(), Violation> {
    ensure("persistent_fault_stops_no_commit", rounds <= rounds_max, || {
        format!(
            "one member has the fault {fault}, and a record has waited for its commit for {rounds} rounds"
        )
    })
}

/// R3, second half, excludes: all disks are full and all nodes restart. They vote, but a node cannot truncate its dead tail
/// for lack of room, and follows no leader.
pub(crate) fn full_cluster_elects(rounds: u64, rounds_max: u64) -> Result<(), Violation> {
    ensure("full_cluster_elects", rounds < rounds_max, || {
        format!("after {rounds_max} rounds on full disks no leader is followed by all nodes")
    })
}

/// L5 excludes: one member is dead, and the leader keeps in memory all WAL that the member lacks, until the process is killed.
pub(crate) fn buffered_wal_is_bounded(bytes: u64, bytes_max: u64) -> Result<(), Violation> {
    ensure("buffered_wal_is_bounded", bytes <= bytes_max, || {
        format!("a leader that commits has {bytes} bytes of WAL in memory, {bytes_max} are enough")
    })
}
