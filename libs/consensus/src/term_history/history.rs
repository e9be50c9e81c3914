//! [`TermHistory`]: the terms that wrote a log, oldest first.

use wal_types::{Lsn, Term, Tli};

/// One entry of a history: from `start` on the log was written by the proposer of `term`, on PostgreSQL timeline `tli`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TermStart {
    /// The proposer's term.
    pub term: Term,
    /// First byte of its WAL.
    pub start: Lsn,
    /// PostgreSQL timeline (dialect `neon`: 1).
    pub tli: Tli,
}

/// PostgreSQL's timeline changed from `parent` to `tli` at `at`: one line of a `.history` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TliSwitch {
    /// The timeline that ends.
    pub parent: Tli,
    /// The timeline that begins.
    pub tli: Tli,
    /// Switch point: first byte of the new timeline.
    pub at: Lsn,
}

/// Terms and their start positions, oldest first: terms rise, positions do not fall.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TermHistory(pub(super) Vec<TermStart>);

/// The list is no history: terms must rise, and positions must not fall. Holds the index of the first wrong entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("term history is out of order at entry {0}")]
pub struct HistoryOutOfOrder(pub usize);

/// Most entries of a history of dialect `holdfast`: a new history drops its oldest entries rather than grow beyond.
pub const TERM_HISTORY_ENTRIES_MAX: usize = 1000;

/// Most changes of PostgreSQL's timeline that a log remembers: one is added at each promotion, and the oldest goes.
pub const TLI_SWITCHES_MAX: usize = 1000;

/// Most entries of a history of dialect `neon`, which never drops any: what one message has room for.
pub const NEON_HISTORY_ENTRIES_MAX: usize = 9000;

impl TermHistory {
    /// Checks the order: terms rise strictly, starts do not fall. Fails with the index of the first entry out of order.
    pub fn new(entries: Vec<TermStart>) -> Result<Self, HistoryOutOfOrder> {
        let fault =
            entries.windows(2).position(|pair| pair[0].term >= pair[1].term || pair[0].start > pair[1].start);
        match fault {
            Some(index) => Err(HistoryOutOfOrder(index + 1)),
            None => Ok(Self(entries)),
        }
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[TermStart] {
        &self.0
    }

    /// The newest entry.
    pub fn last(&self) -> Option<TermStart> {
        self.0.last().copied()
    }

    /// The entries that begin at or below `end`. An entry that begins **at** the end is kept: its proposer was elected
    /// on exactly this log. In an election this log must win against one that an older term continued past `end`.
    #[must_use]
    pub fn up_to(&self, end: Lsn) -> Self {
        Self(self.0.iter().copied().take_while(|entry| entry.start <= end).collect())
    }

    /// Term of the last entry that begins at or below `flush_lsn`: with the flush position it orders logs by age.
    pub fn last_log_term(&self, flush_lsn: Lsn) -> Term {
        self.0
            .iter()
            .take_while(|entry| entry.start <= flush_lsn)
            .last()
            .map_or(Term::ZERO, |entry| entry.term)
    }

    /// PostgreSQL timeline of the byte before `lsn`; that of the first entry when no entry begins below `lsn`.
    pub fn tli_at(&self, lsn: Lsn) -> Option<Tli> {
        self.0.iter().take_while(|entry| entry.start < lsn).last().or(self.0.first()).map(|entry| entry.tli)
    }

    /// The history of a proposer that was elected in `term` on a log that ends at `end` with this history.
    ///
    /// Two kinds of entries are left out, so that a database which is started and stopped all day keeps a short history:
    /// entries without a byte in the log, and entries that end below `agreed`, the position up to which every member is
    /// known to hold the same log. What is left covers the last byte that all members have, so two histories can be
    /// compared there. The entry with the highest timeline number always stays: it keeps the number from being given out
    /// twice. While a member is away, `agreed` does not move. A history that still gets longer than
    /// [`TERM_HISTORY_ENTRIES_MAX`] loses its oldest entries too; a safekeeper whose log ends below the entries that are
    /// left cannot follow any more and must be replaced.
    #[must_use]
    pub fn with_election(&self, term: Term, end: Lsn, tli: Tli, agreed: Lsn) -> Self {
        let mut entries = self.up_to(end).0;
        entries.push(TermStart { term, start: end, tli });

        let ends: Vec<Lsn> = entries.iter().skip(1).map(|next| next.start).chain([Lsn::MAX]).collect();
        let needed = |(entry, end): &(TermStart, Lsn)| entry.start < *end && *end >= agreed;
        let highest_needed = entries
            .iter()
            .copied()
            .zip(ends.iter().copied())
            .filter(needed)
            .map(|(entry, _)| entry.tli)
            .max();
        let reserved = entries
            .iter()
            .copied()
            .filter(|entry| Some(entry.tli) > highest_needed)
            .max_by_key(|entry| entry.tli);

        let kept = entries.iter().copied().zip(ends);
        let kept = kept.filter(|pair| needed(pair) || reserved == Some(pair.0)).map(|(entry, _)| entry);
        let mut kept: Vec<TermStart> = kept.collect();
        while kept.len() > TERM_HISTORY_ENTRIES_MAX {
            kept.remove(usize::from(kept.first().copied() == reserved));
        }
        // Entries behind the reserved one were left out. Their bytes must not count as its term's, so it begins later.
        if let Some(at) = kept.iter().position(|entry| Some(*entry) == reserved)
            && let Some(next) = kept.get(at + 1).map(|next| next.start)
        {
            kept[at].start = next;
        }
        Self(kept)
    }

    /// The history of a proposer in dialect `neon`, which appends and never leaves anything out.
    #[must_use]
    pub fn with_election_unpruned(&self, term: Term, end: Lsn) -> Self {
        let mut entries = self.up_to(end).0;
        entries.push(TermStart { term, start: end, tli: Tli::FIRST });
        Self(entries)
    }

    /// The highest PostgreSQL timeline that any proposer was elected with.
    pub fn highest_tli(&self) -> Option<Tli> {
        self.0.iter().map(|entry| entry.tli).max()
    }

    /// The term that wrote the byte at `lsn`.
    pub(super) fn term_of(&self, lsn: Lsn) -> Option<Term> {
        self.0.iter().take_while(|entry| entry.start <= lsn).last().map(|entry| entry.term)
    }
}
