//! [`PgTimelines`]: shows stock tools the PostgreSQL timelines of a log, each up to its switch point.
//!
//! One log holds all of them, one behind the other. A switch counts as soon as a byte of the new timeline may be read:
//! before that, another proposer may still replace the switch. Pure; called by `replies` and `send_wal`.

use consensus::TliSwitch;
use wal_types::{Lsn, Tli};

/// The PostgreSQL timelines of a log up to a position.
#[derive(Clone, Debug)]
pub(crate) struct PgTimelines {
    start_tli: Tli,
    /// The switches that count, oldest first.
    switches: Vec<TliSwitch>,
}

/// How a timeline that a reader requests relates to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PgTimelineLookup {
    /// The newest timeline, which goes on.
    Current,
    /// The timeline ended at this switch.
    Ended(TliSwitch),
    /// The log never was on that timeline.
    Unknown,
}

impl PgTimelines {
    /// The timelines of a log that begins on `start_tli` and may be read up to `end`.
    pub(crate) fn new(start_tli: Tli, switches: &[TliSwitch], end: Lsn) -> Self {
        let switches = switches.iter().copied().filter(|switch| switch.at < end).collect();
        Self { start_tli, switches }
    }

    /// The newest timeline.
    pub(crate) fn current(&self) -> Tli {
        self.switches.last().map_or(self.start_tli, |switch| switch.tli)
    }

    /// Looks up a timeline that a reader requests.
    pub(crate) fn lookup(&self, tli: Tli) -> PgTimelineLookup {
        if tli == self.current() {
            return PgTimelineLookup::Current;
        }
        match self.switches.iter().find(|switch| switch.parent == tli) {
            Some(switch) => PgTimelineLookup::Ended(*switch),
            None => PgTimelineLookup::Unknown,
        }
    }

    /// Name and content of the history file of a timeline, one line for each timeline before it (PostgreSQL
    /// documentation, "Timelines"). `None` when the log was never on it, or begins on it: its past is unknown. Lines older
    /// than the last 1,000 switches are absent ([`consensus::term_history::TLI_SWITCHES_MAX`]).
    pub(crate) fn history_file(&self, tli: Tli) -> Option<(String, String)> {
        let last = self.switches.iter().position(|switch| switch.tli == tli)?;
        let line =
            |switch: &TliSwitch| format!("{}\t{}\tno recovery target specified\n", switch.parent, switch.at);
        let content = self.switches[..=last].iter().map(line).collect();
        Some((format!("{:08X}.history", tli.0), content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch(parent: u32, tli: u32, at: u64) -> TliSwitch {
        TliSwitch { parent: Tli(parent), tli: Tli(tli), at: Lsn(at) }
    }

    fn timelines(end: u64) -> PgTimelines {
        PgTimelines::new(Tli(1), &[switch(1, 2, 0x500), switch(2, 4, 0x700)], Lsn(end))
    }

    #[test]
    fn switch_counts_once_wal_behind_it_is_readable() {
        for (end, current) in [(0x400, 1), (0x500, 1), (0x501, 2), (0x700, 2), (0x701, 4)] {
            assert_eq!(timelines(end).current(), Tli(current), "{end:x}");
        }
    }

    #[test]
    fn lookup_tells_current_ended_and_unknown() {
        let table = [
            (0x600, 1, PgTimelineLookup::Ended(switch(1, 2, 0x500))),
            (0x600, 2, PgTimelineLookup::Current),
            (0x600, 3, PgTimelineLookup::Unknown),
            (0x600, 4, PgTimelineLookup::Unknown),
            (0x800, 1, PgTimelineLookup::Ended(switch(1, 2, 0x500))),
            (0x800, 2, PgTimelineLookup::Ended(switch(2, 4, 0x700))),
            (0x800, 4, PgTimelineLookup::Current),
        ];
        for (end, tli, expected) in table {
            assert_eq!(timelines(end).lookup(Tli(tli)), expected, "{end:x} {tli}");
        }
    }

    #[test]
    fn history_file_lists_earlier_timelines() {
        let (name, content) = timelines(0x800).history_file(Tli(4)).unwrap();
        assert_eq!(name, "00000004.history");
        assert_eq!(
            content,
            "1\t0/500\tno recovery target specified\n2\t0/700\tno recovery target specified\n"
        );
        assert_eq!(
            timelines(0x800).history_file(Tli(2)).unwrap().1,
            "1\t0/500\tno recovery target specified\n"
        );
        assert_eq!(timelines(0x600).history_file(Tli(4)), None);
        assert_eq!(timelines(0x800).history_file(Tli(1)), None);
    }
}
