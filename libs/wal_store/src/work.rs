//! [`Work`]: what a replica needs of its disk that may take long, for another thread: a blank segment, or a recovery.
//!
//! Writing a segment of zeros takes 0.1 s and more, and a disk that fails may let a recovery wait for a minute. The
//! thread that acknowledges serves other timelines meanwhile, so it does neither. It takes the work out of the replica,
//! gives it to any thread, and brings back what came of it:
//!
//! ```text
//! replica.take_work() ──> Work ── run(), on any thread ──> WorkDone ──> replica.finish(done)
//! ```
//!
//! At most one work of a replica is out. So a recovery never runs while the blank file of another work is being written,
//! and may remove every unfinished file. Work that is never brought back does no harm: what it wrote has a name that does
//! not count.

use std::time::Duration;

use wal_types::NodeId;

use crate::blank_segment::BlankSegment;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::recover::{Recovered, recover};
use crate::segment::UnreadablePolicy;

/// Time that a caller waits before it offers an undecided message again, and a log before it tries a spare segment again.
pub const RESERVE_RETRY: Duration = Duration::from_secs(1);

/// Work that blocks, and does not need the replica.
#[must_use]
pub struct Work<D: Disk>(pub(crate) Task<D>);

pub(crate) enum Task<D: Disk> {
    Segment(BlankSegment<D>),
    Recovery { disk: D, node: NodeId, unreadable: UnreadablePolicy },
}

/// What came of a [`Work`].
#[must_use]
pub struct WorkDone<D: Disk>(pub(crate) Outcome<D>);

pub(crate) enum Outcome<D: Disk> {
    Segment(Result<(), StoreError>),
    Recovery(Result<Box<Recovered<D>>, StoreError>),
}

impl<D: Disk> Work<D> {
    /// True for a recovery. It may hang for as long as its disk does, so other work should not wait behind it.
    pub fn is_recovery(&self) -> bool {
        matches!(self.0, Task::Recovery { .. })
    }

    /// Does the work. Blocks.
    pub fn run(self) -> WorkDone<D> {
        WorkDone(match self.0 {
            Task::Segment(blank) => Outcome::Segment(blank.write()),
            Task::Recovery { disk, node, unreadable } => {
                Outcome::Recovery(recover(&disk, node, unreadable).map(Box::new))
            }
        })
    }
}
