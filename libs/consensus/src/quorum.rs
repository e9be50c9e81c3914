//! Quorum arithmetic for simple and joint configurations. A member is a number, or a copy of the log.

use wal_types::Lsn;

/// Size of a majority: any two majorities of `members` nodes have a node in common.
pub const fn majority(members: usize) -> usize {
    members / 2 + 1
}

/// True when `has` holds for a majority of every set. Without any set there is no quorum.
pub fn reached<M: Copy>(sets: &[Vec<M>], has: impl Fn(M) -> bool) -> bool {
    !sets.is_empty()
        && sets.iter().all(|set| set.iter().filter(|&&member| has(member)).count() >= majority(set.len()))
}

/// The highest position that a majority of every set has reached; zero when there is none.
///
/// `flushed` returns how far a member is known to have flushed. A position below `term_start` counts as zero: a proposer
/// commits what earlier terms wrote only when a majority holds all of it, up to the start of the proposer's own term.
/// Before that, a later election may still choose another log. (Raft, section 5.4.2, commits no entries of older terms
/// by counting replicas, for the same reason.)
pub fn committed<M: Copy>(sets: &[Vec<M>], term_start: Lsn, flushed: impl Fn(M) -> Lsn) -> Lsn {
    let of_set = |set: &Vec<M>| {
        let mut positions: Vec<Lsn> = set.iter().map(|&member| flushed(member)).collect();
        for position in &mut positions {
            if *position < term_start {
                *position = Lsn::INVALID;
            }
        }
        positions.sort_unstable();
        positions.get(set.len().wrapping_sub(majority(set.len()))).copied().unwrap_or(Lsn::INVALID)
    };
    sets.iter().map(of_set).min().unwrap_or(Lsn::INVALID)
}

#[cfg(test)]
mod tests {
    use wal_types::NodeId;

    use super::*;

    fn set(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_majority_is_more_than_half() {
        for (members, expected) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3)] {
            assert_eq!(majority(members), expected, "{members}");
        }
    }

    /// Without a set, and with an empty set, there is no quorum.
    #[test]
    fn reached_needs_a_member() {
        assert!(!reached::<NodeId>(&[], |_| true));
        assert!(!reached(&[set(&[])], |_| true));
    }

    /// The commit LSN is what a majority of each set has reached, and counts only from the start of the term on.
    #[test]
    fn committed_takes_the_majority_of_each_set() {
        // sets, term start, flush of node 1, 2, 3, ..., committed
        let table: &[(&[&[u64]], u64, &[u64], u64)] = &[
            (&[&[1]], 10, &[30], 30),
            (&[&[1, 2, 3]], 10, &[30, 20, 0], 20),
            (&[&[1, 2, 3]], 10, &[30, 0, 0], 0),
            (&[&[1, 2, 3]], 10, &[30, 20, 25], 25),
            // Two of three hold a tail, but below the start of the term it does not count.
            (&[&[1, 2, 3]], 40, &[30, 30, 50], 0),
            (&[&[1, 2, 3]], 40, &[40, 30, 50], 40),
            (&[&[1, 2, 3, 4]], 10, &[40, 30, 20, 10], 20),
            (&[&[1, 2, 3, 4, 5]], 10, &[50, 40, 30, 20, 10], 30),
            // Joint: the lower of both.
            (&[&[1, 2, 3], &[3, 4, 5]], 10, &[50, 50, 50, 20, 0], 20),
            (&[&[1, 2, 3], &[3, 4, 5]], 10, &[50, 50, 50, 0, 0], 0),
            (&[], 10, &[50], 0),
        ];

        for &(sets, term_start, flush, expected) in table {
            let sets: Vec<_> = sets.iter().map(|ids| set(ids)).collect();
            let got = committed(&sets, Lsn(term_start), |node| Lsn(flush[node.0 as usize - 1]));
            assert_eq!(got, Lsn(expected), "{sets:?} {term_start} {flush:?}");
        }
    }
}
