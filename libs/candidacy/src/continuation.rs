//! Continuation check: compares the primary's position and timeline with the end of the log. Pure.
//!
//! A candidate is checked twice: before a term is spent, and again with the end of the log from the votes, before any
//! safekeeper truncates anything. A primary that passes has everything that may be committed, on the right timeline. The
//! *bytes* are compared afterwards, by a checksum of the last segment ([`crate::Comparison`]).

use thiserror::Error;
use wal_types::{Lsn, SegmentSize, Tli};

/// Position of a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrimaryPosition {
    /// Its PostgreSQL timeline.
    pub tli: Tli,
    /// End of its flushed WAL.
    pub flush_lsn: Lsn,
}

/// Reason for which the primary must not lead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotAContinuation {
    /// The primary lacks the end of the log.
    #[error(
        "the primary's WAL ends at {flush}, below the end of the log at {end}: the primary lacks WAL that may be committed; replace it by a server that has this WAL"
    )]
    Behind {
        /// End of the primary's WAL.
        flush: Lsn,
        /// End of the log.
        end: Lsn,
    },
    /// The primary is on an older timeline than the log.
    #[error(
        "the primary is on timeline {primary}, the log already on {log}: another server was promoted since; rewind or rebuild this one"
    )]
    OldTimeline {
        /// Timeline of the primary.
        primary: Tli,
        /// Timeline of the log's end.
        log: Tli,
    },
    /// The primary's timeline begins elsewhere.
    #[error(
        "the primary's timeline {tli} does not begin at the end of the log ({end} on timeline {log}): the primary was promoted with other WAL than the safekeepers'; rebuild it from a server that has the log"
    )]
    ForkedElsewhere {
        /// Timeline of the primary.
        tli: Tli,
        /// Timeline of the log's end.
        log: Tli,
        /// End of the log.
        end: Lsn,
    },
}

/// Position at which a timeline branched from its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineFork {
    /// The timeline before.
    pub parent: Tli,
    /// Where it was left.
    pub at: Lsn,
}

/// True when the check needs the history file of the primary's timeline.
pub fn needs_timeline_history(
    position: PrimaryPosition,
    end: Lsn,
    log_tli: Option<Tli>,
    segment_size: SegmentSize,
) -> bool {
    let may_fork_here = segment_size.offset_of(end) == 0 && position.tli > Tli::FIRST;
    log_tli.is_some_and(|log| position.tli > log || may_fork_here)
}

/// The timeline under which the primary has the byte before `end`. A promotion in the middle of a segment copies that
/// segment to the new timeline. A promotion at the end of a segment copies nothing: the last segment exists under the old
/// timeline only (PostgreSQL documentation, "Timelines").
pub fn timeline_before(
    position: PrimaryPosition,
    fork: Option<TimelineFork>,
    end: Lsn,
    segment_size: SegmentSize,
) -> Tli {
    match fork {
        Some(TimelineFork { parent, at }) if at == end && segment_size.offset_of(end) == 0 => parent,
        _ => position.tli,
    }
}

/// Checks the primary against a log that ends at `end` on timeline `log_tli` (`None` while the log is empty).
pub fn check(
    position: PrimaryPosition,
    fork: Option<TimelineFork>,
    end: Lsn,
    log_tli: Option<Tli>,
) -> Result<(), NotAContinuation> {
    let PrimaryPosition { tli, flush_lsn } = position;
    if let Some(log) = log_tli {
        if tli < log {
            return Err(NotAContinuation::OldTimeline { primary: tli, log });
        }
        if tli > log && fork != Some(TimelineFork { parent: log, at: end }) {
            return Err(NotAContinuation::ForkedElsewhere { tli, log, end });
        }
    }
    if flush_lsn < end {
        return Err(NotAContinuation::Behind { flush: flush_lsn, end });
    }
    Ok(())
}

/// Parses the last line of a history file: `parent <tab> position <tab> reason` (PostgreSQL documentation, "Timelines").
pub fn parse_last_fork(history: &str) -> Option<TimelineFork> {
    let is_entry = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let mut words = history.lines().rfind(is_entry)?.split_whitespace();
    Some(TimelineFork { parent: Tli(words.next()?.parse().ok()?), at: words.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use NotAContinuation::{Behind, ForkedElsewhere, OldTimeline};

    #[test]
    fn continuation_check_by_position_and_timeline() {
        let fork = |parent, at| Some(TimelineFork { parent: Tli(parent), at: Lsn(at) });
        let (flush, end) = (Lsn(90), Lsn(100));
        let forked = |tli, log| Err(ForkedElsewhere { tli: Tli(tli), log: Tli(log), end });
        // Primary's timeline and flush position, its fork, the log's timeline, the result.
        let table = [
            ((1, 100), None, Some(1), Ok(())),
            ((1, 200), None, Some(1), Ok(())),
            ((1, 100), None, None, Ok(())),
            ((5, 100), None, None, Ok(())),
            ((1, 90), None, Some(1), Err(Behind { flush, end })),
            ((1, 90), None, None, Err(Behind { flush, end })),
            ((1, 200), None, Some(2), Err(OldTimeline { primary: Tli(1), log: Tli(2) })),
            ((2, 200), fork(1, 100), Some(1), Ok(())),
            ((2, 200), fork(1, 99), Some(1), forked(2, 1)),
            ((2, 200), fork(1, 101), Some(1), forked(2, 1)),
            ((2, 200), None, Some(1), forked(2, 1)),
            // Two promotions since: the log lacks the WAL between them.
            ((3, 200), fork(2, 150), Some(1), forked(3, 1)),
        ];
        for ((tli, flush_lsn), fork, log_tli, expected) in table {
            let position = PrimaryPosition { tli: Tli(tli), flush_lsn: Lsn(flush_lsn) };
            assert_eq!(
                check(position, fork, end, log_tli.map(Tli)),
                expected,
                "{tli} {flush_lsn} {fork:?} {log_tli:?}"
            );
        }
    }

    /// After a promotion at the end of a segment, that segment is read under the old timeline.
    #[test]
    fn timeline_before_is_old_after_promotion_at_boundary() {
        let segment_size = SegmentSize::new(1 << 20).unwrap();
        let (boundary, middle) = (Lsn(5 << 20), Lsn((5 << 20) + 8));
        // Primary's timeline, its last fork, the end, the log's timeline; is the history needed, the timeline to read.
        let table = [
            (1, None, boundary, Some(1), false, 1),
            (2, Some((1, boundary)), boundary, Some(1), true, 1),
            // The switch is in the log already, but no byte behind it.
            (2, Some((1, boundary)), boundary, Some(2), true, 1),
            (2, Some((1, Lsn(1 << 20))), boundary, Some(2), true, 2),
            (2, Some((1, middle)), middle, Some(1), true, 2),
            (2, Some((1, middle)), middle, Some(2), false, 2),
            (2, Some((1, boundary)), boundary, None, false, 1),
        ];
        for (tli, fork, end, log_tli, needed, expected) in table {
            let position = PrimaryPosition { tli: Tli(tli), flush_lsn: end };
            let fork = fork.map(|(parent, at)| TimelineFork { parent: Tli(parent), at });
            let case = format!("{tli} {fork:?} {end} {log_tli:?}");
            assert_eq!(
                needs_timeline_history(position, end, log_tli.map(Tli), segment_size),
                needed,
                "{case}"
            );
            assert_eq!(timeline_before(position, fork, end, segment_size), Tli(expected), "{case}");
        }
    }

    #[test]
    fn last_fork_is_parsed_from_history_file() {
        let history = "1\t0/5111C48\tno recovery target specified\n\n2\t0/7000000\tbefore 2024\n";
        assert_eq!(parse_last_fork(history), Some(TimelineFork { parent: Tli(2), at: Lsn(0x700_0000) }));
        for nonsense in ["", "# a comment\n", "x\t0/1\n", "1\tnowhere\n", "1\n"] {
            assert_eq!(parse_last_fork(nonsense), None, "{nonsense:?}");
        }
    }
}
