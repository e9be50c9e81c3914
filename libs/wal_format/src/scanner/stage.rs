//! [`Stage`]: what a scanner expects next.

use wal_types::Lsn;

use crate::partial_record::{Continuation, PartialRecord};

/// What the next byte is, apart from page headers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// Decided by the header of the first page: the rest of an earlier record, or a record.
    Unknown,
    /// The rest of a record that began before the scan.
    Continuation(Continuation),
    /// A record that begins within the scan, or the place where one would begin.
    Record(PartialRecord),
    /// Padding between the last byte of a record and its aligned end.
    Alignment { start: Option<Lsn>, is_switch: bool },
    /// The unused rest of a segment behind a switch, without page headers. It may hold any bytes: a server that crashed
    /// before it wrote the zeros continues with the next segment, and the old content of the file stays.
    SwitchPadding { start: Option<Lsn> },
    /// Bytes from `from` on that may be switch padding; see [`Continuation::may_be_switch`].
    UnprovenPadding { from: Lsn },
}

impl Stage {
    /// Between two records: one may begin at `start`, or behind a page header there.
    pub(super) const fn between_records(start: Lsn) -> Self {
        Self::Record(PartialRecord::at(start))
    }
}
