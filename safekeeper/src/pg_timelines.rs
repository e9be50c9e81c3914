//! [`PgTimelines`]: shows stock tools the PostgreSQL timelines of a log, each up to its switch point.
//!
//! One log holds all of them, one behind the other. A switch counts as soon as a byte of the new timeline may be read:
//! before that, another proposer may still replace the switch. The switches before the log always count. Pure; called by
//! `replies` and `send_wal`.

use consensus::TliSwitch;
use wal_types::{Lsn, Tli};

use crate::start_history::StartHistory;

/// The PostgreSQL timelines of a log up to a position.
#[derive(Clone, Debug)]
pub(crate) struct PgTimelines {
    start_tli: Tli,
    /// The switches that count, oldest first, each with its line of a history file.
    switches: Vec<(TliSwitch, String)>,
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
    /// The timelines of a log that begins on `start_tli`, after those of `past`, and may be read up to `end`.
    pub(crate) fn new(start_tli: Tli, past: &StartHistory, switches: &[TliSwitch], end: Lsn) -> Self {
        let own = switches.iter().copied().filter(|switch| switch.at < end);
        let own = own.map(|switch| (switch, history_line(&switch)));
        let switches: Vec<_> = past.lines().iter().cloned().chain(own).collect();
        Self { start_tli, switches }
    }

    /// The newest timeline.
    pub(crate) fn current(&self) -> Tli {
        self.switches.last().map_or(self.start_tli, |(switch, _)| switch.tli)
    }

    /// The timeline that a position belongs to.
    pub(crate) fn at(&self, lsn: Lsn) -> Tli {
        let first = self.switches.first().map_or(self.start_tli, |(switch, _)| switch.parent);
        let ended = self.switches.iter().take_while(|(switch, _)| switch.at <= lsn).last();
        ended.map_or(first, |(switch, _)| switch.tli)
    }

    /// Looks up a timeline that a reader requests.
    pub(crate) fn lookup(&self, tli: Tli) -> PgTimelineLookup {
        if tli == self.current() {
            return PgTimelineLookup::Current;
        }
        match self.switches.iter().find(|(switch, _)| switch.parent == tli) {
            Some((switch, _)) => PgTimelineLookup::Ended(*switch),
            None => PgTimelineLookup::Unknown,
        }
    }

    /// Name and content of the history file of a timeline, one line for each timeline before it (PostgreSQL
    /// documentation, "Timelines"). `None` when the log was never on it, or nothing is known before it. Lines older than
    /// the last 1,000 switches of the log are absent ([`consensus::term_history::TLI_SWITCHES_MAX`]).
    pub(crate) fn history_file(&self, tli: Tli) -> Option<(String, String)> {
        let last = self.switches.iter().position(|(switch, _)| switch.tli == tli)?;
        let content = self.switches[..=last].iter().map(|(_, line)| line.as_str()).collect();
        Some((format!("{:08X}.history", tli.0), content))
    }
}

/// A line of a history file. The reason is for people only.
fn history_line(switch: &TliSwitch) -> String {
    format!("{}\t{}\tno recovery target specified\n", switch.parent, switch.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch(parent: u32, tli: u32, at: u64) -> TliSwitch {
        TliSwitch { parent: Tli(parent), tli: Tli(tli), at: Lsn(at) }
    }

    fn timelines(end: u64) -> PgTimelines {
        let switches = [switch(1, 2, 0x500), switch(2, 4, 0x700)];
        PgTimelines::new(Tli(1), &StartHistory::default(), &switches, Lsn(end))
    }

    /// A log that begins on timeline 3, inside the segment in which timeline 2 ended.
    fn promoted(end: u64) -> PgTimelines {
        let size = wal_types::SegmentSize::new(1 << 20).unwrap();
        let text = "1\t0/10000\tbefore x\n2\t0/100100\tno recovery target specified\n";
        let past = StartHistory::parse(text, Tli(3), Lsn(0x10_0000), size).unwrap();
        PgTimelines::new(Tli(3), &past, &[switch(3, 5, 0x30_0000)], Lsn(end))
    }

    #[test]
    fn timelines_before_the_log_begin_each_history() {
        let (first, second) = ("1\t0/10000\tbefore x\n", "2\t0/100100\tno recovery target specified\n");
        let content = |end, tli| promoted(end).history_file(Tli(tli)).map(|(_, content)| content);
        assert_eq!(content(0x10_0000, 3).unwrap(), format!("{first}{second}"));
        assert_eq!(content(0x10_0000, 2).unwrap(), first);
        assert_eq!((content(0x10_0000, 1), content(0x10_0000, 5)), (None, None));
        let third = "3\t0/300000\tno recovery target specified\n";
        assert_eq!(content(0x30_0001, 5).unwrap(), format!("{first}{second}{third}"));
    }

    #[test]
    fn timelines_before_the_log_always_count() {
        let empty = promoted(0x10_0000);
        assert_eq!(empty.current(), Tli(3));
        assert_eq!(empty.lookup(Tli(2)), PgTimelineLookup::Ended(switch(2, 3, 0x10_0100)));
        assert_eq!((empty.at(Lsn(0x10_0000)), empty.at(Lsn(0x10_0100))), (Tli(2), Tli(3)));
    }

    #[test]
    fn switch_counts_once_wal_behind_it_is_readable() {
        for (end, current) in [(0x400, 1), (0x500, 1), (0x501, 2), (0x700, 2), (0x701, 4)] {
            assert_eq!(timelines(end).current(), Tli(current), "{end:x}");
        }
    }

    #[test]
    fn position_belongs_to_one_timeline() {
        for (lsn, tli) in [(0x400, 1), (0x4ff, 1), (0x500, 2), (0x6ff, 2), (0x700, 4), (0x900, 4)] {
            assert_eq!(timelines(0x800).at(Lsn(lsn)), Tli(tli), "{lsn:x}");
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
