//! [`TermHistory`]: the terms that wrote a log, and where two logs part.
//!
//! An entry `(term, start)` says: from `start` on, up to the next entry, the WAL was written by the proposer of `term`.
//! Equal term and position mean equal bytes below, so two histories tell where two logs still agree without a look at
//! any byte.
//!
//! Entries may be missing at the front, and entries with empty ranges may be left out: two nodes may hold the same log
//! under histories of different length. Nothing here compares entries by index, therefore. Two histories are compared from
//! the first byte on that both cover. When both name the same term for that byte, the logs are equal below it too. When
//! they do not, the histories are too short to tell where the logs part.

mod common_point;
mod history;
#[cfg(test)]
mod tests;

pub use self::common_point::{LogExtent, common_point};
pub use self::history::{
    HistoryOutOfOrder, NEON_HISTORY_ENTRIES_MAX, TERM_HISTORY_ENTRIES_MAX, TLI_SWITCHES_MAX, TermHistory,
    TermStart, TliSwitch,
};
