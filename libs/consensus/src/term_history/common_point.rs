//! Common point: finds where two logs part from their histories alone.

use wal_types::Lsn;

use super::history::TermHistory;

/// Shape of one node's log: enough to find where it parts from another log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogExtent {
    /// Terms that wrote the log, up to `end`.
    pub history: TermHistory,
    /// First byte that this node holds. Below it nothing can differ.
    pub start: Lsn,
    /// End of the log.
    pub end: Lsn,
    /// Everything up to here is committed, so no log of an elected proposer differs below. Above `end` only on a node that
    /// has lost a part of its log.
    pub agreed: Lsn,
}

/// The position up to which the log of a node agrees with the log of an elected proposer.
///
/// `None` when the histories are too short to tell: the node cannot follow this proposer and must be replaced.
pub fn common_point(proposer: &TermHistory, local: &LogExtent) -> Option<Lsn> {
    let &LogExtent { ref history, start, end, agreed } = local;
    let proposer_first = proposer.0.first()?.start;
    let known = start.max(agreed);
    if end <= known {
        return Some(end);
    }
    // The logs part at the first position where different terms wrote. Terms change only at entries, so these are the
    // only positions to look at; empty ranges drop out because they own no position.
    let local_first = history.0.first().map_or(proposer_first, |entry| entry.start);
    let base = proposer_first.max(local_first).max(known);
    if base >= end {
        return None;
    }

    let starts = proposer.0.iter().chain(&history.0).map(|entry| entry.start);
    let mut candidates: Vec<Lsn> = starts.chain([base]).filter(|at| (base..end).contains(at)).collect();
    candidates.sort_unstable();
    let parting = candidates.into_iter().find(|&at| proposer.term_of(at) != history.term_of(at));
    match parting {
        None => Some(end),
        // The logs differ at the first byte that both histories cover: they part below, and the histories do not say where.
        Some(at) if at == base && base > known => None,
        Some(at) => Some(at),
    }
}
