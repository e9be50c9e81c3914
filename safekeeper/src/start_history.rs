//! [`StartHistory`]: the PostgreSQL timelines before a log, of a cluster that was promoted before its log was created.
//!
//! They are the lines of the primary's history file at that time (PostgreSQL documentation, "Timelines"), which
//! `wal_store` keeps. Readers of a log that begins on timeline 2 or higher ask for it before anything else, and every later
//! history file begins with its lines.

use consensus::{START_HISTORY_BYTES_MAX, TliSwitch};
use thiserror::Error;
use wal_store::Snapshot;
use wal_types::{Lsn, SegmentSize, Tli};

/// The timelines before a log; empty for a log that begins on timeline 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartHistory {
    /// Each switch with its line, the oldest first.
    lines: Vec<(TliSwitch, String)>,
}

/// Why a text is not the history of the timeline that a log begins on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum StartHistoryError {
    #[error("longer than {START_HISTORY_BYTES_MAX} bytes")]
    TooLong,
    #[error("line \"{0}\" is not a timeline number, a WAL position and a reason")]
    Line(String),
    #[error("timeline numbers have to rise and positions must not fall, but not in line \"{0}\"")]
    Order(String),
    #[error("it names no timeline before {0}; expected the text of pg_wal/{0:08X}.history of the primary", .start_tli.0)]
    Empty { start_tli: Tli },
    #[error("timeline {parent} is not before timeline {start_tli}")]
    NotBefore { parent: Tli, start_tli: Tli },
    #[error("timeline {start_tli} begins at {at}, behind the first segment of the log")]
    BeginsLater { start_tli: Tli, at: Lsn },
    #[error("a log that begins on timeline 1 has no earlier timelines")]
    Unexpected,
}

impl StartHistory {
    /// Parses the history file of `start_tli` for a log that begins at `start_lsn`.
    pub(crate) fn parse(
        text: &str,
        start_tli: Tli,
        start_lsn: Lsn,
        segment_size: SegmentSize,
    ) -> Result<Self, StartHistoryError> {
        if text.len() > START_HISTORY_BYTES_MAX {
            return Err(StartHistoryError::TooLong);
        }
        let mut parents: Vec<(Tli, Lsn, String)> = Vec::new();
        for line in text.lines().filter(|line| !is_blank(line)) {
            let (tli, at) = parse_line(line).ok_or_else(|| StartHistoryError::Line(line.to_owned()))?;
            if parents.last().is_some_and(|(before, position, _)| *before >= tli || *position > at) {
                return Err(StartHistoryError::Order(line.to_owned()));
            }
            parents.push((tli, at, line.to_owned()));
        }
        match parents.last() {
            None if start_tli == Tli::FIRST => return Ok(Self::default()),
            None => return Err(StartHistoryError::Empty { start_tli }),
            Some(_) if start_tli == Tli::FIRST => return Err(StartHistoryError::Unexpected),
            Some(&(parent, ..)) if parent >= start_tli => {
                return Err(StartHistoryError::NotBefore { parent, start_tli });
            }
            // The segment that holds the switch has a name of the new timeline.
            Some(&(_, at, _)) if at >= start_lsn.advance(segment_size.bytes().into()) => {
                return Err(StartHistoryError::BeginsLater { start_tli, at });
            }
            Some(_) => {}
        }

        let next = parents.iter().skip(1).map(|(tli, ..)| *tli).chain([start_tli]).collect::<Vec<_>>();
        let lines = parents.into_iter().zip(next);
        let lines = lines.map(|((parent, at, line), tli)| (TliSwitch { parent, tli, at }, line + "\n"));
        Ok(Self { lines: lines.collect() })
    }

    /// The switches before the log and within its first segment, the oldest first, each with its line.
    pub(crate) fn lines(&self) -> &[(TliSwitch, String)] {
        &self.lines
    }

    /// The timelines before the log of this snapshot. A text that is gone or damaged gives none: new readers are refused.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let lineage = &snapshot.lineage;
        let text = snapshot.start_history.as_deref().and_then(|text| str::from_utf8(text).ok());
        let parsed =
            text.map(|text| Self::parse(text, lineage.start_tli, lineage.start_lsn, lineage.segment_size));
        parsed.transpose().ok().flatten().unwrap_or_default()
    }
}

fn is_blank(line: &str) -> bool {
    let line = line.trim_ascii_start();
    line.is_empty() || line.starts_with('#')
}

/// Timeline and switch point of a line.
fn parse_line(line: &str) -> Option<(Tli, Lsn)> {
    let mut fields = line.split_ascii_whitespace();
    let tli = fields.next()?.parse().ok().filter(|tli| *tli > 0)?;
    let at = fields.next()?.parse().ok()?;
    Some((Tli(tli), at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "1\t0/3000060\tno recovery target specified\n\n# by hand\n2\t0/5000F00\tbefore x\n";
    const START: Lsn = Lsn(0x500_0000);

    fn parse(text: &str, start_tli: u32) -> Result<StartHistory, StartHistoryError> {
        StartHistory::parse(text, Tli(start_tli), START, SegmentSize::new(16 << 20).unwrap())
    }

    #[test]
    fn parse_keeps_lines_of_earlier_timelines() {
        let history = parse(TEXT, 3).unwrap();
        let switch = |parent, tli, at| TliSwitch { parent: Tli(parent), tli: Tli(tli), at: Lsn(at) };
        assert_eq!(
            history.lines(),
            [
                (switch(1, 2, 0x300_0060), "1\t0/3000060\tno recovery target specified\n".to_owned()),
                (switch(2, 3, 0x500_0f00), "2\t0/5000F00\tbefore x\n".to_owned()),
            ]
        );
        assert_eq!(parse("", 1), Ok(StartHistory::default()));
    }

    #[test]
    fn parse_refuses_another_clusters_history() {
        let empty = parse("\n", 2).unwrap_err().to_string();
        assert!(empty.ends_with("pg_wal/00000002.history of the primary"), "{empty}");
        for (text, start_tli) in [
            ("1 0/0", 1),
            ("1 0/5000000", 1),
            ("2 0/5000000", 2),
            ("2 0/4000000\n1 0/5000000", 3),
            ("1 0/4000000\n2 0/3000000", 3),
            ("1 0/6000000", 2),
            ("0 0/4000000", 2),
            ("1", 2),
            ("one 0/4000000", 2),
            ("1 0/x", 2),
            (&"1 0/4000000 x\n".repeat(3000), 2),
        ] {
            assert!(parse(text, start_tli).is_err(), "{text:?} {start_tli}");
        }
    }
}
